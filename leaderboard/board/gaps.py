"""The difference of one row to each row of its group, in arrays: what ranks ten thousand rows.

`leaderboard.board.ranking.compare` computes the same for one pair, where each rule is explained.
Unknown numbers are NaN here: the item error of a row without questions, and with it both ends of
its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leaderboard.board.intervals import intervals
from leaderboard.board.spreads import SeedSpread
from leaderboard.submissions.results import Row

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Resamples = Mapping[str, Values]  # by submission: one aggregate, the mean over seeds
BLOCK = 64  # rows of resamples at once: half a megabyte, which stays in a core's own cache
NO_FREEDOM = np.iinfo(np.int64).max  # of a part that is not there: it is never the smallest


@dataclass(frozen=True)
class Gaps:
    """The differences of all rows to one of them, positive where that one is better."""

    values: Floats
    low: Floats
    high: Floats

    def listed(self) -> list[tuple[float, float, float] | None]:
        """Each difference with its interval; None where an error is not known."""
        numbers = zip(self.values.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        unknown = np.isnan(self.low).tolist()
        return [None if skip else gap for skip, gap in zip(unknown, numbers, strict=True)]


@dataclass(frozen=True)
class Scores:
    """One aggregate of the rows of a group, each array in the order of the rows."""

    rows: Sequence[Row]
    values: Floats
    item_variances: Floats
    tries: Whole
    seeds: list[tuple[int, ...]]  # of each row, in order
    errors: Floats  # standard errors: between seeds where there are several, and of the items
    by_seeds: dict[tuple[int, ...], tuple[Whole, Floats]]  # positions, and (rows, seeds) values
    seed_variances: Floats  # of a row's mean
    seed_freedom: Whole
    data: dict[str, tuple[Floats, int]]  # parts of the variance that are of the data, by name
    signs: Floats  # 1 where more is better


def scores_of(rows: Sequence[Row], metric: str, spread: SeedSpread | None) -> Scores:
    """The arrays of rows that all have the aggregate."""
    figures = [row.figures[metric] for row in rows]
    number = len(rows)
    errors = [np.nan if figure.item_error is None else figure.item_error for figure in figures]
    item_variances = np.array(errors, np.float64) ** 2
    seeds: list[tuple[int, ...]] = []
    members: dict[tuple[int, ...], tuple[list[int], list[list[float]]]] = {}
    for at, (row, figure) in enumerate(zip(rows, figures, strict=True)):
        by_seed = {s.seed: value for s, value in zip(row.seeds, figure.values, strict=True)}
        key = tuple(sorted(by_seed))
        seeds.append(key)
        positions, values = members.setdefault(key, ([], []))
        positions.append(at)
        values.append([by_seed[seed] for seed in key])
    variances, freedom = np.zeros(number), np.full(number, NO_FREEDOM)
    measured = np.zeros(number)
    by_seeds = {}
    for key, (positions, values) in members.items():
        at_rows, table = np.array(positions, np.int64), np.array(values, np.float64)
        by_seeds[key] = (at_rows, table.reshape(len(positions), len(key)))
        if len(key) > 1:
            variances[at_rows] = table.var(axis=1, ddof=1) / len(key)
            freedom[at_rows] = len(key) - 1
            measured[at_rows] = variances[at_rows]
        elif key and spread is not None:
            variances[at_rows], freedom[at_rows] = spread.variance, spread.freedom
    return Scores(
        rows=rows,
        values=np.array([figure.value for figure in figures], np.float64),
        item_variances=item_variances,
        errors=np.sqrt(measured + item_variances),
        tries=np.array([row.tries or 1 for row in rows], np.int64),
        seeds=seeds,
        by_seeds=by_seeds,
        seed_variances=variances,
        seed_freedom=freedom,
        data=_data_parts(rows, spread),
        signs=np.array([1.0 if figure.higher_is_better else -1.0 for figure in figures]),
    )


def _data_parts(rows: Sequence[Row], spread: SeedSpread | None) -> dict[str, tuple[Floats, int]]:
    parts: dict[str, tuple[Floats, int]] = {}
    if spread is not None:
        for at, row in enumerate(rows):
            for name, (variance, freedom) in spread.of_row(row).items():
                parts.setdefault(name, (np.zeros(len(rows)), freedom))[0][at] = variance
    return parts


def standings_of_rows(scores: Scores, spread: SeedSpread | None) -> Floats:
    """What each row is ranked by: its score; with one seed, the worse end of its 95% interval.

    One run may be lucky. Where the spread between runs is not known, the score itself; rows that
    were not submitted here were published as they are.
    """
    values = scores.values.copy()
    if spread is None:
        return values
    alone = [
        at for at, row in enumerate(scores.rows) if row.kind == "submission" and len(row.seeds) <= 1
    ]
    at_rows = np.array(alone, np.int64)
    parts = [(np.full(len(alone), spread.variance), np.full(len(alone), spread.freedom))]
    parts += [
        (variances[at_rows], np.full(len(alone), freedom))
        for variances, freedom in scores.data.values()
    ]
    single = np.ones(len(alone), np.int64)
    own = values[at_rows]
    low, high = intervals(own, parts, np.zeros(len(alone)), tries=(single, single))
    values[at_rows] = np.where(scores.signs[at_rows] > 0, low, high)
    return values


def gaps_to(scores: Scores, leader: int, resamples: Resamples, *, choices: int = 1) -> Gaps:
    """How far each row is behind the one at a position.

    `choices`: that one was chosen as the best of so many rows.
    """
    sign = scores.signs[leader]
    number = len(scores.rows)
    values = sign * (scores.values[leader] - scores.values)
    apart = scores.item_variances[leader] + scores.item_variances
    paired = _paired_variances(scores, leader, resamples)
    items = np.where(np.isnan(paired), apart, paired)
    variances, freedom = _seed_parts(scores, leader)
    own = scores.rows[leader].dataset_id
    others = np.array([row.dataset_id != own for row in scores.rows])
    parts = [(variances, freedom)]
    for part, free in scores.data.values():
        parts.append((np.where(others, part[leader] + part, 0.0), np.full(number, free)))
    tries = (np.full(number, int(scores.tries[leader]) * choices), scores.tries)
    low, high = intervals(values, parts, items, tries=tries)
    return Gaps(values, low, high)


def _paired_variances(scores: Scores, leader: int, resamples: Resamples) -> Floats:
    """The variance of the items' part, over resamples of the same items; NaN without them."""
    variances = np.full(len(scores.rows), np.nan)
    own = resamples.get(scores.rows[leader].submission_id)
    if own is None:
        return variances
    ids = [row.submission_id for row in scores.rows]
    here = [at for at, id_ in enumerate(ids) if id_ in resamples]
    own = own.astype(np.float64)
    for start in range(0, len(here), BLOCK):
        block = here[start : start + BLOCK]
        apart = np.stack([resamples[ids[at]] for at in block]) - own
        apart -= apart.mean(axis=1, keepdims=True)
        variances[block] = np.einsum("ij,ij->i", apart, apart) / (len(own) - 1)
    return variances


def _seed_parts(scores: Scores, leader: int) -> tuple[Floats, Whole]:
    """The variance of each difference from seeds, and its degrees of freedom.

    Paired where both have the same seeds, two of them at least; the same single run has none.
    """
    variances = scores.seed_variances[leader] + scores.seed_variances
    freedom = np.minimum(scores.seed_freedom[leader], scores.seed_freedom)
    key = scores.seeds[leader]
    positions, table = scores.by_seeds[key]
    differences = table[int(np.searchsorted(positions, leader))] - table
    if len(key) > 1:
        variances[positions] = differences.var(axis=1, ddof=1) / len(key)
        freedom[positions] = len(key) - 1
    else:
        same = positions[(differences == 0).all(axis=1)]
        variances[same], freedom[same] = 0.0, 0
    return variances, np.where(freedom == NO_FREEDOM, 0, freedom)
