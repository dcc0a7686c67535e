"""A short description of an image that is similar for copies of other sizes, qualities and formats.

`shape` is the lowest frequencies of the grey image (like a perceptual hash, but not reduced to
bits: in symmetric drawings half of the bits would depend on a codec's noise), `colours` a
thumbnail. Two images are copies if their shapes correlate and their thumbnails agree. Crops,
mirrored images and images with a changed caption in them are not copies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.images.decode import MAX_PIXELS, open_image, rgb

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

SIDE = 32  # of the image in grey that is transformed (Zauner 2010)
LOW = 7  # frequencies on a side
SHAPE = LOW * LOW - 1  # without the mean
THUMBNAIL = 8  # pixels a side of the colours that are compared
COLOURS = THUMBNAIL * THUMBNAIL * 3
# Four pixels per pixel of `SIDE`: a JPEG is decoded at down to an eighth of its size if the result
# is at least this large.
DRAFT_SIDE = 128
MIN_SIDE = 16  # an image with a shorter side has too few pixels for a shape
MIN_CONTRAST = 4.0  # standard deviation of grey levels; below, the shape is mostly codec noise

MIN_CORRELATION = 0.99
MAX_DIFFERENCE = 4.0
"""Mean difference of the thumbnails, of 255. 300 images of at least `MIN_SIDE` pixels were saved
again as JPEG at quality 60 to 95 and 32 to 200 pixels: every copy is within both limits."""
BLOCK = 16_384  # rows of a matrix of correlations in memory at a time, for 1,024 columns


class Likeness(NamedTuple):
    """Shapes (images, SHAPE) of length 1, or all 0 for plain images; colours (images, COLOURS)."""

    shape: Floats
    colours: Bytes

    @property
    def plain(self) -> npt.NDArray[np.bool_]:
        """Images that are too small or too plain to be recognised."""
        return np.logical_not(np.any(self.shape, axis=1))


def likeness(data: bytes) -> tuple[Floats, Bytes]:
    """Shape and colours of an encoded image on white. Raises DECODE_ERRORS."""
    with open_image(data) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, at most {MAX_PIXELS:,}")
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
        colours = rgb(image)
    grey = colours.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    small = colours.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.float64)
    shape = np.zeros(SHAPE, np.float32)
    if min(width, height) >= MIN_SIDE and pixels.std() >= MIN_CONTRAST:
        low = (_DCT @ pixels @ _DCT.T)[:LOW, :LOW].reshape(-1)[1:]
        shape = (low / np.linalg.norm(low)).astype(np.float32)
    return shape, np.asarray(small).reshape(-1)


def stacked(described: list[tuple[Floats, Bytes]]) -> Likeness:
    """The descriptions of several images as two arrays."""
    if not described:
        return Likeness(np.zeros((0, SHAPE), np.float32), np.zeros((0, COLOURS), np.uint8))
    shapes, colours = zip(*described, strict=True)
    return Likeness(np.stack(shapes), np.stack(colours))


def copies(known: Likeness, others: Likeness) -> npt.NDArray[np.int64]:
    """The rows of `known` that have a copy in `others`, each once, ascending."""
    hits = [np.zeros(0, np.int64)]
    for start in range(0, len(known.shape), BLOCK):
        near = known.shape[start : start + BLOCK] @ others.shape.T >= MIN_CORRELATION
        own, other = np.nonzero(near)
        own += start
        difference = np.abs(
            known.colours[own].astype(np.int16) - others.colours[other].astype(np.int16)
        )
        hits.append(own[difference.mean(axis=1) <= MAX_DIFFERENCE])
    return np.unique(np.concatenate(hits))


def _dct() -> npt.NDArray[np.float64]:
    """The matrix of the type-II cosine transform, (frequency, position)."""
    positions = np.arange(SIDE)
    return np.cos(np.pi * (2 * positions[None, :] + 1) * positions[:, None] / (2 * SIDE))


_DCT = _dct()
