"""A downloaded picture as the pool keeps it: smaller, faces blurred, a JPEG.

Longest side at most 512 pixels, only if bigger, by area; transparent pictures on white; quality 95
(img2dataset's settings of the reference). Faces: each box grown by a tenth of its longer side, and
inside them all the picture blurred with a deviation of a tenth of the largest box. (Gadre et al.
2023, appendix on faces; img2dataset's BoundingBoxBlurrer)
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from pipelines.records import Frozen

EXIF_TAGS = 64  # more than that is no description of a picture
JPEG_DRAFT = 2  # decode a JPEG at a fraction of its size where it stays this many times too big


class ResizeOptions(Frozen):
    """What becomes of a picture."""

    image_size: int = 512
    quality: int = 95
    blur_faces: bool = True
    max_pixels: int = 100_000_000


class PictureRefused(ValueError):
    """Bytes that give no picture: `reason` is a word to count by."""

    def __init__(self, reason: str, told: str = "") -> None:
        super().__init__(told or reason)
        self.reason = reason


@dataclass(frozen=True)
class Kept:
    """The picture as it is stored, its size, the size that it came with, and its exif as JSON."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str


def keep(data: bytes, boxes: Sequence[Sequence[float]] | None, options: ResizeOptions) -> Kept:
    """Decode, resize, blur, encode. PictureRefused, before decoding, for too many pixels.

    `boxes` are faces as (left, top, right, bottom) in shares of the picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > options.max_pixels:
                raise PictureRefused("too_many_pixels", f"{width} x {height}")
            exif = _exif(opened)
            target = fitted(width, height, options.image_size)
            if target != (width, height) and opened.format == "JPEG":
                opened.draft("RGB", (JPEG_DRAFT * target[0], JPEG_DRAFT * target[1]))
            picture = on_white(opened)
    except PictureRefused:
        raise
    except Image.DecompressionBombError as error:
        raise PictureRefused("too_many_pixels", str(error)) from None
    except Exception as error:  # decoders of dozens of formats raise whatever they like
        raise PictureRefused("not_a_picture", f"{type(error).__name__}: {error}") from None
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.BOX)
    if boxes and options.blur_faces:
        picture = blur(picture, boxes)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=options.quality)
    return Kept(out.getvalue(), *picture.size, width, height, exif)


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size with the longer side at most `longest`, proportions kept, a pixel at least."""
    if max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def on_white(picture: Image.Image) -> Image.Image:
    """The first frame in three colours; what is transparent is white."""
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture.convert("RGB")


def blur(picture: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """The picture with these boxes blurred, softly at their borders."""
    mask = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(mask)
    largest = 0.0
    for left, top, right, bottom in boxes:
        x0, x1 = left * picture.width, right * picture.width
        y0, y1 = top * picture.height, bottom * picture.height
        side = max(x1 - x0, y1 - y0)
        if side <= 0:
            continue
        largest = max(largest, side)
        grown = 0.1 * side
        pen.rectangle(
            (
                max(0, int(x0 - grown)),
                max(0, int(y0 - grown)),
                min(picture.width, int(x1 + grown)) - 1,
                min(picture.height, int(y1 + grown)) - 1,
            ),
            fill=255,
        )
    if largest <= 0:
        return picture
    soft = ImageFilter.GaussianBlur(0.1 * largest)
    return Image.composite(picture.filter(soft), picture, mask.filter(soft))


def _exif(picture: Image.Image) -> str:
    """The exif tags as a JSON object of strings, empty where there are none or they are broken."""
    try:
        tags: Any = picture.getexif()
        found = {str(tag): str(value)[:1000] for tag, value in list(tags.items())[:EXIF_TAGS]}
    except Exception:  # a description is no reason to lose the picture
        found = {}
    return json.dumps(found)
