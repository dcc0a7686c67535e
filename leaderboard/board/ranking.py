"""Who is ahead, and whether to believe it: ranks, ties, intervals.

Rows are compared only within one benchmark, scale, track, pool, suite version and evaluation data.
A row's score is the mean over its seeds; its standard error holds the variance between seeds and
the variance of the items that were asked. Two rows tie when the paired 95% interval of their
difference contains zero: paired over seeds, and over items, since all models were asked the same
questions. Rows without questions (imported ones) are compared unpaired, where an error is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evals.run import score_task
from evals.suite import Suite, load_suite
from evals.tasks import load_task
from leaderboard import rules
from leaderboard.board.intervals import interval, kendall
from leaderboard.board.power import gap_for
from leaderboard.rules import Noise
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
from pipelines.errors import RuleError

Values = npt.NDArray[np.float32]
Resamples = Mapping[str, Values]  # by submission: one aggregate, the mean over seeds

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
    """How far `other` is behind `better` on the headline, with a paired 95% interval."""
    a, b = measure(better), measure(other)
    metric = a.row.headline.metric
    gap = compare(a.row, b.row, metric, a.draws[metric], b.draws[metric])
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
    """Rows of one group, best first, each with its distance to the leader and to the baseline.

    A row with one seed is ranked by the worse end of its interval. The leader is the best of all
    rows, so its distance to another holds only if it would for the best of so many equal ones.
    Rows that have no such aggregate are left out, and rows that another of the same dataset
    supersedes come last, without a rank. Equal scores have equal ranks; rows of a scale that is not
    ranked have rank 0. The baseline is the best row whose pipeline is that of `no_filter` (of rows
    that were not submitted here: whose method has that name).
    """
    name = metric or rows[0].headline.metric
    rows = joined([by_metric(row, name) for row in rows if name in row.figures])
    if not rows:
        return []
    sign = -1 if rows[0].headline.higher_is_better else 1
    seeds = seed_spread(rows, name)
    standings = {row.submission_id: standing(row, name, seeds) for row in rows}
    rows = sorted(
        rows,
        key=lambda r: (bool(r.superseded_by), sign * standings[r.submission_id], r.submission_id),
    )
    drawn = resamples.get(name, {})
    leader = rows[0]
    choices = sum(not row.superseded_by for row in rows)
    plain = next((row for row in rows if is_baseline(row)), None)
    behind = compare_all(leader, rows, name, drawn, seeds, choices=choices)
    over = compare_all(plain, rows, name, drawn, seeds) if plain else [None] * len(rows)
    ranked_rows: list[Row] = []
    for index, (row, to_leader, to_plain) in enumerate(zip(rows, behind, over, strict=True)):
        first = index == 0
        number = index + 1
        before = ranked_rows[-1] if ranked_rows else None
        if before is not None and standings[before.submission_id] == standings[row.submission_id]:
            number = before.rank
        changed = {
            "rank": number if row.ranked and not row.superseded_by else 0,
            "behind_leader": None if first else to_leader,
            "tied_with_leader": False if first else _holds_zero(to_leader),
            "detectable": _detectable(row, seeds),
            "baseline": plain.submission_id if plain is not None else None,
            "over_baseline": _reversed(to_plain) if row is not plain else None,
        }
        ranked_rows.append(row.model_copy(update=changed))
    return ranked_rows


def _detectable(row: Row, spread: SeedSpread | None) -> float | None:
    if row.kind != "submission" or spread is None or spread.noise is None:
        return None
    return gap_for(len(row.seeds), spread.noise)


def is_baseline(row: Row) -> bool:
    """Whether a row is the benchmark's unfiltered baseline: by its pipeline, not by its name."""
    if row.kind == "submission":
        return row.baseline_of == BASELINE
    return row.method == BASELINE


def joined(rows: Sequence[Row]) -> list[Row]:
    """One row a team and dataset: the one with the most seeds, of as many the older one.

    Seeds are the first ones of the recipe's list, so more seeds hold those of fewer: whoever sends
    a dataset again adds seeds, and cannot choose the better run.
    """
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: (-len(row.seeds), row.date, row.submission_id)):
        if row.kind == "submission":
            best.setdefault((row.team, row.dataset_id), row)
    return [
        row
        if row.kind != "submission" or best[row.team, row.dataset_id] is row
        else row.model_copy(update={"superseded_by": best[row.team, row.dataset_id].submission_id})
        for row in rows
    ]


@dataclass(frozen=True)
class SeedSpread:
    """How a score varies between runs of one method: variances of one run, with their freedom.

    `order` and `draw` are not seen in seeds: all seeds of a dataset train on it in one order, and
    all rows of a sampled dataset on one sample. None: not known.
    """

    variance: float
    freedom: int
    order: tuple[float, int] | None = None
    draw: tuple[float, int] | None = None  # of a family's own draws, whatever their size
    noise: Noise | None = None

    def of_data(self, *rows: Row) -> list[tuple[float, int]]:
        """The parts of some rows' variance that their data has, beside their seeds.

        What rests on one estimate is one part, however many rows it is of: its degrees of freedom
        are there once.
        """
        variances: dict[str, float] = {}
        freedom: dict[str, int] = {}
        for row in rows:
            for name, (variance, free) in self.of_row(row).items():
                variances[name] = variances.get(name, 0.0) + variance
                freedom[name] = free
        return [(variances[name], freedom[name]) for name in variances]

    def of_row(self, row: Row) -> dict[str, tuple[float, int]]:
        """The parts of one row, by what they are of."""
        if row.sampled is not None and self.draw is not None:
            return {"draws": self.draw}  # own draws were trained in their own orders
        parts = {"order": self.order} if self.order is not None else {}
        if row.sampled is not None and self.noise is not None and self.noise.draw_freedom:
            variance = self.noise.draw_variance(row.sampled)
            parts["draw"] = (variance, self.noise.draw_freedom)
        return parts


