"""Shares of a mixture: by temperature, under bounds on repetition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError

Floats = npt.NDArray[np.float64]


def by_temperature(tokens: Floats, temperature: float) -> Floats:
    """Shares in proportion to tokens^(1/temperature): 1 as they are, large ones nearly equal.

    (Conneau et al. 2020, 3.1, with alpha = 1/temperature.) A source without tokens has no share.
    """
    weights = np.zeros(len(tokens))
    there = tokens > 0
    weights[there] = np.exp(np.log(tokens[there]) / temperature)
    total = weights.sum()
    return weights / total if total > 0 else weights


def most_shares(tokens: Floats, total_tokens: float, max_repeat: float) -> Floats:
    """The greatest share of each source: its tokens `max_repeat` times, of all that are taken."""
    return np.minimum(tokens * max_repeat / total_tokens, 1.0)


def capped(shares: Floats, most: Floats) -> Floats:
    """Shares that add up to 1, none above its bound; the excess goes to the others in proportion.

    DataError where the bounds add up to less than 1.
    """
    if most[shares > 0].sum() < 1 - 1e-9:
        raise DataError(
            f"the sources give {100 * most[shares > 0].sum():.3g}% of the tokens when each is "
            "repeated as often as it may be: take fewer tokens, or raise max_repeat"
        )
    out = shares / shares.sum()
    at_most = np.zeros(len(out), bool)
    for _ in range(len(out)):
        over = out > most * (1 + 1e-12)
        if not (over & ~at_most).any():
            break
        at_most |= over
        out[at_most] = most[at_most]
        free = ~at_most & (shares > 0)
        if free.any():
            out[free] = shares[free] / shares[free].sum() * (1 - most[at_most].sum())
    return out


def on_capped_simplex(point: Floats, most: Floats) -> Floats:
    """The nearest point whose parts are in [0, most] and add up to 1, by bisection."""
    low, high = float((point - most).min()) - 1.0, float(point.max())
    for _ in range(60):  # halves the bracket to nothing
        middle = (low + high) / 2
        if np.clip(point - middle, 0, most).sum() > 1:
            low = middle
        else:
            high = middle
    return np.clip(point - (low + high) / 2, 0, most)
