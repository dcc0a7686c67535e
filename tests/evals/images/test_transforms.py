"""Compiled transforms give the floats of open_clip's, with the same random crops."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
from PIL import Image

from evals.images.transforms import ImageTransform
from pipelines.images.decode import decode_rgb

SIZES = ((300, 200), (200, 300), (224, 224), (640, 100), (90, 512), (57, 31), (400, 401), (2, 900))


def encoded(width: int, height: int, format: str) -> bytes:
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(out, format)
    return out.getvalue()


IMAGES = [encoded(*size, format) for size in SIZES for format in ("JPEG", "PNG")]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("size", [224, 32])
def test_floats_equal_open_clip_s(is_train: bool, size: int) -> None:
    plain = image_transform_v2(PreprocessCfg(size=size), is_train=is_train)
    ours = ImageTransform(plain)
    assert ours.compiled
    for seed in range(3):
        torch.manual_seed(seed)
        expected = [plain(decode_rgb(data)) for data in IMAGES]
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        for data, floats in zip(IMAGES, expected, strict=True):
            assert torch.equal(ours.of_bytes(data), floats)
        assert torch.equal(torch.get_rng_state(), state)  # no draw more, no draw less


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0)])
def test_crops_of_any_scale_are_torchvision_s(scale: tuple[float, float]) -> None:
    plain = image_transform_v2(PreprocessCfg(), is_train=True, aug_cfg=AugmentationCfg(scale=scale))
    ours = ImageTransform(plain)
    crop = plain.transforms[0]
    for height, width in ((10, 400), (400, 10), (384, 512), (1, 1)):
        for seed in range(40):
            torch.manual_seed(seed)
            image = torch.empty(1).expand(3, height, width)
            expected = crop.get_params(image, list(crop.scale), list(crop.ratio))
            torch.manual_seed(seed)
            assert ours._place(height, width) == tuple(expected)


@pytest.mark.parametrize("change", [{"resize_mode": "longest"}, {"interpolation": "bilinear"}])
def test_other_steps_are_applied_as_they_are(change: dict[str, str]) -> None:
    plain = image_transform_v2(PreprocessCfg(**change), is_train=False)
    ours = ImageTransform(plain)
    assert not ours.compiled
    data = IMAGES[0]
    assert torch.equal(ours.of_bytes(data), plain(decode_rgb(data)))
