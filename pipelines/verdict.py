"""What a global step decided about a pool's rows: positions per shard, or a cut of a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.records import Frozen

NO_CUT = -1  # a threshold below every score: all stay


class Verdict(Frozen):
    """What a global step decided. `hash` changes whenever the decision does."""

    hash: str
    dropped: tuple[str, ...] = ()  # one file per part (Dedup)
    threshold: int | None = None  # order-preserving bits of the score at the cut (Select)
    keep_ties: bool = False
    budgets: tuple[int, ...] = ()  # per shard: weight of tied rows that may stay
    examples: tuple[tuple[int, int], ...] = ()  # row and unit whose text the report shows

    def cut(self, shard: int) -> Cut:
        assert self.threshold is not None, "this verdict is not a cut"
        budget = None if self.keep_ties else self.budgets[shard] if self.budgets else 0
        return Cut(self.threshold, budget)


def ordered_bits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Unsigned integers that sort as the floats do (-0.0 counts as 0.0)."""
    bits = (scores + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def score_of_bits(bits: int) -> float:
    """The float behind one of `ordered_bits`."""
    high = 1 << 63
    raw = bits ^ high if bits & high else bits ^ ((1 << 64) - 1)
    return float(np.array([raw], np.uint64).view(np.float64)[0])


@dataclass
class Cut:
    """The cut of a Select inside one shard, applied batch after batch in order."""

    threshold: int
    budget: int | None  # weight of tied rows that may still stay; None: all of them
    _spent: int = 0

    def keep(
        self, scores: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        missing = np.isnan(scores)
        if self.threshold == NO_CUT:
            return ~missing
        bits = ordered_bits(np.where(missing, 0.0, scores))
        threshold = np.uint64(self.threshold)
        stays = bits > threshold
        tied = (bits == threshold) & ~missing
        if self.budget is None:
            stays |= tied
        else:
            spent = self._spent + np.cumsum(np.where(tied, weights, 0))
            stays |= tied & (spent <= self.budget)
            self._spent = int(spent[-1]) if len(spent) else self._spent
        return stays & ~missing
