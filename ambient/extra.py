"""What this benchmark needs beyond the platform: the packages of its extra."""

from __future__ import annotations

from functools import partial

from pipelines.extras import needs_extra

PACKAGES = ("torch", "diffusers", "sklearn", "scipy", "safetensors", "matplotlib", "PIL")

ambient_extra = partial(needs_extra, "ambient", packages=PACKAGES, what="image generators")
