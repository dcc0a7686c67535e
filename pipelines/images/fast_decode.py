"""Decode and resize with the fastest code whose pixels equal Pillow's.

YCbCr and grey JPEGs are decoded by simplejpeg (libjpeg-turbo without Pillow's copies) and resized
by `pipelines.kernels.resample`. Once per process both are compared with the installed Pillow on
generated images of many shapes; if a single byte differs, Pillow is used instead and `path()` says
so. Damaged files and all other formats are always read by Pillow.
"""

from __future__ import annotations

import importlib
import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines import kernels
from pipelines.images.decode import MAX_PIXELS, decode_rgb

Pixels = npt.NDArray[np.uint8]
JPEG_MAGIC = b"\xff\xd8\xff"
COLOURS = ("YCbCr", "Gray")  # colour spaces of a file; CMYK and RGB are left to Pillow
SHAPES = ((37, 53), (64, 48), (96, 31), (120, 29), (8, 8), (1, 7), (75, 110))
SIZES = ((24, 24), (19, 40), (60, 60), (33, 7))  # sizes that the test images are resized to


def decode(data: bytes) -> Pixels:
    """Encoded bytes as RGB pixels (height, width, 3), as `decode_rgb` gives them; same errors."""
    jpeg = _simplejpeg()
    if jpeg is not None and data.startswith(JPEG_MAGIC):
        pixels = _decode_jpeg(jpeg, data)
        if pixels is not None:
            return pixels
    return np.asarray(decode_rgb(data))


def _decode_jpeg(jpeg: Any, data: bytes) -> Pixels | None:
    """The pixels of an intact JPEG; None if Pillow must decode it or report what is wrong."""
    try:
        height, width, colours, _ = jpeg.decode_jpeg_header(data)
        if colours not in COLOURS or height * width > MAX_PIXELS:
            return None
        pixels: Pixels = jpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    except ValueError:  # raised for warnings as well; Pillow decides which are errors
        return None
    return pixels


def resize(
    image: Pixels, size: tuple[int, int], *, keep: tuple[int, int, int, int] | None = None
) -> Pixels:
    """Pillow's bicubic resize to (width, height), as (height, width, 3) uint8.

    `keep` (left, top, right, bottom) crops the result.
    """
    if _resample_is_equal():
        return kernels.resample.resize(image, size, keep=keep)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized if keep is None else resized.crop(keep))


def path() -> str:
    """Which code decodes and resizes in this process, for records and benchmarks."""
    decoder = "simplejpeg" if _simplejpeg() is not None else "Pillow"
    return f"{decoder}, {'compiled resize' if _resample_is_equal() else 'Pillow resize'}"


@cache
def _simplejpeg() -> Any:
    """The module, or None if it is not installed or its pixels differ from Pillow's."""
    try:
        jpeg = importlib.import_module("simplejpeg")
    except ImportError:
        return None
    for number, shape in enumerate(SHAPES):
        for options in (
            {"quality": 95, "subsampling": 0},
            {"quality": 75, "subsampling": 2},
            {"quality": 90, "subsampling": 1, "progressive": True},
        ):
            out = io.BytesIO()
            Image.fromarray(_noise(number, shape)).save(out, "JPEG", **options)  # type: ignore[arg-type]
            pixels = _decode_jpeg(jpeg, out.getvalue())
            if pixels is None or not np.array_equal(pixels, _by_pillow(out.getvalue())):
                return None
        out = io.BytesIO()
        Image.fromarray(_noise(number, shape)).convert("L").save(out, "JPEG", quality=80)
        grey = _decode_jpeg(jpeg, out.getvalue())
        if grey is None or not np.array_equal(grey, _by_pillow(out.getvalue())):
            return None
    return jpeg


@cache
def _resample_is_equal() -> bool:
    """Whether the compiled filter gives Pillow's bytes, for every shape and size of the check."""
    for number, shape in enumerate(SHAPES):
        image = _noise(number, shape)
        for size in SIZES:
            expected = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
            if not np.array_equal(kernels.resample.resize(image, size), np.asarray(expected)):
                return False
    return True


def _by_pillow(data: bytes) -> Pixels:
    return np.asarray(decode_rgb(data))


def _noise(seed: int, shape: tuple[int, int]) -> Pixels:
    """Random black, white and grey pixels, so that the filter's sums are clipped at both ends."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (*shape, 3))
    hard = np.where(rng.random((*shape, 3)) < 0.5, (values > 127) * 255, values)
    return np.ascontiguousarray(hard, dtype=np.uint8)
