"""Decode an untrusted image to RGB: a fixed list of formats, no helper programs, no clipping.

`Image.open` without a list of formats hands an EPS to Ghostscript and a WMF to the system. Only the
formats below are opened; other formats are refused. Values of 16 bits are scaled to 8; values whose
white is not known (floats, 32-bit integers beyond 16 bits) are refused, because a guess makes the
image black or white. (Pillow's own conversion clips at 255.)
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM"),
)
"""What browsers and cameras write. Each is decoded inside this process, by Pillow's libraries."""
MAX_PIXELS = 256_000_000
"""A larger image is refused before it is decoded: 768 MB of RGB."""
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, MemoryError, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for bytes that are not an image, or only nearly so."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow itself refuses twice as many when it opens a file
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class UnknownRange(ValueError):
    """An image whose numbers do not say what is white: floats, or integers beyond 16 bits."""


@cache
def readable() -> tuple[str, ...]:
    """The formats of the list that the installed Pillow has a decoder for."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open encoded bytes, not yet decoded, as one of FORMATS. Raises DECODE_ERRORS.

    Pillow's warning of many pixels is silent: callers compare the size with a limit.
    """
    with Image.open(io.BytesIO(data), formats=readable()) as image:
        yield image


def fault_of(error: BaseException) -> str:
    """The message of a decoder's error, equal in every run: without addresses in memory."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}"


def is_truncated(error: BaseException) -> bool:
    """Whether the decoder says that the file ends too early."""
    message = str(error).lower()
    return isinstance(error, OSError) and (
        "truncated" in message or "broken data stream" in message
    )


def rgb(image: Image.Image, *, on_white: bool = True) -> Image.Image:
    """The first frame in three colours of 8 bits; what is transparent is white.

    With `on_white` False, transparency is dropped and the colours below it show, which is what
    open_clip's transform does in training and evaluation. UnknownRange where white is not known.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_integers(image, on_white=on_white)
    if not on_white:
        return image if image.mode == "RGB" and _loaded(image) else image.convert("RGB")
    key = image.info.get("transparency")
    if image.mode == "RGB" and key is not None:
        return _without_colour(image, key)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or key is not None:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def decode_rgb(data: bytes, *, on_white: bool = False) -> Image.Image:
    """Encoded bytes as an RGB image. Raises DECODE_ERRORS."""
    with open_image(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,}")
        return rgb(image, on_white=on_white)


def _loaded(image: Image.Image) -> bool:
    image.load()
    return True


def _from_integers(image: Image.Image, *, on_white: bool) -> Image.Image:
    """Grey values of 0 to 65,535 divided by 257, so that white stays white."""
    if image.mode == "F":
        raise UnknownRange("values are floats; nothing says which of them is white")
    key = image.info.get("transparency")
    values: Any = np.asarray(image)
    if values.size and (int(values.min()) < 0 or int(values.max()) > 0xFFFF):
        raise UnknownRange(
            f"values are {values.min()} to {values.max()}; nothing says which of them is white"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if on_white and isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey, "L").convert("RGB")


def _without_colour(image: Image.Image, key: Any) -> Image.Image:
    """An RGB image with one transparent colour (PNG's tRNS), that colour on white.

    Of 16-bit colours Pillow keeps the high byte, but names the transparent one in 16 bits.
    """
    tiles: Any = getattr(image, "tile", None)  # how the file is read: the depth that it has
    deep = bool(tiles) and str(tiles[0][3]).endswith("16B")
    image.load()
    if not isinstance(key, tuple) or len(key) != 3:
        return image
    colour = np.array([value >> 8 for value in key] if deep else key)
    pixels = np.array(image)
    pixels[(pixels == colour).all(axis=2)] = 255
    return Image.fromarray(pixels)
