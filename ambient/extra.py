"""A missing package of the extra `ambient` is named by its extra, not by its module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import TrainingError

PACKAGES = ("torch", "diffusers", "sklearn", "scipy", "safetensors", "matplotlib", "PIL")


@contextmanager
def ambient_extra() -> Iterator[None]:
    """TrainingError, with the command that installs it, for a missing package of the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise TrainingError(
            f"the package {package} is not installed; image generators need the extra `ambient`: "
            "pip install -e '.[ambient]'"
        ) from None
