"""Decode an untrusted image to RGB: a fixed list of formats, no helper programs, no clipping.

`Image.open` without a list of formats hands an EPS to Ghostscript and a WMF to the system. Only the
formats below are opened; other formats are refused. Values of 16 bits are scaled to 8; values whose
white is not known (floats, signed integers of 16 bits, 32-bit integers beyond 16 bits) are refused,
because a guess makes the image black or white. (Pillow's own conversion clips at 255.)

A file that ends before its last row is refused as truncated. Pillow says so itself for all formats
but PNG (alone or inside an ICO), whose compressed stream may end in good order with rows missing:
these stay black. `open_image` counts the rows of such a file. A JPEG that is cut and then closed
with its end marker counts as whole, as in the reference: the rest is grey in every decoder.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM"),
)
"""Formats of browsers and cameras. Each is decoded inside this process by Pillow's libraries."""
MAX_PIXELS = 256_000_000
"""A larger image is refused before it is decoded: 768 MB of RGB."""
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, MemoryError, Image.DecompressionBombError),
)
"""Exceptions that Pillow's decoders raise for malformed images or other bytes."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow itself refuses twice as many when it opens a file
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)
"""First column and row, and the steps between them, of the passes of an interlaced PNG."""
_PIECE = 1 << 18  # bytes of rows inflated at a time, only to count them
_PHOTOMETRIC, _SAMPLE_BITS, _SAMPLE_FORMAT = 262, 258, 339  # tags of TIFF
_BLACK_ON_WHITE, _SIGNED = 0, 2  # values of the first and the last of them


class UnknownRange(ValueError):
    """An image whose white level is unknown: floats, signed, or integers beyond 16 bits."""


@cache
def readable() -> tuple[str, ...]:
    """The formats of the list that the installed Pillow has a decoder for."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open encoded bytes, not yet decoded, as one of FORMATS. Raises DECODE_ERRORS.

    If the block decoded the image, leaving it raises OSError for a PNG with missing rows. Pillow's
    warning about many pixels is suppressed: callers compare the size with a limit.
    """
    with Image.open(io.BytesIO(data), formats=readable()) as image:
        yield image
        if image.format in ("PNG", "ICO"):
            _refuse_missing_rows(data, image)


def _refuse_missing_rows(data: bytes, image: Image.Image) -> None:
    """OSError for a decoded PNG whose stream has fewer rows than the image.

    Rows missing from the stream are zeros, so only a file whose last rows are zeros is read again:
    the last two rows, since the last pass of an interlaced file has every second row.
    """
    width, height = image.size
    if getattr(image, "_im", None) is None or not width or not height:
        return  # not decoded
    last = np.asarray(image.crop((0, max(0, height - 2), width, height)))
    if last.reshape(len(last), -1).any(axis=1).all():
        return
    start = data.find(_PNG)
    while start >= 0:
        rows, expected = _png_bytes(data, start)
        if rows < expected:
            raise OSError(f"image file is truncated ({rows} of {expected} bytes of its rows)")
        start = data.find(_PNG, start + len(_PNG))


def _png_bytes(data: bytes, start: int) -> tuple[int, int]:
    """How many bytes of rows the PNG at `start` has, and how many its size needs at least.

    (0, 0) if there is no PNG at `start`.
    """
    position = start + len(_PNG)
    expected = size = 0
    stream = zlib.decompressobj()
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"IHDR" and len(body) == 13:
            expected = _expected_bytes(*struct.unpack(">IIBBBBB", body))
        elif kind == b"IDAT" and size < expected and not stream.eof:
            while body and size < expected and not stream.eof:
                size += len(stream.decompress(body, _PIECE))
                body = stream.unconsumed_tail
        elif kind == b"IEND" or (size and kind != b"IDAT"):
            break
    return size, expected


def _expected_bytes(
    width: int, height: int, depth: int, colour: int, _method: int, _filter: int, interlaced: int
) -> int:
    """The bytes of all rows of a PNG, each with the byte that names its filter."""
    bits = depth * _CHANNELS.get(colour, 1)
    total = 0
    for x, y, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(0, width - x) // across), -(-max(0, height - y) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def fault_of(error: BaseException) -> str:
    """The message of a decoder's error, without memory addresses: equal in every run."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}"


def is_truncated(error: BaseException) -> bool:
    """Whether a decoder's error says that the file ends too early."""
    message = str(error).lower()
    return isinstance(error, OSError) and (
        "truncated" in message or "broken data stream" in message
    )


def rgb(image: Image.Image, *, on_white: bool = True) -> Image.Image:
    """The first frame as 8-bit RGB, on a white background.

    With `on_white` False, transparency is dropped and the colours of transparent pixels show, as in
    open_clip's transform in training and evaluation. UnknownRange if the white level is unknown.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_integers(image, on_white=on_white)
    if on_white and image.mode == "L":
        _scale_key(image)
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


def _scale_key(image: Image.Image) -> None:
    """Scale the transparent grey of a 2- or 4-bit PNG to 8 bits.

    Pillow scales the pixels to 8 bits, but not this key.
    """
    tiles: Any = getattr(image, "tile", None)
    key = image.info.get("transparency")
    raw = str(tiles[0][3]) if tiles else ""
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = key * (255 // (2 ** int(raw[2:]) - 1))


def _from_integers(image: Image.Image, *, on_white: bool) -> Image.Image:
    """Grey values of 0 to 65,535 scaled to 0 to 255 (divided by 257), as RGB.

    A TIFF may have fewer bits (its highest value is white), or white as 0.
    """
    if image.mode == "F":
        raise UnknownRange("values are floats; nothing says which of them is white")
    tags: Any = getattr(image, "tag_v2", {})
    bits = _first(tags.get(_SAMPLE_BITS, 16))
    if bits == 16 and _first(tags.get(_SAMPLE_FORMAT, 1)) == _SIGNED:
        raise UnknownRange("values are signed; nothing says which of them is white")
    inverted = tags.get(_PHOTOMETRIC) == _BLACK_ON_WHITE
    key = image.info.get("transparency")
    values: Any = np.asarray(image)
    if values.size and (int(values.min()) < 0 or int(values.max()) > 0xFFFF):
        raise UnknownRange(
            f"values are {values.min()} to {values.max()}; nothing says which of them is white"
        )
    white = 2**bits - 1 if 8 < bits < 16 else 0xFFFF
    wide = np.minimum(values.astype(np.uint32), white)
    if inverted:
        wide = white - wide
    grey = ((wide * 255 + white // 2) // white).astype(np.uint8)
    if on_white and isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey, "L").convert("RGB")


def _first(value: Any) -> int:
    """The value of a tag that may have one for each channel."""
    return int(value[0] if isinstance(value, tuple) else value)


def _without_colour(image: Image.Image, key: Any) -> Image.Image:
    """An RGB image with one transparent colour (PNG's tRNS), which becomes white.

    Pillow reduces 16-bit colours to their high byte, but leaves the transparent one in 16 bits.
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
