"""The fast path gives the pixels of Pillow, or leaves the work to it and says so."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pipelines.images import fast_decode
from pipelines.images.decode import DECODE_ERRORS, decode_rgb


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    for check in (fast_decode._simplejpeg, fast_decode._resample_is_equal):
        check.cache_clear()
    yield
    for check in (fast_decode._simplejpeg, fast_decode._resample_is_equal):
        check.cache_clear()


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def test_the_installed_libraries_are_equal() -> None:
    assert fast_decode.path() == "simplejpeg, compiled resize"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True, "quality": 30}])
def test_every_jpeg_gives_the_pixels_of_pillow(mode: str, options: dict[str, object]) -> None:
    data = jpeg(mode, **options)
    assert np.array_equal(fast_decode.decode(data), np.asarray(decode_rgb(data)))


def test_faults_are_those_of_pillow() -> None:
    whole = jpeg()
    rng = np.random.default_rng(0)
    same = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(2, len(data)))] = int(rng.integers(256))
        if rng.random() < 0.3:
            del data[int(rng.integers(4, len(data))) :]
        try:
            expected = np.asarray(decode_rgb(bytes(data)))
        except DECODE_ERRORS as error:
            with pytest.raises(type(error)):
                fast_decode.decode(bytes(data))
            continue
        assert np.array_equal(fast_decode.decode(bytes(data)), expected)
        same += 1
    assert 10 < same < 150


def test_other_pixels_send_the_work_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that rounds otherwise, and a filter that does."""
    import simplejpeg

    plain, own = simplejpeg.decode_jpeg, fast_decode.kernels.resample.resize
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: plain(*a, **k) ^ np.uint8(1))
    monkeypatch.setattr(
        fast_decode.kernels.resample, "resize", lambda *a, **k: own(*a, **k) ^ np.uint8(1)
    )
    assert fast_decode.path() == "Pillow, Pillow resize"
    data = jpeg()
    pixels = fast_decode.decode(data)
    assert np.array_equal(pixels, np.asarray(decode_rgb(data)))
    expected = Image.fromarray(pixels).resize((20, 30), Image.Resampling.BICUBIC)
    assert np.array_equal(fast_decode.resize(pixels, (20, 30)), np.asarray(expected))
    part = fast_decode.resize(pixels, (20, 30), keep=(3, 4, 9, 20))
    assert np.array_equal(part, np.asarray(expected)[4:20, 3:9])
