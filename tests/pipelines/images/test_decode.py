"""Untrusted images: which formats are opened, what 16 bits become, where white is."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.images.decode import (
    DECODE_ERRORS,
    UnknownRange,
    decode_rgb,
    fault_of,
    is_truncated,
    open_image,
    rgb,
)
from pipelines.images.fast_decode import decode


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def on_white(data: bytes) -> np.ndarray:
    with open_image(data) as image:
        return np.asarray(rgb(image))


def png(
    depth: int,
    colour: int,
    row: bytes,
    width: int,
    *,
    trns: bytes = b"",
    height: int = 1,
    palette: bytes = b"",
) -> bytes:
    """A PNG of one row (of `height`), chunk by chunk: what Pillow itself does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    head += chunk(b"PLTE", palette) if palette else b""
    key = chunk(b"tRNS", trns) if trns else b""
    rows = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + key + rows + chunk(b"IEND", b"")


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
0 0 9 9 rectfill showpage
%%EOF
"""


def test_no_helper_program_is_run_for_an_eps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\necho run >> {ran}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Image.UnidentifiedImageError) as error:
        decode_rgb(EPS)
    assert not ran.exists()
    assert fault_of(error.value) == "no known image format"


@pytest.mark.parametrize("format", ["PCX", "SGI", "TGA", "IM", "MSP"])
def test_formats_that_are_not_listed_are_no_images(format: str) -> None:
    data = encoded(Image.new("1" if format == "MSP" else "RGB", (8, 8)), format)
    with pytest.raises(Image.UnidentifiedImageError):
        decode_rgb(data)


def test_sixteen_bits_of_grey_are_scaled() -> None:
    values = np.array([[0, 257, 32_768, 65_535]], np.uint16)
    for data in (
        encoded(Image.fromarray(values)),
        encoded(Image.fromarray(values), "TIFF"),
        encoded(Image.fromarray(values.astype(np.int32)), "TIFF"),
    ):
        for decoded in (on_white(data), np.asarray(decode_rgb(data))):
            assert decoded[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("values", [[0.5], [70_000], [-1]])
def test_numbers_whose_white_is_not_known_are_refused(values: list[float]) -> None:
    kind = np.float32 if isinstance(values[0], float) else np.int32
    data = encoded(Image.fromarray(np.array([values], kind)), "TIFF")
    with pytest.raises(UnknownRange, match="which of them is white"):
        on_white(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # RGB, 8 bits: red is transparent
        (png(8, 2, b"\xff\0\0\0\xff\0", 2, trns=b"\0\xff\0\0\0\0"), [[255] * 3, [0, 255, 0]]),
        # RGB, 16 bits: the transparent colour is named in 16 bits
        (
            png(16, 2, b"\x80\0\0\0\0\0\0\0\x80\0\0\0", 2, trns=b"\x80\0\0\0\0\0"),
            [[255] * 3, [0, 128, 0]],
        ),
        # grey, 8 bits: black is transparent
        (png(8, 0, b"\0\x80", 2, trns=b"\0\0"), [[255] * 3, [128] * 3]),
        # grey, 16 bits
        (png(16, 0, b"\0\0\x80\0", 2, trns=b"\0\0"), [[255] * 3, [128] * 3]),
        # grey, 4 and 2 bits: values are widened to 8 bits, and so is the key
        (png(4, 0, b"\x5f", 2, trns=b"\0\x05"), [[255] * 3, [255] * 3]),
        (png(2, 0, b"\x60", 2, trns=b"\0\x01"), [[255] * 3, [170] * 3]),
        # grey, 1 bit
        (png(1, 0, b"\x40", 2, trns=b"\0\0"), [[255] * 3, [255] * 3]),
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0))), [[255] * 3]),
        (encoded(Image.new("LA", (1, 1), (0, 0))), [[255] * 3]),
    ],
    ids=["rgb", "rgb16", "grey", "grey16", "grey4", "grey2", "bit", "rgba", "la"],
)
def test_what_is_transparent_is_white_in_every_mode(data: bytes, expected: list[list[int]]) -> None:
    assert on_white(data)[0].tolist() == expected


def tiff(values: np.ndarray, *, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A TIFF of one row of grey, tag by tag."""
    data = values.tobytes()
    width = len(data) * 8 // bits
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1)]
    tags += [(278, 1), (279, len(data)), (339, sample_format)]
    size = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, size if tag == 273 else value) for tag, value in tags
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", 0) + data


