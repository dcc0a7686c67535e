"""What runs will be able to show: the seeds for a gap, and the smallest gap that seeds detect.

Two methods with n seeds each are distinguished by the board's own interval: Student's t over the
seeds' pooled variance, whose degrees of freedom are those of the rule book's estimate and of the
runs themselves. The order of the data and the draw of a sample do not shrink with seeds. Power is
the probability that the interval of a true gap leaves out zero: 80% unless said otherwise.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from leaderboard.board.intervals import CONFIDENCE, student_quantile
from leaderboard.rules import Noise, Scale
from pipelines.records import Frozen

POWER = 0.8  # the usual one (Cohen 1988)
MOST_SEEDS = 10_000  # a gap that takes more is reported as out of reach
PUBLISHED = {
    metric: Noise(
        metric=metric,
        seed_sd=0.0052,
        seed_freedom=6,
        source="seven identical runs of nanochat at GPT-2's size (dev/LEADERBOARD.md), not of this "
        "scale",
    )
    for metric in ("core", "core_v2")  # nanochat's CORE is centred as version 2 is
} | {
    "average": Noise(
        metric="average",
        seed_sd=0.006,
        seed_freedom=2,  # how many runs it rests on is not stated: as few as can have a spread
        source="what DataComp's authors state, up to .006 over seeds, not of this scale",
    )
}
"""Noise that others measured, for scales where nobody measured ours."""


class Detection(Frozen):
    """How many seeds an arm a gap takes, or which gap so many seeds can see."""

    metric: str
    gap: float | None  # None: none that such runs can see
    seeds: int | None  # None: not with any number of seeds
    power: float
    noise: Noise
    measured_here: bool
    questions: int | None = None

    @property
    def line(self) -> str:
        where = "measured at this scale" if self.measured_here else self.noise.source
        noise = f"one run has a standard deviation of {self.noise.seed_sd:.4g} over seeds"
        if self.noise.order_sd:
            noise += f" and {self.noise.order_sd:.4g} over orders of the data"
        name = self.metric.replace("_", " ")
        if self.seeds is None:
            sentence = (
                f"a gap of {self.gap:.4g} in {name} cannot be seen with any number of seeds: the "
                "order of the data varies more; repeat with other data or at a larger scale"
            )
        else:
            arm = "1 seed an arm sees" if self.seeds == 1 else f"{self.seeds:,} seeds an arm see"
            sentence = (
                f"{arm} a gap of {self.gap:.4g} in {name} with a probability of {self.power:.0%}"
            )
        return f"{sentence} ({noise}: {where})"


def noise_of(scale: Scale, metric: str, *, own: Noise | None = None) -> tuple[Noise, bool] | None:
    """The noise of a metric at a scale and whether it was measured there; None: not known.

    `own` is what a participant measured; the rule book's goes first.
    """
    own = scale.noise_of(metric) or own
    if own is not None:
        return own, True
    published = PUBLISHED.get(metric)
    return None if published is None else (published, False)


def seeds_for(gap: float, noise: Noise, *, power: float = POWER) -> int | None:
    """The least number of seeds an arm; None when no number is enough."""
    if power_of(gap, MOST_SEEDS, noise) < power:
        return None
    low, high = 0, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(gap, middle, noise) >= power:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=256)
def gap_for(seeds: int, noise: Noise, *, power: float = POWER) -> float:
    """The smallest gap that so many seeds an arm see: by bisection, to a millionth of its size."""
    low, high = 0.0, noise.seed_sd
    while power_of(high, seeds, noise) < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        if power_of(middle, seeds, noise) < power:
            low = middle
        else:
            high = middle
    return high


def power_of(gap: float, seeds: int, noise: Noise, *, confidence: float = CONFIDENCE) -> float:
    """The probability that the interval of a true gap leaves out zero, on either side."""
    error, degrees, limit = error_of_gap(seeds, noise, confidence=confidence)
    shift = gap / error
    return _tail(limit, shift, degrees) + _tail(limit, -shift, degrees)


def error_of_gap(
    seeds: int, noise: Noise, *, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Of a difference: its standard error, the degrees of freedom, and how many errors it takes.

    A difference beyond so many errors leaves out zero.
    """
    variance = 2 * noise.seed_sd**2 / seeds
    freedom = noise.seed_freedom + 2 * (seeds - 1)
    total = variance + 2 * noise.order_sd**2
    uncertain = variance**2 / freedom
    if noise.order_freedom:
        uncertain += (2 * noise.order_sd**2) ** 2 / noise.order_freedom
    degrees = total**2 / uncertain
    limit = student_quantile(0.5 + confidence / 2, round(min(degrees, 1e7), 1))
    return math.sqrt(total), degrees, limit


def _tail(limit: float, shift: float, degrees: float) -> float:
    """P(T > limit) of the noncentral t: over the distribution of the estimated deviation."""
    from scipy.special import ndtr  # loaded late, as in `intervals`

    points, weights = _chi(round(min(degrees, 1e7), 1))
    return float(np.dot(weights, ndtr(shift - limit * points)))


@lru_cache(maxsize=4096)
def _chi(degrees: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points and weights of sqrt(chi-square / degrees): its density on 201 places around 1."""
    width = 6 / math.sqrt(2 * degrees)
    places = np.linspace(max(1e-6, 1 - width), 1 + width * 1.5, 201)
    logs = (degrees - 1) * np.log(places) - degrees * places**2 / 2
    density = np.exp(logs - logs.max())
    return places, density / density.sum()


def questions_for(gap: float, *, discordant: float = 0.2, power: float = POWER) -> int:
    """Questions for a gap of accuracy, paired: those answered differently decide (McNemar 1947).

    `discordant` is the part of the questions that only one of two models answers rightly; 0.2 is
    usual for models of one size.
    """
    normal = student_quantile(0.5 + CONFIDENCE / 2, 1e9) + student_quantile(power, 1e9)
    return math.ceil(normal**2 * max(discordant, gap) / gap**2)


def detection(
    scale: Scale,
    metric: str,
    *,
    gap: float | None = None,
    seeds: int | None = None,
    own: Noise | None = None,
) -> Detection | None:
    """Either the seeds for a gap, or the gap for seeds; None where the noise is not known."""
    known = noise_of(scale, metric, own=own)
    if known is None:
        return None
    noise, ours = known
    if gap is None:
        assert seeds is not None
        gap = gap_for(seeds, noise)
    elif seeds is None:
        seeds = seeds_for(gap, noise)
    return Detection(
        metric=metric, gap=gap, seeds=seeds, power=POWER, noise=noise, measured_here=ours
    )
