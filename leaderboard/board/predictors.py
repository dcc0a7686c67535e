"""Null predictors: what would have predicted a row's score without training anything?

Of all rows of a group that say it: the length of documents, how far they compress, the cost of the
suite's questions under the dataset's word frequencies, the size of the dataset. For each the
rank correlation with the real scores is shown, and what a line through the other rows says of this
one. A random part of the pool of nearly the same size is shown beside them where the board has one.
An entry that does not beat what they predict has not shown that its filter does more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from leaderboard.board.intervals import CONFIDENCE, spearman, student_quantile
from leaderboard.submissions.results import Row
from pipelines.records import Frozen

FEWEST = 5  # other rows: a line through fewer leaves nothing to judge it by


def _of_profile(field: str) -> Callable[[Row], float | None]:
    def read(row: Row) -> float | None:
        if row.profile is None:
            return None
        value: float | None = getattr(row.profile, field)
        return value

    return read


def _log_of_words(row: Row) -> float | None:
    return math.log(row.profile.document_words) if row.profile is not None else None


def _log_of_size(row: Row) -> float | None:
    return math.log(row.dataset.size) if row.dataset.size else None


READ: dict[str, Callable[[Row], float | None]] = {
    "words of a document": _log_of_words,
    "compressed size": _of_profile("compressed"),
    "order of the words": _of_profile("order"),
    "cost of the questions by word frequencies": _of_profile("suite_bits"),
    "size of the dataset": _log_of_size,
}
"""What a predictor reads of a row; None where the row does not say it."""


class Prediction(Frozen):
    """One predictor over the rows of a group, and what it says of one row."""

    name: str
    rows: int = Field(description="rows that say it, this one too")
    spearman: float | None = Field(description="with the scores, higher is better; None: all equal")
    predicted: float | None = Field(None, description="of this row, by a line through the others")
    low: float | None = Field(None, description="95% of single rows around the line")
    high: float | None = None
    beaten: bool | None = Field(None, description="the score is better than the interval")


class Subset(Frozen):
    """A random part of the pool of nearly the same size."""

    method: str
    submission_id: str
    value: float
    times: float = Field(description="its size beside this row's")


def predictions(row: Row, rows: Sequence[Row]) -> list[Prediction]:
    """All predictors that this row and at least five others say; none for other rows."""
    made = []
    others = [
        other for other in rows if other.dataset_id != row.dataset_id and not other.superseded_by
    ]
    for name, read in READ.items():
        own = read(row)
        known = [(value, other) for other in others if (value := read(other)) is not None]
        if own is not None and len(known) >= FEWEST:
            made.append(_prediction(name, own, row, known))
    return made


def _prediction(name: str, own: float, row: Row, known: Sequence[tuple[float, Row]]) -> Prediction:
    sign = 1.0 if row.headline.higher_is_better else -1.0
    x = np.array([value for value, _ in known])
    y = np.array([sign * other.headline.value for _, other in known])
    score = sign * row.headline.value
    if np.ptp(x) == 0:
        return Prediction(name=name, rows=len(known) + 1, spearman=None)
    rho = spearman([*x.tolist(), own], [*y.tolist(), score])
    slope, offset = np.polyfit(x, y, 1)
    left = y - (slope * x + offset)
    freedom = len(x) - 2
    spread = math.sqrt(float((left**2).sum()) / freedom)
    around = (own - x.mean()) ** 2 / float(((x - x.mean()) ** 2).sum())
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    reach *= spread * math.sqrt(1 + 1 / len(x) + around)
    middle = float(slope * own + offset)
    ends = sorted((sign * (middle - reach), sign * (middle + reach)))
    return Prediction(
        name=name,
        rows=len(known) + 1,
        spearman=None if math.isnan(rho) else rho,
        predicted=sign * middle,
        low=ends[0],
        high=ends[1],
        beaten=score > middle + reach,
    )


def subset(row: Row, rows: Sequence[Row]) -> Subset | None:
    """The random part of the pool whose size is nearest, within a factor of two."""
    sampled = [
        other
        for other in rows
        if other.sampled is not None and other.dataset_id != row.dataset_id and other.dataset.size
    ]
    if not sampled or not row.dataset.size:
        return None
    size = row.dataset.size
    nearest = min(sampled, key=lambda other: abs(math.log((other.dataset.size or 1) / size)))
    times = (nearest.dataset.size or 0) / size
    if not 0.5 <= times <= 2:
        return None
    return Subset(
        method=nearest.method,
        submission_id=nearest.submission_id,
        value=nearest.headline.value,
        times=times,
    )


def verdict(made: Sequence[Prediction]) -> str:
    """One sentence on all predictors; nothing where there are none."""
    judged = [entry for entry in made if entry.beaten is not None]
    if not judged:
        return ""
    missed = [entry.name for entry in judged if not entry.beaten]
    if not missed:
        return "The score is better than each of these predicts."
    return f"The score is not shown to be better than predicted by: {', '.join(missed)}."
