"""Compare training curves: where two datasets cross, and which reaches a target first.

Submissions may include the scores of checkpoints (`Evidence.curves`: step, headline, its error): of
speedruns computed from logs, of others as reported by their teams. The last point of each is the
row's own score. Within a group steps are comparable, since the recipe is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from leaderboard.board.crossing import Crossing, Point, crossing, points_of
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.speed import Measure, Reached, Speed, order, reached, speed
from leaderboard.board.spreads import SeedSpread, seed_spread
from leaderboard.service.evidence import read_evidence
from leaderboard.service.service import Service
from leaderboard.submissions.results import Row
from pipelines.errors import RuleError
from pipelines.records import Frozen

MOST = 50  # rows whose curves are read; each is one file
UNIT = "steps"
Scores = dict[float, list[float]]  # of one row: the seeds' headlines by step


class Crossings(Frozen):
    """The first row compared with the others, over the training steps."""

    svg: str
    sentences: tuple[str, ...]
    left_out: tuple[str, ...] = Field(description="one sentence for each row not compared: why")


class Racer(Frozen):
    """One row of a race to the score of the baseline."""

    row: Row
    speed: Speed


class Race(Frozen):
    """How many steps each row needs to reach the final score of the baseline."""

    target: float
    metric: str
    baseline: str
    racers: tuple[Racer, ...]


def curves_of(service: Service, row: Row) -> dict[int, list[Measure]]:
    """The scores of a row by seed, its own score last; empty without checkpoints."""
    evidence = read_evidence(service.files, service.store.get(row.submission_id))
    finals = {seed.seed: seed.value for seed in row.seeds}
    error = row.figures[row.headline.metric].item_error
    curves = {}
    for curve in evidence.curves if evidence is not None else ():
        if curve.points and curve.seed in finals:
            measures = [
                Measure(budget=max(step, 1), value=value, stderr=stderr)
                for step, value, stderr in curve.points
                if step < curve.steps
            ]
            last = Measure(budget=max(curve.steps, 1), value=finals[curve.seed], stderr=error)
            curves[curve.seed] = [*measures, last]
    return curves


def curves_checked(service: Service, row: Row) -> bool:
    """Whether the scores of a row's checkpoints were computed again from their logs."""
    evidence = read_evidence(service.files, service.store.get(row.submission_id))
    return evidence is not None and evidence.curves_checked


def crossings(service: Service, rows: Sequence[Row]) -> Crossings | None:
    """Where the curves of a group's rows cross the first row's; None with fewer than two curves."""
    scores = {row.submission_id: _scores(service, row) for row in rows}
    own = [row for row in rows if scores[row.submission_id]]
    if len(own) < 2 or own[0] is not rows[0]:
        return None
    spread = seed_spread(service.library.peers(rows[0]) or rows, rows[0].headline.metric)
    known = (spread.variance, spread.freedom) if spread is not None else None
    data_order = spread.order[0] if spread is not None and spread.order is not None else 0.0
    points = {row.submission_id: points_of(scores[row.submission_id]) for row in own}
    made: list[Crossing] = []
    left_out = []
    for row in own[1:]:
        try:
            made.append(
                crossing(
                    points[own[0].submission_id],
                    points[row.submission_id],
                    names=(_name(own[0]), _name(row)),
                    higher_is_better=rows[0].headline.higher_is_better,
                    known=known,
                    order=data_order,
                )
            )
        except RuleError as error:
            left_out.append(str(error))
    svg = crossing_plot(
        {_name(row): points[row.submission_id] for row in own},
        {_name(row): _reach(points[row.submission_id], spread) for row in own},
        made,
        metric=rows[0].headline.metric,
        unit=UNIT,
        title=f"{rows[0].headline.metric.replace('_', ' ')} over training steps",
    )
    sentences = tuple(entry.sentence(UNIT) for entry in made)
    return Crossings(svg=svg, sentences=sentences, left_out=tuple(left_out))


def race(service: Service, rows: Sequence[Row]) -> Race | None:
    """Rows ordered by the steps they need to reach the baseline's final score; None with under two.

    `rows` are of one group, ranked. A row that reaches the target before its first checkpoint is
    left out.
    """
    plain = next((row for row in rows if row.submission_id == row.baseline), None) or next(
        (row for row in rows if rows[0].baseline == row.submission_id), None
    )
    if plain is None or plain.kind != "submission":
        return None
    target, racers = plain.headline.value, []
    for row in [row for row in rows if row.kind == "submission" and row is not plain][:MOST]:
        runs: list[Reached] = []
        for seed, measures in curves_of(service, row).items():
            higher = row.headline.higher_is_better
            try:
                runs.append(reached(seed, measures, target, higher_is_better=higher))
            except RuleError:
                runs = []
                break
        if runs:
            racers.append(Racer(row=row, speed=speed(row.submission_id, runs)))
    if len(racers) < 2:
        return None
    by_id = {racer.row.submission_id: racer for racer in racers}
    ordered = [by_id[entry.method] for entry in order([racer.speed for racer in racers])]
    return Race(
        target=target,
        metric=plain.headline.metric,
        baseline=plain.method,
        racers=tuple(ordered),
    )


def _scores(service: Service, row: Row) -> Scores:
    scores: Scores = {}
    for measures in curves_of(service, row).values():
        for measure in measures:
            scores.setdefault(measure.budget, []).append(measure.value)
    return scores


def _reach(points: Sequence[Point], spread: SeedSpread | None) -> list[float]:
    """Half the 95% interval of each point's mean, by the spread of seeds; 0 where none is known."""
    variance = spread.variance if spread is not None else 0.0
    return [1.96 * (variance / len(point.scores)) ** 0.5 for point in points]


def _name(row: Row) -> str:
    return f"{row.method} ({row.word})" if row.word else row.method
