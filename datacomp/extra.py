"""What this benchmark needs beyond the platform: the packages of its extra."""

from __future__ import annotations

from functools import partial

from pipelines.extras import needs_extra

PACKAGES = ("torch", "torchvision", "open_clip", "open_clip_train", "webdataset")

image_extra = partial(needs_extra, "image", packages=PACKAGES, what="CLIP models")
