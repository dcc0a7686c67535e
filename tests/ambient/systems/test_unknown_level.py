"""The level from which on a blurred image may teach, estimated without knowing the blur."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor

from ambient.systems import unknown_level

LEVELS = torch.logspace(-1.5, 0.6, 22)
MOST = 4.0  # stands for "from no level on" in medians
BLURS = (0.4, 0.7, 1.0, 1.5, 2.0)


@cache
def estimates(seed: int) -> tuple[Tensor, np.ndarray, Tensor]:
    """Estimated sigma_min and true blur of blurred digits; estimates of unseen clean ones."""
    images = load_digits().images / 8 - 1
    rng = np.random.default_rng(seed)
    images = images[rng.permutation(len(images))]
    clean, held_out, rest = images[:400], images[400:600], images[600:]
    blur = rng.choice(BLURS, len(rest))
    blurred = np.stack([gaussian_filter(x, b) for x, b in zip(rest, blur, strict=True)])
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)

    def as_images(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array[:, None]).float()

    net = unknown_level.train_classifier(as_images(clean), as_images(blurred), generator=generator)
    actual = unknown_level.sigma_mins(net, as_images(blurred), LEVELS, generator=generator)
    own = unknown_level.sigma_mins(net, as_images(held_out), LEVELS, generator=generator)
    return actual, blur, own


def test_the_estimate_rises_with_a_blur_that_the_trainer_is_not_told() -> None:
    """Medians by blur are in order; single images scatter, as a digit may be smooth by itself."""
    for seed in (1, 2, 3):
        actual, blur, _ = estimates(seed)
        medians = [float(actual[blur == b].clamp(max=MOST).median()) for b in BLURS]
        assert spearmanr(BLURS, medians).statistic > 0.9, medians
        assert spearmanr(actual.clamp(max=MOST).numpy(), blur).statistic > 0.6


def test_clean_images_that_the_classifier_never_saw_may_teach_from_below() -> None:
    actual, blur, own = estimates(1)
    strong = actual[blur == max(BLURS)].median()
    assert float(own.median()) < float(strong) / 3
