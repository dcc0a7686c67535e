"""open_clip's image transforms from encoded bytes to floats, compiled, with equal results.

A training transform is a random crop resized to a square; an evaluation's is a resize of the
shorter side and a centre crop; both end with a normalisation. Here the same steps run on arrays:
random numbers are drawn as torchvision draws them, pixels equal Pillow's
(`pipelines.images.fast_decode`), and floats come from a table computed by torch. A transform with
other steps is applied unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    RandomResizedCrop,
    Resize,
)

from pipelines import kernels
from pipelines.images import fast_decode
from pipelines.images.fast_decode import Pixels

BICUBIC = InterpolationMode.BICUBIC


class ImageTransform:
    """Applies an open_clip transform to RGB pixels (height, width, 3) uint8, with equal results."""

    def __init__(self, transform: Any) -> None:
        self._plain = transform
        steps = list(transform.transforms) if isinstance(transform, Compose) else []
        self._crop = next((s for s in steps if isinstance(s, RandomResizedCrop)), None)
        if self._crop is not None:
            ratio = torch.log(torch.tensor(self._crop.ratio))
            self._log_ratio = (float(ratio[0]), float(ratio[1]))
        self._resize = next((s for s in steps if isinstance(s, Resize)), None)
        self._middle = next((s for s in steps if isinstance(s, CenterCrop)), None)
        normalize = next((s for s in steps if isinstance(s, Normalize)), None)
        self.compiled = self._is_known(steps) and normalize is not None
        self._table = _table(normalize) if normalize is not None else None

    def _is_known(self, steps: list[Any]) -> bool:
        """Whether these are exactly the steps that are reimplemented here."""
        names = [type(step).__name__ for step in steps]
        rest = ["MaybeConvertMode", "MaybeToTensor", "Normalize"]
        if names == ["RandomResizedCrop", *rest]:
            return self._crop is not None and self._crop.interpolation == BICUBIC
        if names == ["Resize", "CenterCrop", *rest]:
            step = self._resize
            assert step is not None
            whole = isinstance(step.size, int) and step.max_size is None
            return whole and step.interpolation == BICUBIC
        return False

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """The transformed image, (3, height, width) float32."""
        if not self.compiled:
            made: torch.Tensor = self._plain(Image.fromarray(pixels))
            return made
        resized = self._random(pixels) if self._crop is not None else self._centred(pixels)
        assert self._table is not None
        return torch.from_numpy(kernels.resample.planes(resized, self._table))

    def of_bytes(self, data: bytes) -> torch.Tensor:
        """The same of an encoded image. Raises `pipelines.images.decode.DECODE_ERRORS`."""
        return self(fast_decode.decode(data))

    def _random(self, pixels: Pixels) -> Pixels:
        crop = self._crop
        assert crop is not None
        top, left, height, width = self._place(*pixels.shape[:2])
        part = pixels[top : top + height, left : left + width]
        return fast_decode.resize(part, (int(crop.size[1]), int(crop.size[0])))

    def _place(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random crop.

        The same draws in the same order as torchvision's RandomResizedCrop.get_params, but faster.
        """
        crop = self._crop
        assert crop is not None
        for _ in range(10):
            drawn = torch.empty(1).uniform_(crop.scale[0], crop.scale[1]).item()
            ratio = torch.exp(torch.empty(1).uniform_(*self._log_ratio)).item()
            area = height * width * drawn
            new_width = round(math.sqrt(area * ratio))
            new_height = round(math.sqrt(area / ratio))
            if 0 < new_width <= width and 0 < new_height <= height:
                top = int(torch.randint(0, height - new_height + 1, size=(1,)).item())
                left = int(torch.randint(0, width - new_width + 1, size=(1,)).item())
                return top, left, new_height, new_width
        whole, low, high = width / height, min(crop.ratio), max(crop.ratio)
        new_width, new_height = width, height  # a centre crop with the nearest allowed ratio
        if whole < low:
            new_height = round(width / low)
        elif whole > high:
            new_width = round(height * high)
        return (height - new_height) // 2, (width - new_width) // 2, new_height, new_width

    def _centred(self, pixels: Pixels) -> Pixels:
        resize, middle = self._resize, self._middle
        assert resize is not None
        assert middle is not None
        height, width = pixels.shape[:2]
        short, long = min(height, width), max(height, width)
        other = int(resize.size * long / short)
        size = (resize.size, other) if width <= height else (other, resize.size)
        crop_height, crop_width = (int(side) for side in middle.size)
        if size[0] < crop_width or size[1] < crop_height:
            return np.asarray(middle(resize(Image.fromarray(pixels))))
        left = round((size[0] - crop_width) / 2.0)
        top = round((size[1] - crop_height) / 2.0)
        keep = (left, top, left + crop_width, top + crop_height)
        return fast_decode.resize(pixels, size, keep=keep)


def _table(normalize: Normalize) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The normalised value of each byte in each channel, (3, 256), by open_clip's operations."""
    values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    return normalize(values.expand(3, 1, 256).clone())[:, 0].contiguous().numpy()
