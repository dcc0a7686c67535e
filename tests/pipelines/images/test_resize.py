"""A downloaded image as the pool keeps it, and bytes that are not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.images.resize import ImageRefused, ResizeOptions, fitted, keep

OPTIONS = ResizeOptions()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((513, 100), (512, 100)),
        ((1024, 512), (512, 256)),
        ((100, 30), (100, 30)),
        ((100_000, 1), (512, 1)),
    ],
)
def test_only_what_is_bigger_gets_smaller(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(*size, 512) == expected


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_becomes_a_jpeg_of_the_right_size(format: str) -> None:
    kept = keep(encoded(Image.new("RGB", (1200, 600), "navy"), format), None, OPTIONS)
    image = opened(kept.data)
    assert (image.format, image.size) == ("JPEG", (512, 256))
    assert (kept.width, kept.height) == (512, 256)
    assert (kept.original_width, kept.original_height) == (1200, 600)
    assert np.abs(np.asarray(image)[..., 2].astype(int) - 128).max() < 6


def test_what_is_transparent_is_white() -> None:
    kept = keep(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0))), None, OPTIONS)
    assert np.asarray(opened(kept.data)).min() > 250


def test_a_face_is_blurred_and_the_rest_is_not() -> None:
    image = noise(200, 200)
    plain = np.asarray(opened(keep(encoded(image), None, OPTIONS).data)).astype(int)
    boxes = [[0.4, 0.4, 0.6, 0.6]]
    hidden = np.asarray(opened(keep(encoded(image), boxes, OPTIONS).data)).astype(int)
    assert hidden[90:110, 90:110].std() < 0.35 * plain[90:110, 90:110].std()
    assert np.array_equal(hidden[:40], plain[:40])
    shown = ResizeOptions(blur_faces=False)
    assert np.array_equal(np.asarray(opened(keep(encoded(image), boxes, shown).data)), plain)


@pytest.mark.parametrize("boxes", [[], [[0.5, 0.5, 0.5, 0.5]], [[-1.0, -1.0, 2.0, 2.0]]])
def test_boxes_without_extent_or_beyond_the_image_do_no_harm(boxes: list[list[float]]) -> None:
    assert opened(keep(encoded(noise(50, 40)), boxes, OPTIONS).data).size == (50, 40)


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = bomb(20_000)
    assert len(data) < 100_000
    with pytest.raises(ImageRefused) as error:
        keep(data, None, OPTIONS)
    assert error.value.reason == "too_many_pixels"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff", b"x" * 10_000])
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageRefused) as error:
        keep(data, None, OPTIONS)
    assert error.value.reason == "not_a_picture"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damaged_images_are_kept_or_refused_and_nothing_else(format: str) -> None:
    good = encoded(noise(64, 48), format)
    rng = np.random.default_rng(len(good))
    kept = 0
    reasons = set()
    for _ in range(220):
        data = bytearray(good)
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        for _ in range(int(rng.integers(0, 12))):
            if data:
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            opened(keep(bytes(data), None, OPTIONS).data)
            kept += 1
        except ImageRefused as error:
            reasons.add(error.reason)
    assert "not_a_picture" in reasons
    assert reasons <= {"not_a_picture", "too_many_pixels", "truncated"}
    assert 0 < kept < 220


WHOLE = [0.25, 0.25, 0.75, 0.75]
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "box",
    [
        *([1.2, 0.1, 1.4, 0.3], [-0.4, 0.1, -0.2, 0.3], [0.1, 1.5, 0.3, 1.9], [0.1, -9, 0.3, -8]),
        *([0.5, 0.5, 0.5, 0.9], [0.75, 0.25, 0.25, 0.75], [0.75, 0.75, 0.25, 0.25]),
        *([0.501, 0.501, 0.502, 0.502], [100.0, 100.0, 200.0, 200.0], [1e300, 0, 2e300, 1]),
        *([NAN] * 4, [0.1, 0.1, INF, 0.4], [0.1, 0.1, 0.2], [0.1, 0.1, 0.2, 0.2, 0.9], []),
        *(None, "0.1,0.1,0.4,0.4", 0.5, {"x": 1}, ["0.1", "0.1", "0.4", "0.4"]),
    ],
)
def test_what_is_no_box_in_the_image_is_left_out_and_counted(box: object) -> None:
    data = encoded(noise(100, 100))
    alone = keep(data, [box], OPTIONS)
    assert (alone.data, alone.bad_boxes) == (keep(data, None, OPTIONS).data, 1)
    beside = keep(data, [box, WHOLE], OPTIONS)
    assert (beside.data, beside.bad_boxes) == (keep(data, [WHOLE], OPTIONS).data, 1)


@pytest.mark.parametrize("boxes", ["0.1 0.2", 7, {"box": WHOLE}])
def test_boxes_that_are_no_list_are_counted(boxes: object) -> None:
    assert keep(encoded(noise(30, 30)), boxes, OPTIONS).bad_boxes == 1


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [0.0, 0.0, 50.0, 50.0], [-1e300, -1e300, 1e9, 1e9]])
def test_a_box_beyond_the_image_is_clipped_to_it(box: list[float]) -> None:
    """The whole image is blurred, with the deviation of a box as large as it."""
    data = encoded(noise(60, 60))
    kept = keep(data, [box], OPTIONS)
    assert kept.bad_boxes == 0
    assert np.asarray(opened(kept.data)).std() < 12  # noise has 74


def test_a_image_of_one_pixel_has_no_faces() -> None:
    kept = keep(encoded(Image.new("RGB", (1, 1))), [WHOLE], OPTIONS)
    assert (kept.width, kept.height, kept.bad_boxes) == (1, 1, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(noise(64, 64), "JPEG")[:-2], "truncated"),
        (encoded(noise(64, 64), "JPEG")[:900], "truncated"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "unknown_range"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_a_picture"),
    ],
)
def test_the_word_says_what_is_wrong(data: bytes, reason: str) -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(ImageRefused) as error:
            keep(data, None, OPTIONS)
        messages.add(str(error.value))
    assert error.value.reason == reason
    assert len(messages) == 1


def test_a_fault_in_a_png_is_not_hidden_by_its_description() -> None:
    """Pillow decodes a PNG when it is asked for its exif tags, and reports a fault only once."""
    whole = encoded(noise(40, 40))
    position = whole.index(b"IDAT") + 200
    damaged = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
    with pytest.raises(ImageRefused) as error:
        keep(damaged, None, OPTIONS)
    assert error.value.reason in ("truncated", "not_a_picture")


def test_a_transparent_colour_of_sixteen_bits_is_white_in_what_is_kept() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    colour = struct.pack(">HHH", 200 * 257, 10 * 257, 20 * 257)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, 16, 2, 0, 0, 0))
    data += chunk(b"tRNS", colour) + chunk(b"IDAT", zlib.compress(b"\0" + colour * 8))
    image = opened(keep(data + chunk(b"IEND", b""), None, OPTIONS).data)
    assert np.asarray(image)[0, 0].min() > 250
