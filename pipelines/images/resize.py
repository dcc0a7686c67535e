"""A downloaded image as the pool keeps it: smaller, faces blurred, a JPEG.

Longest side at most 512 pixels, only if bigger, by area; transparent images on white; quality 95
(img2dataset's settings of the reference). Faces: each box grown by a tenth of its longer side, and
inside them all the image blurred with a deviation of a tenth of the largest box. (Gadre et al.
2023, appendix on faces; img2dataset's BoundingBoxBlurrer)
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from pipelines.images.decode import UnknownRange, fault_of, is_truncated, open_image, rgb
from pipelines.records import Frozen

EXIF_TAGS = 64  # more than that is not a description of an image
Box = tuple[float, float, float, float]
JPEG_DRAFT = 2  # decode a JPEG at a fraction of its size where it stays this many times too big


class ResizeOptions(Frozen):
    """What becomes of an image."""

    image_size: int = 512
    quality: int = 95
    blur_faces: bool = True
    max_pixels: int = 100_000_000


class ImageRefused(ValueError):
    """Bytes that give no image: `reason` is a word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True)
class Kept:
    """The image as it is stored, its size, the size that it came with, and its exif as JSON.

    `bad_boxes`: faces whose box is outside the image, or is none.
    """

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str
    bad_boxes: int = 0


def keep(data: bytes, boxes: object, options: ResizeOptions) -> Kept:
    """Decode, resize, blur, encode. ImageRefused, before decoding, for too many pixels.

    `boxes` are faces as (left, top, right, bottom) in shares of the image, or None. A box that is
    none, or is outside, is left out and counted: nobody's table may end a run.
    """
    try:
        with open_image(data) as opened:
            width, height = opened.size
            if width * height > options.max_pixels:
                raise ImageRefused("too_many_pixels", f"{width} x {height}")
            target = fitted(width, height, options.image_size)
            if target != (width, height) and opened.format == "JPEG":
                opened.draft("RGB", (JPEG_DRAFT * target[0], JPEG_DRAFT * target[1]))
            image = rgb(opened)
            # Behind the decoding: asked before, Pillow decodes a PNG for it, and a fault that is
            # met there is not met again.
            exif = _exif(opened)
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("too_many_pixels", str(error)) from None
    except UnknownRange as error:
        raise ImageRefused("unknown_range", str(error)) from None
    except Exception as error:  # decoders of dozens of formats raise whatever they like
        reason = "truncated" if is_truncated(error) else "not_a_picture"
        raise ImageRefused(reason, fault_of(error)) from None
    if image.size != target:
        image = image.resize(target, Image.Resampling.BOX)
    bad = 0
    if options.blur_faces:
        faces, bad = checked_boxes(boxes)
        image, outside = blur(image, faces)
        bad += outside
    out = io.BytesIO()
    image.save(out, "JPEG", quality=options.quality)
    return Kept(out.getvalue(), *image.size, width, height, exif, bad)


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size with the longer side at most `longest`, proportions kept, a pixel at least."""
    if max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def checked_boxes(boxes: object) -> tuple[list[Box], int]:
    """The boxes that are four finite numbers, and how many are anything else."""
    if boxes is None:
        return [], 0
    if not isinstance(boxes, list | tuple):
        return [], 1
    good: list[Box] = []
    for box in boxes:
        if not isinstance(box, list | tuple) or len(box) != 4:
            continue
        if all(isinstance(value, int | float) and math.isfinite(value) for value in box):
            good.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return good, len(boxes) - len(good)


def blur(image: Image.Image, boxes: Sequence[Box]) -> tuple[Image.Image, int]:
    """The image with these boxes blurred, softly at their borders, and how many were outside.

    A box counts as outside when it covers no pixel: beyond the border, or narrower than a pixel.
    """
    mask = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(mask)
    largest, outside = 0.0, 0
    for box in boxes:
        drawn = _rectangle(box, image.width, image.height)
        if drawn is None:
            outside += 1
            continue
        side, corners = drawn
        largest = max(largest, side)
        pen.rectangle(corners, fill=255)
    if largest <= 0:
        return image, outside
    soft = ImageFilter.GaussianBlur(0.1 * largest)
    return Image.composite(image.filter(soft), image, mask.filter(soft)), outside


def _rectangle(box: Box, width: int, height: int) -> tuple[float, tuple[int, int, int, int]] | None:
    """The longer side of a box in pixels, and the corners of it grown by a tenth of that side.

    None where that covers no pixel. A side beyond the image's own counts as the image's.
    """
    limit = 1e6  # of the image's size: int() of a float beyond takes hundreds of digits
    left, top, right, bottom = (min(max(value, -limit), limit) for value in box)
    x0, x1, y0, y1 = left * width, right * width, top * height, bottom * height
    if x1 <= x0 or y1 <= y0:
        return None
    side = min(max(x1 - x0, y1 - y0), float(max(width, height)))
    grown = 0.1 * side
    corners = (
        max(0, int(x0 - grown)),
        max(0, int(y0 - grown)),
        min(width, int(x1 + grown)) - 1,
        min(height, int(y1 + grown)) - 1,
    )
    if corners[2] < corners[0] or corners[3] < corners[1]:
        return None
    return side, corners


def _exif(image: Image.Image) -> str:
    """The exif tags as a JSON object of strings, empty where there are none or they are broken."""
    try:
        tags: Any = image.getexif()
        fields = {str(tag): str(value)[:1000] for tag, value in list(tags.items())[:EXIF_TAGS]}
    except Exception:  # a description is no reason to lose the image
        fields = {}
    return json.dumps(fields)