def test_grey_tiffs_may_count_from_white_and_have_twelve_bits() -> None:
    from_white = tiff(np.array([0, 65_535, 55 * 257], "<u2"), bits=16, photometric=0)
    assert on_white(from_white)[0, :, 0].tolist() == [255, 0, 200]
    twelve = tiff(np.frombuffer(b"\xff\xf8\x00", np.uint8), bits=12)  # 4095 and 2048
    assert on_white(twelve)[0, :, 0].tolist() == [255, 128]
    signed = tiff(np.array([100, 200], "<i2"), bits=16, sample_format=2)
    with pytest.raises(UnknownRange, match="values are signed"):
        on_white(signed)


SHORT = {
    "grey": png(8, 0, b"\x80\x80", 2, height=3),
    "rgb": png(8, 2, b"\x80" * 6, 2, height=2),
    "rgba": png(8, 6, b"\xff" * 8, 2, height=2),
    "palette": png(8, 3, b"\1\1", 2, height=9, palette=b"\xff\0\0\0\xff\0"),
    "bit": png(1, 0, b"\xc0", 2, height=2),
    "grey16": png(16, 0, b"\x80\0\x80\0", 2, height=2),
}


@pytest.mark.parametrize("kind", SHORT)
def test_a_png_whose_stream_ends_before_its_last_row_is_truncated(kind: str) -> None:
    """The stream of one row ends in good order; Pillow leaves the others black."""
    for decoded in (decode_rgb, decode, on_white):
        with pytest.raises(OSError, match="truncated") as error:
            decoded(SHORT[kind])
        assert is_truncated(error.value)


def test_a_short_png_in_an_icon_is_truncated() -> None:
    short = png(8, 6, b"\xff" * 64, 16, height=16)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(short), 22)
    with pytest.raises(OSError, match="truncated"):
        decode_rgb(b"\0\0\1\0\1\0" + entry + short)


def test_a_whole_png_may_end_with_black_rows() -> None:
    values = np.zeros((9, 7, 3), np.uint8)
    values[:3] = 200
    assert np.array_equal(np.asarray(decode_rgb(encoded(Image.fromarray(values)))), values)


FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_ends_early_gives_the_whole_image_or_none(format: str) -> None:
    """Only the bytes behind the last row may be missing."""
    values = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)
    whole = encoded(Image.fromarray(values), format)
    expected = np.asarray(decode_rgb(whole))
    refused = 0
    for size in range(1, len(whole), max(1, len(whole) // 40)):
        for decoded in (decode_rgb, decode):
            try:
                image = np.asarray(decoded(whole[:size]))
            except DECODE_ERRORS:
                refused += 1
                continue
            assert np.array_equal(image, expected), size
    assert refused > 60


def test_training_and_evaluation_drop_transparency_as_open_clip_does() -> None:
    image = Image.new("RGBA", (2, 2), (200, 10, 20, 0))
    assert np.asarray(decode_rgb(encoded(image)))[0, 0].tolist() == [200, 10, 20]


def test_a_message_holds_no_address_and_a_cut_file_is_known() -> None:
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    for cut in (whole[:-200], whole[: len(whole) // 2]):  # its last 2 end an image that is whole
        with pytest.raises(OSError, match="truncated") as error:
            decode_rgb(cut)
        assert is_truncated(error.value)
    with pytest.raises(OSError, match="cannot identify") as other:
        decode_rgb(b"nothing")
    assert "0x" not in fault_of(other.value)
    assert not is_truncated(other.value)


@pytest.mark.parametrize("turn", [1, 3, 6, 8, 99])
def test_a_jpeg_in_four_colours_has_its_own_and_is_not_turned(turn: int) -> None:
    """The recorded reference does not read the orientation either."""
    exif = Image.Exif()
    exif[0x0112] = turn
    red = Image.new("RGB", (40, 20), (200, 30, 60))
    for mode in ("RGB", "CMYK"):
        data = io.BytesIO()
        red.convert(mode).save(data, "JPEG", exif=exif, quality=95)
        image = decode_rgb(data.getvalue() + b"bytes behind the end")
        assert image.size == (40, 20)
        assert np.abs(np.asarray(image, int) - (200, 30, 60)).max() <= 3
