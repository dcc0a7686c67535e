"""Who is ahead, and whether to believe it: ranks, ties, intervals.

Rows are compared only within one benchmark, scale, track, pool, suite version and evaluation data.
A row's score is the mean over its seeds; its standard error holds the variance between seeds and
the variance of the items that were asked. Two rows tie when the paired 95% interval of their
difference contains zero: paired over seeds, and over items, since all models were asked the same
questions. Rows without questions (imported ones) are compared unpaired, where an error is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from evals.run import score_task
from evals.suite import Suite, load_suite
from evals.tasks import load_task
from leaderboard import rules
from leaderboard.board.gaps import Resamples, Values, gaps_to, scores_of, standings_of_rows
from leaderboard.board.intervals import interval, kendall
from leaderboard.board.power import gap_for
from leaderboard.board.spreads import SeedSpread, seed_spread, variance_of
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.case import Case
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.lineage import unpinned
from leaderboard.submissions.logs import read_log
from leaderboard.submissions.results import (
    BASELINE,
    Difference,
    Figure,
    Headline,
    Measured,
    Row,
    SeedScore,
    combined_error,
    measured_of,
)
from leaderboard.submissions.submission import Entry

# ---- rows of folders


def board(entries: Sequence[Entry]) -> list[Row]:
    """All submissions as rows, grouped by what may be compared, best first."""
    measured = [measure(entry) for entry in entries]
    return ranked([entry.row for entry in measured], resamples_of(measured))


def measure(entry: Entry) -> Measured:
    """The row of a submission's folder, computed from its questions; the rules are not checked."""
    bundle = replace(entry.bundle, record=entry.record)
    seeds = seeds_of(entry.record)
    book = rules.load_benchmark(entry.record.work.benchmark)
    draws = {
        seed: {task.name: _draws_of(bundle, seed, task.name) for task in scores.work.tasks}
        for seed, scores in seeds.items()
    }
    scores = {seed: result.results.tasks for seed, result in seeds.items()}
    unknown = unpinned(Case(entry.record, book, bundle))
    return measured_of(bundle, book, suite_for(entry), scores, draws, unpinned=unknown)


def _draws_of(bundle: Bundle, seed: int, task: str) -> npt.NDArray[np.float64]:
    return score_task(load_task(task), read_log(bundle, seed, task))[1]


def suite_for(entry: Entry) -> Suite:
    """The suite that a submission's scores were made with, as its record embeds it."""
    scores = next(iter(seeds_of(entry.record).values()))
    embedded = scores.work.parameters.get("suite")
    if embedded is not None:
        return Suite.model_validate(embedded)
    return load_suite(f"{scores.work.benchmark}/{scores.work.suite}")


def resamples_of(measured: Sequence[Measured]) -> dict[str, Resamples]:
    """The resamples by aggregate and submission."""
    by_metric: dict[str, dict[str, Values]] = {}
    for entry in measured:
        for name, values in entry.draws.items():
            by_metric.setdefault(name, {})[entry.row.submission_id] = values
    return dict(by_metric)


def difference(better: Entry, other: Entry) -> Difference:
    """How far `other` is behind `better` on the headline, with a paired 95% interval.

    The interval is that of a board with these two: also of the order of the data and of the draw,
    where the rule book knows them.
    """
    a, b = measure(better), measure(other)
    metric = a.row.headline.metric
    spread = seed_spread([a.row, b.row], metric)
    gap = compare(a.row, b.row, metric, a.draws[metric], b.draws[metric], spread)
    assert gap is not None
    return gap


# ---- ranks


def group_of(row: Row) -> tuple[str, ...]:
    """What must be equal for two rows to be compared."""
    return (
        row.benchmark,
        row.scale,
        row.track,
        row.pool_id,
        row.suite,
        row.suite_version,
        row.data_id,
    )


