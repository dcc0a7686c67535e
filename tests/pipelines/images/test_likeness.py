"""Copies of images are found at other sizes and qualities, and other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.images.likeness import copies, likeness, stacked


def drawing(seed: int, side: int = 160) -> Image.Image:
    """Rectangles and ellipses of chance."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for number in range(12):
        x, y = rng.integers(0, side - 20, 2).tolist()
        width, height = rng.integers(10, side // 2, 2).tolist()
        box = (x, y, x + width, y + height)
        shape = draw.rectangle if number % 2 else draw.ellipse
        shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


KNOWN = [drawing(seed) for seed in range(20)]


def places(*others: bytes) -> list[int]:
    known = stacked([likeness(encoded(image)) for image in KNOWN])
    return copies(known, stacked([likeness(other) for other in others])).tolist()


@pytest.mark.parametrize("side", [64, 100, 640])
@pytest.mark.parametrize("quality", [50, 90])
def test_a_copy_of_another_size_and_quality_is_places(side: int, quality: int) -> None:
    others = [
        encoded(image.resize((side, side)), "JPEG", quality=quality) for image in KNOWN[3:9:2]
    ]
    assert places(*others) == [3, 5, 7]


def test_other_images_are_not_places() -> None:
    assert places(*(encoded(drawing(seed)) for seed in range(100, 300))) == []


def test_a_mirrored_image_a_crop_and_other_colours_are_no_copies() -> None:
    image = KNOWN[0]
    swapped = Image.fromarray(np.asarray(image)[:, :, ::-1].copy())
    others = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.crop((0, 0, 110, 110))]
    assert places(*(encoded(other) for other in [*others, swapped])) == []


@pytest.mark.parametrize(
    "image", [Image.new("RGB", (64, 64), "red"), KNOWN[0].resize((12, 12))], ids=["plain", "small"]
)
def test_what_is_plain_or_small_is_like_nothing(image: Image.Image) -> None:
    described = stacked([likeness(encoded(image))])
    assert described.plain.tolist() == [True]
    assert copies(described, described).tolist() == []


def test_no_images_have_no_copies() -> None:
    assert places() == []
    assert copies(stacked([]), stacked([likeness(encoded(KNOWN[0]))])).tolist() == []
