"""The low-rate check: does the order of two datasets stay at a tenth of the learning rate?

High learning rates can order datasets by what training survives rather than by what it learns
(arXiv 2512.24503). Both seeds and data are the same in both runs, so order and draw of the data are
not part of the noise here; the spread of seeds is, at each rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

from pydantic import Field

from leaderboard.board.crossing import Point, spread
from leaderboard.board.intervals import CONFIDENCE, student_quantile
from pipelines.console import table
from pipelines.records import Frozen

Known = tuple[float, int] | None


class Flip(Frozen):
    """Two datasets at two learning rates; differences are second minus first, better positive."""

    first: str
    second: str
    usual: float
    low_rate: float
    reach: tuple[float, float] = Field(description="half the 95% intervals of the two")
    verdict: Literal["same order", "order flips", "not shown"]


def flips(
    usual: Mapping[str, Sequence[float]],
    low_rate: Mapping[str, Sequence[float]],
    *,
    higher_is_better: bool = True,
    known: Known = None,
) -> list[Flip]:
    """All pairs of methods; the scores of each by seed, at both rates.

    A flip is two differences of opposite sign whose intervals both leave out zero; one order is two
    of one sign; anything else is not shown. `known`: variance of one run, degrees of freedom.
    RuleError where no spread is known.
    """
    sign = 1.0 if higher_is_better else -1.0
    made = []
    for first, second in combinations(usual, 2):
        gaps, reaches = [], []
        for scores in (usual, low_rate):
            a, b = scores[first], scores[second]
            points = [Point(budget=1, scores=tuple(s)) for s in scores.values()]
            variance, freedom = spread(points, known)
            gaps.append(sign * (sum(b) / len(b) - sum(a) / len(a)))
            error = math.sqrt(variance * (1 / len(a) + 1 / len(b)))
            reaches.append(student_quantile(0.5 + CONFIDENCE / 2, freedom) * error)
        shown = all(abs(gap) > reach for gap, reach in zip(gaps, reaches, strict=True))
        verdict: Literal["same order", "order flips", "not shown"] = "not shown"
        if shown:
            verdict = "same order" if gaps[0] * gaps[1] > 0 else "order flips"
        made.append(
            Flip(
                first=first,
                second=second,
                usual=gaps[0],
                low_rate=gaps[1],
                reach=(reaches[0], reaches[1]),
                verdict=verdict,
            )
        )
    return made


def flips_text(made: Sequence[Flip]) -> str:
    """The check for a terminal."""
    rows = [
        (
            flip.second,
            flip.first,
            f"{flip.usual:+.4f} ± {flip.reach[0]:.4f}",
            f"{flip.low_rate:+.4f} ± {flip.reach[1]:.4f}",
            flip.verdict,
        )
        for flip in made
    ]
    header = ("better by", "than", "at the recipe's rate", "at a tenth of it", "verdict")
    flipped = [flip for flip in made if flip.verdict == "order flips"]
    line = "no order flips at a tenth of the learning rate"
    if flipped:
        pairs = ", ".join(f"{flip.first} and {flip.second}" for flip in flipped)
        line = f"the order of {pairs} flips: this recipe's order may not hold at another scale"
    elif any(flip.verdict == "not shown" for flip in made):
        line += ", as far as these runs can show"
    return f"{table(rows, header=header)}\n\n{line}"