def ranked(
    rows: Sequence[Row], resamples: Mapping[str, Resamples], *, metric: str | None = None
) -> list[Row]:
    """Rows group by group, best first; by the headline of their suite or by another aggregate."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    all_rows = []
    for key in sorted(groups):
        all_rows += rank(groups[key], resamples, metric=metric)
    return all_rows


def rank(
    rows: Sequence[Row], resamples: Mapping[str, Resamples], *, metric: str | None = None
) -> list[Row]:
    """Rows of one group, best first, each with its distance to the leader and to the baseline."""
    if not rows:
        return []
    order = order_of(rows, resamples, metric=metric)
    return [
        placed(row, order.metric, result)
        for row, result in zip(order.rows, order.places, strict=True)
    ]


@dataclass(frozen=True)
class Order:
    """Rows of one group as they are stored, best first, and what its place gives each of them."""

    metric: str
    rows: list[Row]
    positions: list[int]  # of each of these among the rows that were put in order
    places: list[Place]
    values: list[float]
    errors: list[float | None]


def order_of(
    rows: Sequence[Row], resamples: Mapping[str, Resamples], *, metric: str | None = None
) -> Order:
    """Rows of one group by a metric, best first.

    A row with one seed is ranked by the worse end of its interval. The leader is the best of all
    rows, so its distance to another holds only if it would for the best of so many equal ones.
    Rows that have no such aggregate are left out, and rows that another of the same dataset
    supersedes come last, without a rank. Equal scores have equal ranks; rows of a scale that is not
    ranked have rank 0. The baseline is the best row whose pipeline is that of `no_filter` (of rows
    that were not submitted here: whose method has that name).
    """
    name = metric or rows[0].headline.metric
    given = [at for at, row in enumerate(rows) if name in row.figures]
    members = joined([rows[at] for at in given])
    if not members:
        return Order(name, [], [], [], [], [])
    spread = seed_spread(members, name)
    scores = scores_of(members, name, spread)
    standings = standings_of_rows(scores, spread).tolist()
    sign = -1 if members[0].figures[name].higher_is_better else 1
    order = sorted(
        range(len(members)),
        key=lambda at: (
            bool(members[at].superseded_by),
            sign * standings[at],
            members[at].submission_id,
        ),
    )
    drawn = resamples.get(name, {})
    choices = sum(not row.superseded_by for row in members)
    plain = next((at for at in order if is_baseline(members[at])), None)
    behind = gaps_to(scores, order[0], drawn, choices=choices).listed()
    over = gaps_to(scores, plain, drawn).listed() if plain is not None else None
    detectable = {
        number: _detectable(number, spread) for number in {len(row.seeds) for row in members}
    }
    places: list[Place] = []
    before: float | None = None
    for index, at in enumerate(order):
        row = members[at]
        number = places[-1]["rank"] if standings[at] == before else index + 1
        before = standings[at]
        to_leader = behind[at] if index else None
        to_plain = over[at] if over is not None and at != plain else None
        result: Place = {
            "rank": number if row.ranked and not row.superseded_by else 0,
            "tied_with_leader": _holds_zero(to_leader) if index else False,
            "detectable": detectable[len(row.seeds)] if row.kind == "submission" else None,
            "baseline": members[plain].submission_id if plain is not None else None,
            "superseded_by": row.superseded_by,
            "word": row.word,
        }
        if to_leader is not None:
            result["behind_leader"] = to_leader
        if to_plain is not None:
            value, low, high = to_plain
            result["over_baseline"] = (-value, -high, -low)
        if row.same_result:
            result["same_result"] = row.same_result
        places.append(result)
    errors = scores.errors.tolist()
    return Order(
        metric=name,
        rows=[members[at] for at in order],
        positions=[given[at] for at in order],
        places=places,
        values=scores.values[order].tolist(),
        errors=[None if math.isnan(errors[at]) else errors[at] for at in order],
    )


class Place(TypedDict):
    """What its rank gives a row: fields of `Row` by name, a difference as three numbers."""

    rank: int
    tied_with_leader: bool | None
    detectable: float | None
    baseline: str | None
    superseded_by: str
    word: str
    behind_leader: NotRequired[tuple[float, float, float]]
    over_baseline: NotRequired[tuple[float, float, float]]
    same_result: NotRequired[tuple[str, ...]]


def placed(row: Row, metric: str, result: Place) -> Row:
    """A stored row with an aggregate as its score, and its place among the others."""
    change: dict[str, Any] = {"behind_leader": None, "over_baseline": None, **result}
    for name in ("behind_leader", "over_baseline"):
        if change[name] is not None:
            value, low, high = change[name]
            change[name] = Difference(value=value, low=low, high=high)
    change["same_result"] = tuple(change.get("same_result", ()))
    return by_metric(row, metric).model_copy(update=change)


def _detectable(seeds: int, spread: SeedSpread | None) -> float | None:
    if spread is None or spread.noise is None:
        return None
    return gap_for(seeds, spread.noise)


def is_baseline(row: Row) -> bool:
    """Whether a row is the benchmark's unfiltered baseline: by its pipeline, not by its name."""
    if row.kind == "submission":
        return row.baseline_of == BASELINE
    return row.method == BASELINE