def seed_spread(rows: Sequence[Row], metric: str) -> SeedSpread | None:
    """Pooled over the rows with several seeds and what the rule book knows; None: neither."""
    noise = _noise(rows[0], metric)
    total, freedom = 0.0, 0
    if noise is not None:
        total, freedom = noise.seed_sd**2 * noise.seed_freedom, noise.seed_freedom
    for row in rows:
        values = row.figures[metric].values
        if len(values) > 1:
            total += _variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    if not freedom:
        return None
    known = noise is not None and noise.order_freedom > 0
    order = (noise.order_sd**2, noise.order_freedom) if noise is not None and known else None
    return SeedSpread(total / freedom, freedom, order, _drawn(rows, metric), noise)


def _noise(row: Row, metric: str) -> Noise | None:
    try:
        return rules.load_benchmark(row.benchmark).scale(row.scale).noise_of(metric)
    except RuleError:
        return None


def _drawn(rows: Sequence[Row], metric: str) -> tuple[float, int] | None:
    """The variance between draws of one sampled method, pooled over the families that have some."""
    families: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.sampled is not None and row.kind == "submission":
            family = families.setdefault((row.team, row.family), {})
            family.setdefault(row.dataset_id, row.figures[metric].value)
    total, freedom = 0.0, 0
    for family in families.values():
        if len(family) > 1:
            total += _variance(list(family.values())) * (len(family) - 1)
            freedom += len(family) - 1
    return (total / freedom, freedom) if freedom else None


def standing(row: Row, metric: str, spread: SeedSpread | None) -> float:
    """What a row is ranked by: its score; with one seed, the worse end of its 95% interval.

    One run may be lucky. Where the spread between runs is not known, the score itself; rows that
    were not submitted here were published as they are.
    """
    value = row.figures[metric].value
    if row.kind != "submission" or len(row.seeds) > 1 or spread is None:
        return value
    low, high = interval(value, spread.variance, spread.freedom, 0.0, more=spread.of_data(row))
    return low if row.headline.higher_is_better else high


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


def _holds_zero(gap: Difference | None) -> bool | None:
    return None if gap is None else gap.holds_zero


def _reversed(gap: Difference | None) -> Difference | None:
    if gap is None:
        return None
    return Difference(value=-gap.value, low=-gap.high, high=-gap.low)


# ---- differences


def compare(
    better: Row,
    other: Row,
    metric: str,
    a: Values | None,
    b: Values | None,
    seeds: SeedSpread | None = None,
) -> Difference | None:
    """How far `other` is behind `better`, with a 95% interval; None when an error is not known.

    Seeds that both have are paired; without two of them, the seeds are taken as independent, and a
    row with a single one has the spread `seeds`. Items are paired where both have resamples, else
    taken as independent too, which is wider. The interval accounts for the tries of either side.
    """
    better_figure, two = better.figures[metric], other.figures[metric]
    item_variance: float | None = None
    if a is not None and b is not None:
        item_variance = float(np.var(a.astype(np.float64) - b, ddof=1))
    return _difference(better, other, (better_figure, two), item_variance, seeds)


def compare_all(
    leader: Row,
    rows: Sequence[Row],
    metric: str,
    resamples: Resamples,
    seeds: SeedSpread | None = None,
    *,
    choices: int = 1,
) -> list[Difference | None]:
    """`compare` of every row with one of them, the resamples taken together.

    `choices`: the leader was chosen as the best of so many rows.
    """
    drawn = resamples.get(leader.submission_id)
    variances: dict[str, float] = {}
    if drawn is not None:
        with_resamples = [row.submission_id for row in rows if row.submission_id in resamples]
        for start in range(0, len(with_resamples), 2000):
            part = with_resamples[start : start + 2000]
            apart = np.stack([resamples[id_] for id_ in part]) - drawn
            variances |= dict(zip(part, apart.var(axis=1, ddof=1).tolist(), strict=True))
    first = leader.figures[metric]
    return [
        _difference(
            leader,
            row,
            (first, row.figures[metric]),
            variances.get(row.submission_id),
            seeds,
            choices=choices,
        )
        for row in rows
    ]


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
        seed_variance, freedom = _variance(apart) / len(apart), len(apart) - 1
    else:
        seed_variance, freedom = _unpaired(a, b, seeds)
    tries = ((better.tries or 1) * choices, other.tries or 1)
    more: list[tuple[float, int]] = []
    if seeds is not None and better.dataset_id != other.dataset_id:
        more = seeds.of_data(better, other)
    low, high = interval(value, seed_variance, freedom, item_variance, more=more, tries=tries)
    return Difference(value=value, low=low, high=high)


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


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
            total += _variance(list(x.values())) / len(x)
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
