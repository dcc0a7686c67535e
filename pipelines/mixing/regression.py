"""The best mixture by regression over proxy runs: fit a loss to shares, then minimize it.

Two forms, both of the field. *Log-linear* (Ye et al. 2024, "Data Mixing Laws"; Olmix 2026): loss =
c + exp(a + sum_i b_i r_i). *Quadratic*: a polynomial of second degree in the shares r, which on the
simplex is sum_{i<=j} q_ij r_i r_j. Every proxy run is left out once; the form that predicts those
better is taken where none is named. The optimum keeps to bounds on the shares, so that no source is
repeated more often than it may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.mixing.shares import on_capped_simplex
from pipelines.records import Frozen

Floats = npt.NDArray[np.float64]
Form = Literal["log_linear", "quadratic"]
STARTS = 12  # of the descent: the quadratic form may have several minima
STEPS = 1000  # of projected gradient descent at the most; it stops when nothing moves
FLOORS = 64  # values that are tried for c, from just below the best loss to one spread below it


class Fit(Frozen):
    """A fitted form: coefficients, and how it predicts proxy runs that it did not see."""

    form: Form
    coefficients: tuple[float, ...]
    floor: float = 0.0
    left_out_error: float  # root of the mean squared error
    left_out_rank: float  # Spearman's correlation of predicted and measured
    num_runs: int

    def predict(self, shares: Floats) -> Floats:
        """Losses, shape (mixtures,), of shares (mixtures, sources)."""
        coefficients = np.array(self.coefficients)
        if self.form == "quadratic":
            return _products(shares) @ coefficients
        return self.floor + np.exp(shares @ coefficients)

    def gradient(self, shares: Floats) -> Floats:
        """The derivative of one mixture's loss by its shares, shape (sources,)."""
        coefficients = np.array(self.coefficients)
        if self.form == "log_linear":
            return np.asarray(np.exp(shares @ coefficients) * coefficients)
        matrix = np.zeros((len(shares), len(shares)))
        matrix[np.triu_indices(len(shares))] = coefficients
        return (matrix + matrix.T) @ shares


def fit(shares: Floats, losses: Floats, *, form: Form | None = None) -> Fit:
    """Fit a form to proxy runs, or the better of both: shares (runs, sources), losses (runs,).

    DataError for fewer runs than the form has coefficients, and for shares that do not add up.
    """
    if (np.abs(shares.sum(axis=1) - 1) > 1e-6).any():
        raise DataError("the shares of a proxy run do not add up to 1")
    if form is not None:
        return _fitted(shares, losses, form)
    fits = []
    for each in ("log_linear", "quadratic"):
        try:
            fits.append(_fitted(shares, losses, each))
        except DataError as error:
            problem = error
    if not fits:
        raise problem
    return min(fits, key=lambda fitted: fitted.left_out_error)


def _fitted(shares: Floats, losses: Floats, form: Form) -> Fit:
    sources = shares.shape[1]
    needed = 1 + (sources * (sources + 1) // 2 if form == "quadratic" else sources + 1)
    if len(losses) < needed:
        raise DataError(
            f"{len(losses)} proxy runs: the {form} form of {sources} sources needs {needed}"
        )
    solve = _solve_quadratic if form == "quadratic" else _solve_log_linear
    coefficients, floor, predicted = solve(shares, losses)
    return Fit(
        form=form,
        coefficients=tuple(coefficients.tolist()),
        floor=floor,
        left_out_error=float(np.sqrt(np.mean((predicted - losses) ** 2))),
        left_out_rank=spearman(predicted, losses),
        num_runs=len(losses),
    )


def _products(shares: Floats) -> Floats:
    first, second = np.triu_indices(shares.shape[1])
    return np.asarray(shares[:, first] * shares[:, second])


def _least_squares(features: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Coefficients, and for every row its prediction by a fit without it.

    The prediction without a row follows from the whole fit: y - (y - y') / (1 - h).
    """
    inverse = np.linalg.pinv(features)
    coefficients = inverse @ targets
    residuals = targets - features @ coefficients
    leverage = np.einsum("ij,ji->i", features, inverse)
    return coefficients, targets - residuals / np.maximum(1 - leverage, 1e-9)


def _solve_quadratic(shares: Floats, losses: Floats) -> tuple[Floats, float, Floats]:
    coefficients, predicted = _least_squares(_products(shares), losses)
    return coefficients, 0.0, predicted


def _solve_log_linear(shares: Floats, losses: Floats) -> tuple[Floats, float, Floats]:
    """c by the smallest left-out error; a is within b, because shares add up to 1."""
    least, spread = float(losses.min()), float(losses.max() - losses.min())
    spread = spread or max(abs(least), 1.0) * 1e-6
    best: tuple[float, Floats, float, Floats] | None = None
    for below in np.geomspace(0.02, 20.0, FLOORS):
        floor = least - below * spread
        coefficients, logs = _least_squares(shares, np.log(losses - floor))
        predicted = floor + np.exp(logs)
        error = float(np.mean((predicted - losses) ** 2))
        if best is None or error < best[0]:
            best = error, coefficients, floor, predicted
    assert best is not None
    return best[1], best[2], best[3]


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation; 0 where one of the two has a single value."""
    ranks = [_ranks(values) for values in (first, second)]
    centered = [rank - rank.mean() for rank in ranks]
    norm = np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum())
    return float((centered[0] * centered[1]).sum() / norm) if norm > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse].astype(np.float64)  # equal ones share their rank


def optimum(fitted: Fit, most: Floats, *, seed: int = 0) -> Floats:
    """The shares of the least predicted loss, each at most its bound; the bounds add up to 1."""
    loss: Callable[[Floats], float] = lambda r: float(fitted.predict(r[None])[0])  # noqa: E731
    rng = np.random.default_rng(seed)
    starts = [most / most.sum(), *rng.dirichlet(np.ones(len(most)), STARTS)]
    best = on_capped_simplex(starts[0], most)
    for start in starts:
        end = _descend(fitted, loss, on_capped_simplex(start, most), most)
        if loss(end) < loss(best):
            best = end
    return best


def _descend(fitted: Fit, loss: Callable[[Floats], float], point: Floats, most: Floats) -> Floats:
    """Projected gradient descent; a step that does not lower the loss is halved."""
    step, value = 1.0, loss(point)
    for _ in range(STEPS):
        slope = fitted.gradient(point)
        following = on_capped_simplex(point - step * slope, most)
        lower = loss(following)
        if lower < value:
            moved = np.abs(following - point).sum()
            point, value, step = following, lower, step * 1.3
            if moved < 1e-9:
                break
        else:
            step /= 2
            if step < 1e-12:
                break
    return point