def joined(rows: Sequence[Row]) -> list[Row]:
    """One row a team and dataset (and solver): with the most seeds, of as many the older one.

    Seeds are the first ones of the recipe's list, so more seeds hold those of fewer: whoever sends
    a dataset again adds seeds, and cannot choose the better run.
    """
    best: dict[tuple[str, str, str], Row] = {}
    for row in sorted(rows, key=lambda row: (-len(row.seeds), row.date, row.submission_id)):
        if row.kind == "submission":
            best.setdefault(_answer(row), row)
    return [
        row
        if row.kind != "submission" or best[_answer(row)] is row
        else row.model_copy(update={"superseded_by": best[_answer(row)].submission_id})
        for row in rows
    ]


def _answer(row: Row) -> tuple[str, str, str]:
    """What a team submitted: more seeds of it are the same entry."""
    return row.team, row.dataset_id, row.settings_id


def by_metric(row: Row, metric: str) -> Row:
    """The row with another of its aggregates as its score."""
    if metric == row.headline.metric:
        return row
    figure = row.figures[metric]
    return row.model_copy(
        update={
            "headline": Headline(
                metric=metric,
                value=figure.value,
                stderr=figure.stderr,
                higher_is_better=figure.higher_is_better,
            ),
            "seeds": tuple(
                SeedScore(seed=seed.seed, value=value)
                for seed, value in zip(row.seeds, figure.values, strict=True)
            ),
        }
    )


def _holds_zero(gap: tuple[float, float, float] | None) -> bool | None:
    return None if gap is None else gap[1] <= 0 <= gap[2]


# ---- differences


def compare(
    better: Row,
    other: Row,
    metric: str,
    a: Values | None,
    b: Values | None,
    seeds: SeedSpread | None = None,
    *,
    choices: int = 1,
) -> Difference | None:
    """How far `other` is behind `better`, with a 95% interval; None when an error is not known.

    Seeds that both have are paired; without two of them, the seeds are taken as independent, and a
    row with a single one has the spread `seeds`. Items are paired where both have resamples, else
    taken as independent too, which is wider. The interval accounts for the tries of either side
    and for `choices`: how many rows `better` is the best of. `gaps` has the same in arrays.
    """
    better_figure, two = better.figures[metric], other.figures[metric]
    item_variance: float | None = None
    if a is not None and b is not None:
        item_variance = float(np.var(a.astype(np.float64) - b, ddof=1))
    return _difference(better, other, (better_figure, two), item_variance, seeds, choices=choices)


def _difference(
    better: Row,
    other: Row,
    figures: tuple[Figure, Figure],
    item_variance: float | None,
    seeds: SeedSpread | None,
    *,
    choices: int = 1,
) -> Difference | None:
    better_figure, two = figures
    sign = 1.0 if better_figure.higher_is_better else -1.0
    if item_variance is None:
        if better_figure.item_error is None or two.item_error is None:
            return None
        item_variance = better_figure.item_error**2 + two.item_error**2
    a = {seed.seed: value for seed, value in zip(better.seeds, better_figure.values, strict=True)}
    b = {seed.seed: value for seed, value in zip(other.seeds, two.values, strict=True)}
    value = sign * (better_figure.value - two.value)
    common = sorted(set(a) & set(b))
    if len(common) >= 2 and len(common) == len(a) == len(b):
        apart = [sign * (a[seed] - b[seed]) for seed in common]
        seed_variance, freedom = variance_of(apart) / len(apart), len(apart) - 1
    else:
        seed_variance, freedom = _unpaired(a, b, seeds)
    tries = ((better.tries or 1) * choices, other.tries or 1)
    more: list[tuple[float, int]] = []
    if seeds is not None and better.dataset_id != other.dataset_id:
        more = seeds.of_data(better, other)
    low, high = interval(value, seed_variance, freedom, item_variance, more=more, tries=tries)
    return Difference(value=value, low=low, high=high)


def _unpaired(
    a: Mapping[int, float], b: Mapping[int, float], seeds: SeedSpread | None
) -> tuple[float, int]:
    """The variance of the difference from seeds, and its degrees of freedom.

    The same row with itself has none. Where a side has one seed and no spread is known, its part is
    left out, as the page says.
    """
    if a == b:
        return 0.0, 0
    total, freedom = 0.0, []
    for x in (a, b):
        if len(x) > 1:
            total += variance_of(list(x.values())) / len(x)
            freedom.append(len(x) - 1)
        elif x and seeds is not None:
            total += seeds.variance
            freedom.append(seeds.freedom)
    return total, min(freedom, default=0)


__all__ = [
    "Difference",
    "Row",
    "board",
    "combined_error",
    "compare",
    "difference",
    "kendall",
    "measure",
    "rank",
    "ranked",
]
