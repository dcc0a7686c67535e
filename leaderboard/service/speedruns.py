"""The speedruns of a benchmark: how much training each dataset takes to its scale's target.

An entry of a speedrun track has the logs of every checkpoint of every seed; each score on a curve
was computed from them. Entries from before logs were sent are named, and have no place.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pydantic import Field

from leaderboard import rules
from leaderboard.board.boards import View
from leaderboard.board.crossing import Point, points_of
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.speed import Measure, Speed, order, reached, score_at, speed
from leaderboard.board.spreads import seed_spread
from leaderboard.rules import Scale, SpeedrunRule
from leaderboard.service.service import Service
from leaderboard.service.training_curves import curves_checked, curves_of
from leaderboard.submissions.results import BASELINE, Row
from pipelines.errors import RuleError
from pipelines.installed import packages
from pipelines.records import Frozen

SEEDS = 3  # runs that a place in the list takes
MOST = 100  # entries of a scale that are read, the best by final score
MOST_CURVES = 6  # that are drawn: colours that can be distinguished


class Racer(Frozen):
    """One entry: where it reaches the target."""

    row: Row
    speed: Speed
    rank: int = Field(description="0: fewer than three seeds, or the target is not reached")

    @property
    def few(self) -> bool:
        """Whether it has fewer seeds than a place takes."""
        return len(self.speed.reached) < SEEDS

    @property
    def missed(self) -> int:
        """Seeds that did not reach the target."""
        return sum(run.budget is None for run in self.speed.reached)


class Track(Frozen):
    """The speedrun of one scale."""

    scale: str
    track: str
    metric: str
    higher_is_better: bool
    target: float | None = Field(description="None: it is the baseline's, which is not here yet")
    share: float | None = Field(description="part of the baseline's budget that has the target")
    unit: str
    racers: tuple[Racer, ...]
    left_out: tuple[str, ...] = Field(description="a sentence for each entry without a result")
    svg: str = ""


def speedruns(service: Service, benchmark: str) -> list[Track]:
    """The speedruns of a benchmark's scales that have a target. KeyError for an unknown one."""
    if benchmark not in packages():
        raise KeyError(f"there is no benchmark {benchmark}")
    book = rules.load_benchmark(benchmark)
    names = [track.name for track in book.tracks if track.speedrun]
    return [
        _track(service, benchmark, scale, scale.speedrun, name, book.budget_unit)
        for scale in book.scales
        for name in names
        if scale.speedrun is not None and name in book.tracks_of(scale.name)
    ]


def _track(
    service: Service, benchmark: str, scale: Scale, rule: SpeedrunRule, track: str, unit: str
) -> Track:
    rows = _rows(service, benchmark, scale.name, track)
    left_out = [
        f"{row.method}: its bundle has no logs of checkpoints, so its curve was not checked; "
        "withdraw it and send it again, made by `speedrun --submit`"
        for row in rows
        if not curves_checked(service, row)
    ]
    rows = [row for row in rows if curves_checked(service, row)]
    curves = {row.submission_id: _by_budget(service, row) for row in rows}
    target = rule.target
    if target is None:
        target = _baselines(rows, curves, rule)
    racers: list[tuple[Row, Speed]] = []
    for row in rows if target is not None else ():
        assert target is not None
        higher = row.headline.higher_is_better
        if not curves[row.submission_id]:
            left_out.append(f"{row.method}: its scores of checkpoints cannot be read")
            continue
        try:
            runs = [
                reached(seed, measures, target, higher_is_better=higher)
                for seed, measures in sorted(curves[row.submission_id].items())
            ]
        except RuleError as error:
            left_out.append(f"{row.method}: {error}")
            continue
        racers.append((row, speed(row.submission_id, runs)))
    first = rows[0].headline if rows else None
    return Track(
        scale=scale.name,
        track=track,
        metric=first.metric if first is not None else "",
        higher_is_better=first is not None and first.higher_is_better,
        target=target,
        share=rule.baseline_share,
        unit=unit,
        racers=tuple(_ranked(racers)),
        left_out=tuple(left_out),
        svg=_plot(scale.name, _ranked(racers), curves, target, unit) if racers else "",
    )


def _rows(service: Service, benchmark: str, scale: str, track: str) -> list[Row]:
    """The entries of the largest group of comparable ones; an entry with more seeds replaces one
    of the same dataset."""
    page = service.library.page(benchmark, scale, track, View(limit=MOST))
    return [row for row in page.rows if not row.superseded_by]


def _by_budget(service: Service, row: Row) -> dict[int, list[Measure]]:
    """The measures of each seed at what was seen until then, in place of its steps."""
    seen = row.budget.seen
    curves = curves_of(service, row)
    return {
        seed: [
            measure.model_copy(update={"budget": seen * measure.budget / measures[-1].budget})
            for measure in measures
        ]
        for seed, measures in curves.items()
        if seen
    }


def _baselines(
    rows: Sequence[Row], curves: dict[str, dict[int, list[Measure]]], rule: SpeedrunRule
) -> float | None:
    """What the unfiltered pool scores at the rule's part of its budget; None without an entry.

    Of several entries of it, the one with the most seeds.
    """
    assert rule.baseline_share is not None
    own = [row for row in rows if row.baseline_of == BASELINE and curves[row.submission_id]]
    if not own:
        return None
    measures = curves[max(own, key=lambda row: len(row.seeds)).submission_id].values()
    try:
        return fmean(score_at(side, rule.baseline_share * side[-1].budget) for side in measures)
    except RuleError:
        return None


def _ranked(racers: Sequence[tuple[Row, Speed]]) -> list[Racer]:
    """The fastest first; then those with fewer seeds than a place takes, as fast as they were."""
    rows = {row.submission_id: row for row, _ in racers}
    entries = [
        Racer(row=rows[entry.method], speed=entry, rank=0)
        for entry in order([entry for _, entry in racers])
    ]
    placed = [racer for racer in entries if not racer.few and racer.speed.budget is not None]
    ranked = [racer.model_copy(update={"rank": n}) for n, racer in enumerate(placed, start=1)]
    return [*ranked, *(racer for racer in entries if racer not in placed)]


def _plot(
    scale: str,
    racers: Sequence[Racer],
    curves: dict[str, dict[int, list[Measure]]],
    target: float | None,
    unit: str,
) -> str:
    """The mean score of the first entries over what they have seen, with the target."""
    drawn = racers[:MOST_CURVES]
    first = drawn[0].row
    spread = seed_spread([racer.row for racer in racers], first.headline.metric)
    variance = spread.variance if spread is not None else 0.0
    points: dict[str, list[Point]] = {}
    for racer in drawn:
        scores: dict[float, list[float]] = {}
        for measures in curves[racer.row.submission_id].values():
            for measure in measures:
                scores.setdefault(measure.budget, []).append(measure.value)
        points[_label(racer.row)] = points_of(scores)
    errors = {
        name: [1.96 * (variance / len(point.scores)) ** 0.5 for point in side]
        for name, side in points.items()
    }
    name = first.headline.metric.replace("_", " ")
    return crossing_plot(
        points,
        errors,
        (),
        metric=first.headline.metric,
        unit=unit,
        title=f"{name} over the {unit} seen, speedrun of {scale}",
        target=target,
    )


def _label(row: Row) -> str:
    return f"{row.method} ({row.word})" if row.word else row.method


__all__ = ["Racer", "Track", "speedruns"]
