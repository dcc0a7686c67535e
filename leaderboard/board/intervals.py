"""Confidence intervals and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95  # of every interval on the board


def interval(
    value: float,
    seed_variance: float,
    freedom: int,
    item_variance: float,
    *,
    more: Sequence[tuple[float, int]] = (),
    tries: tuple[int, int] = (1, 1),
) -> tuple[float, float]:
    """A 95% interval around `value`. Student's t with Welch-Satterthwaite degrees of freedom.

    The seed part rests on few runs, `freedom` of them free; the item part on many draws. `more` are
    other parts of the variance, each with its degrees of freedom: order and draw of data. Where a
    side is the best of n tries, the chance of an error on that side is shared among them: 2.5% / n
    (Bonferroni), so that the best of n equal things is taken for better in at most 2.5% of cases.
    `tries` are those of the row that `value` favours, and of the other.
    """
    parts = [(seed_variance, freedom), *more]
    total = sum(variance for variance, _ in parts) + item_variance
    if total == 0:
        return value, value
    uncertain = sum(variance**2 / free for variance, free in parts if free >= 1)
    degrees = total**2 / uncertain if uncertain else math.inf
    error = math.sqrt(total)
    below, above = (quantile_of(n, degrees) * error for n in tries)
    return value - below, value + above


def intervals(
    values: Floats,
    parts: Sequence[tuple[Floats, npt.NDArray[np.int64]]],
    item_variances: Floats,
    *,
    tries: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> tuple[Floats, Floats]:
    """`interval` of many values at once: the ends below and above.

    `parts` are those of seeds and of data, each a variance and its degrees of freedom by value.
    """
    total = item_variances.copy()
    uncertain = np.zeros(len(values))
    for variances, freedom in parts:
        total += variances
        uncertain += np.where(freedom >= 1, variances**2 / np.maximum(freedom, 1), 0.0)
    degrees = np.full(len(values), math.inf)
    np.divide(total**2, uncertain, out=degrees, where=uncertain > 0)
    error = np.sqrt(total)
    quantile = _quantile()
    below, above = (
        quantile(degrees, 1 - (1 - CONFIDENCE) / 2 / np.maximum(number, 1)) for number in tries
    )
    return values - below * error, values + above * error


def quantile_of(tries: int, degrees: float) -> float:
    """How many standard errors an end of the interval is away for the best of `tries`."""
    return student_quantile(1 - (1 - CONFIDENCE) / 2 / max(tries, 1), degrees)


def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t; of the normal for infinite degrees of freedom."""
    return float(_quantile()(degrees, probability))


@cache
def _quantile() -> Any:
    from scipy.special import stdtrit  # a second to load: not for commands that rank nothing

    return stdtrit


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two orders of the same things; nan when one of them is all ties."""
    # Not scipy's: `scipy.stats` takes a second to load, for which the first reader would wait.
    x, y = np.asarray(a, float), np.asarray(b, float)
    signs_x = np.sign(x[:, None] - x[None, :])
    signs_y = np.sign(y[:, None] - y[None, :])
    scale = math.sqrt(float(np.abs(signs_x).sum()) * float(np.abs(signs_y).sum()))
    return float((signs_x * signs_y).sum()) / scale if scale else math.nan


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan when one of them is all ties."""
    x, y = _ranks(np.asarray(a, float)), _ranks(np.asarray(b, float))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Any) -> Any:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def kendall_interval(
    a: Sequence[float], b: Sequence[float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """A 95% interval of `kendall` by resampling the things that are ordered."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    rng: Any = np.random.default_rng(seed)
    number = len(x)
    # How often each thing is in a draw: pairs of a thing with itself are ties, and count nothing.
    weights = np.stack(
        [np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(draws)]
    ).astype(float)
    signs_x = np.sign(x[:, None] - x[None, :])
    signs_y = np.sign(y[:, None] - y[None, :])

    def pairs(signs: Any) -> Any:
        return ((weights @ signs) * weights).sum(axis=1)

    scale = np.sqrt(pairs(np.abs(signs_x)) * pairs(np.abs(signs_y)))
    known = scale > 0
    taus = pairs(signs_x * signs_y)[known] / scale[known]
    low, high = np.quantile(taus, [0.025, 0.975]) if len(taus) else (math.nan, math.nan)
    return float(low), float(high)
