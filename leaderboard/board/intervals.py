"""Confidence intervals and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

CONFIDENCE = 0.95


def interval(
    value: float,
    seed_variance: float,
    freedom: int,
    item_variance: float,
    *,
    tries: tuple[int, int] = (1, 1),
) -> tuple[float, float]:
    """A 95% interval around `value`. Student's t with Welch-Satterthwaite degrees of freedom.

    The seed part rests on few runs, `freedom` of them free; the item part on many draws. Where a
    side is the best of n tries, the chance of an error on that side is shared among them: 2.5% / n
    (Bonferroni), so that the best of n equal things is taken for better in at most 2.5% of cases.
    `tries` are those of the row that `value` favours, and of the other.
    """
    total = seed_variance + item_variance
    if total == 0:
        return value, value
    if seed_variance == 0 or freedom < 1:
        degrees = math.inf
    else:
        degrees = total**2 / (seed_variance**2 / freedom)
    error = math.sqrt(total)
    below, above = (quantile_of(n, degrees) * error for n in tries)
    return value - below, value + above


def quantile_of(tries: int, degrees: float) -> float:
    """How many standard errors an end of the interval is away for the best of `tries`."""
    if tries <= 1:
        return two_sided(degrees)
    return student_quantile(1 - (1 - CONFIDENCE) / 2 / tries, round(min(degrees, 1e9), 1))


KNOTS = tuple(float(x) for x in np.geomspace(1.0, 1e5, 161))


def two_sided(degrees: float) -> float:
    """The 97.5% point of Student's t: between exact points, linear in the logarithms.

    The error is below 2e-4 of the value; beyond 100,000 degrees of freedom it is the normal's.
    """
    if degrees >= KNOTS[-1]:
        return student_quantile(0.5 + CONFIDENCE / 2, 1e9)
    knot = math.log(max(degrees, 1.0)) / math.log(KNOTS[-1]) * (len(KNOTS) - 1)
    left = min(int(knot), len(KNOTS) - 2)
    low, high = (math.log(_knot(number)) for number in (left, left + 1))
    return math.exp(low + (knot - left) * (high - low))


@cache
def _knot(number: int) -> float:
    return student_quantile(0.5 + CONFIDENCE / 2, KNOTS[number])


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t, by bisection on its distribution (Abramowitz, Stegun 26.7)."""
    low, high = 0.0, 1e6  # one degree of freedom and a million tries stay below
    for _ in range(60):
        middle = (low + high) / 2
        if _student_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_cdf(t: float, degrees: float) -> float:
    if degrees > 1e6:
        return 0.5 * (1 + math.erf(t / math.sqrt(2)))
    angle = np.linspace(0.0, math.atan(t / math.sqrt(degrees)), 2001)
    density = np.cos(angle) ** (degrees - 1)
    area = float(np.trapezoid(density, angle))
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    return 0.5 + area * scale / math.sqrt(math.pi)


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two orders of the same things; nan when one of them is all ties."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    upper = np.triu_indices(len(x), 1)
    dx = np.sign(x[:, None] - x[None, :])[upper]
    dy = np.sign(y[:, None] - y[None, :])[upper]
    scale = math.sqrt(float((dx != 0).sum()) * float((dy != 0).sum()))
    return float((dx * dy).sum()) / scale if scale else math.nan


def kendall_interval(
    a: Sequence[float], b: Sequence[float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """A 95% interval of `kendall` by resampling the things that are ordered."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    rng: Any = np.random.default_rng(seed)
    taus = []
    for _ in range(draws):
        chosen = rng.integers(0, len(x), len(x))
        tau = kendall(x[chosen], y[chosen])
        if not math.isnan(tau):
            taus.append(tau)
    low, high = np.quantile(taus, [0.025, 0.975]) if taus else (math.nan, math.nan)
    return float(low), float(high)
