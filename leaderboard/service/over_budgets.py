"""Rows of several scales as curves over the budget: where do two methods cross, what is one worth?

A point is a method's best row at a scale, at the training budget of that scale's recipe. Scales
differ in the model and the pool, too; so a crossing says that the order of two methods changes up
the ladder, not why. `no_filter` is always one of the curves where it has rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from pydantic import Field

from leaderboard import rules
from leaderboard.benchmark import load_stages
from leaderboard.board.boards import MAX_LIMIT, Library, View
from leaderboard.board.crossing import (
    FEWEST,
    Crossing,
    Point,
    apart_at_each,
    crossing,
    prices,
    spread,
)
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.intervals import CONFIDENCE, student_quantile
from leaderboard.board.power import noise_of
from leaderboard.rules import Benchmark, Noise
from leaderboard.service.comparison import boards_of
from leaderboard.submissions.results import BASELINE, Row
from pipelines.errors import RuleError
from pipelines.execution.progress import short
from pipelines.installed import packages
from pipelines.records import Frozen, digest

MOST_LINES = 6  # colours that can be distinguished
UNKNOWN = "unknown: "
FEW_LINES = 4  # up to so many, every pair is judged; of more, each against the first


class Worth(Frozen):
    """The price of a filter at one scale, in words; `unknown` with its reason, never 0."""

    row: Row
    scale: str
    sentence: str
    times: float | None = Field(description="as much unfiltered data; None: unknown")

    @property
    def known(self) -> bool:
        """Whether there is a price."""
        return self.times is not None


class OverBudgets(Frozen):
    """The curves of some methods of a benchmark, and what they say."""

    track: str
    metric: str
    metrics: tuple[str, ...]
    unit: str
    methods: tuple[str, ...] = Field(description="all that could be chosen, most scales first")
    rows: dict[str, tuple[Row, ...]] = Field(description="of each curve, the smallest scale first")
    points: dict[str, tuple[Point, ...]]
    svg: str
    verdicts: tuple[str, ...]
    noise: str = Field(description="what is known of the noise between runs, in a sentence")
    worth: tuple[Worth, ...] = Field(description="of the curves, and every other that is known")
    unpriced: str = Field(description="how many rows have no price and why, in a sentence")
    plain: bool = Field(description="whether `no_filter` is one of the curves")


@dataclass
class _Ladder:
    """The rows of a benchmark's track that have a budget, by method, the smallest scale first."""

    book: Benchmark
    track: str
    budgets: dict[str, float]  # by scale
    models: dict[str, str]  # by scale: what identifies its model
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)  # by method and scale
    metrics: list[str] = field(default_factory=list)

    def points(self, method: str, metric: str) -> list[Point]:
        return [
            Point(budget=self.budgets[scale], scores=row.figures[metric].values)
            for scale, row in self.rows[method].items()
            if metric in row.figures
        ]


def over_budgets(
    library: Library,
    benchmark: str,
    *,
    track: str = "",
    metric: str = "",
    names: Sequence[str] = (),
) -> OverBudgets:
    """The curves of `names`, or of the methods with rows at the most scales.

    KeyError for an unknown benchmark, track, metric or method, and for more than `MOST_LINES`.
    """
    ladder = _ladder(library, benchmark, track)
    if metric and metric not in ladder.metrics:
        raise KeyError(f"no row of {benchmark} with a budget has a metric {metric!r}")
    metric = metric or (ladder.metrics[0] if ladder.metrics else "")
    points = {name: ladder.points(name, metric) for name in ladder.rows} if metric else {}
    unknown = [name for name in names if not points.get(name)]
    if unknown:
        raise KeyError(f"no row of {benchmark} with a budget has the method {unknown[0]!r}")
    higher = _higher(ladder, metric)
    sign = -1.0 if higher else 1.0
    several = sorted(
        (name for name, side in points.items() if len(side) > 1),
        key=lambda name: (-len(points[name]), sign * points[name][-1].mean, name),
    )
    chosen = list(dict.fromkeys([*([BASELINE] if points.get(BASELINE) else []), *names]))
    if len(chosen) > MOST_LINES:
        raise KeyError(f"at most {MOST_LINES} curves, {BASELINE} included")
    if not names:
        chosen = [*chosen, *(name for name in several if name != BASELINE)][:MOST_LINES]
    shown = {name: tuple(points[name]) for name in chosen}
    scales = {s for name in chosen for s, r in ladder.rows[name].items() if metric in r.figures}
    noise, said = _noise(ladder, metric, sorted(scales, key=ladder.budgets.__getitem__))
    verdicts, crossed = _verdicts(shown, noise, unit=ladder.book.budget_unit, higher=higher)
    everything = [*chosen, *sorted(set(points) - set(chosen))]
    worth = _worth(ladder, metric, everything, noise, higher=higher)
    return OverBudgets(
        track=ladder.track,
        metric=metric,
        metrics=tuple(ladder.metrics),
        unit=ladder.book.budget_unit,
        methods=tuple(several),
        rows={
            name: tuple(row for row in ladder.rows[name].values() if metric in row.figures)
            for name in chosen
        },
        points=shown,
        svg=_plot(ladder, shown, crossed, noise, metric),
        verdicts=tuple(verdicts),
        noise=said,
        worth=tuple(w for w in worth if w.known or w.row.method in chosen),
        unpriced=_unpriced(worth, ladder.track),
        plain=BASELINE in shown,
    )


def _ladder(library: Library, benchmark: str, track: str) -> _Ladder:
    """Each scale's largest group of comparable rows, and of each method its best row there.

    A figure that was written down from memory gives way to any other.
    """
    if benchmark not in packages():
        raise KeyError(f"there is no benchmark {benchmark}")
    book = rules.load_benchmark(benchmark)
    track = track or book.tracks[0].name
    if track not in [rule.name for rule in book.tracks]:
        raise KeyError(f"benchmark {benchmark} has no track {track}")
    stages = load_stages(benchmark)
    with_rows = {b.scale for b in boards_of(library, benchmark) if b.track == track}
    ladder = _Ladder(book, track, {}, {})
    recipes = [(s.name, stages.recipe(s.recipe)) for s in book.scales if s.name in with_rows]
    budgets: dict[str, float] = {}
    for scale, recipe in recipes:
        budget = float(stages.budget(recipe))
        if budget not in budgets.values():  # the same recipe on another pool is another ladder
            budgets[scale] = budget
            ladder.models[scale] = digest(recipe.model_dump(mode="json").get("model"))
    ladder.budgets = dict(sorted(budgets.items(), key=lambda pair: pair[1]))
    number: dict[str, int] = {}
    headlines: dict[str, None] = {}
    for scale in ladder.budgets:
        page = library.page(benchmark, scale, track, View(limit=MAX_LIMIT))
        for row in page.rows:
            at = ladder.rows.setdefault(row.method, {})
            if scale not in at or (at[scale].from_memory and not row.from_memory):
                at[scale] = row
            headlines[row.headline.metric] = None
        for name in {name for row in page.rows for name in row.figures}:
            number[name] = number.get(name, 0) + 1
    first = sorted(headlines, key=lambda name: -number[name])
    ladder.metrics = [*first, *sorted(n for n in number if number[n] > 1 and n not in headlines)]
    return ladder


def _higher(ladder: _Ladder, metric: str) -> bool:
    figures = (row.figures.get(metric) for at in ladder.rows.values() for row in at.values())
    return next((figure.higher_is_better for figure in figures if figure is not None), True)


def _noise(ladder: _Ladder, metric: str, scales: Sequence[str]) -> tuple[Noise | None, str]:
    """The largest noise that is known at these scales, and what to say of it."""
    found_at = [(scale, noise_of(ladder.book.scale(scale), metric)) for scale in scales]
    known = [(scale, *pair) for scale, pair in found_at if pair is not None]
    name = metric.replace("_", " ")
    if not known:
        return None, (
            f"Nothing is known of the noise of {name} between runs at these scales, so only "
            "methods with several seeds can be distinguished"
        )
    scale, noise, here = max(known, key=lambda entry: (entry[1].seed_sd, entry[2]))
    source = f"measured at {scale}" if here else noise.source
    text = (
        f"Between runs, {name} is taken to have a standard deviation of {noise.seed_sd:.4g} over "
        f"seeds ({source})"
    )
    others = [other for other, pair in found_at if pair is None or not pair[1]]
    if here and others:
        text += f"; it was not measured at {', '.join(others)}"
    return noise, text


def _known(noise: Noise | None) -> tuple[float, int] | None:
    return None if noise is None else (noise.seed_sd**2, noise.seed_freedom)


def _order(noise: Noise | None) -> float:
    return 0.0 if noise is None else noise.order_sd**2


def _verdicts(
    shown: Mapping[str, Sequence[Point]], noise: Noise | None, *, unit: str, higher: bool
) -> tuple[list[str], list[Crossing]]:
    """A sentence for each pair, and the fitted crossings."""
    pairs = list(combinations(shown, 2))
    if len(shown) > FEW_LINES:
        pairs = [pair for pair in pairs if pair[0] == next(iter(shown))]
    sentences: list[str] = []
    crossed: list[Crossing] = []
    for names in pairs:
        sides = [shown[name] for name in names]
        shared = {p.budget for p in sides[0]} & {p.budget for p in sides[1]}
        if len(shared) < 2:
            sentences.append(
                f"{names[0]} and {names[1]} have rows at {len(shared)} common budgets: unknown"
            )
            continue
        try:
            if len(shared) >= FEWEST:
                crossed.append(
                    crossing(
                        *sides,
                        names=names,
                        higher_is_better=higher,
                        known=_known(noise),
                        order=_order(noise),
                    )
                )
                sentences.append(crossed[-1].sentence(unit))
            else:
                sentences.append(_at_few(sides, names, noise, unit=unit, higher=higher))
        except RuleError:  # one run each, and no noise is known
            sentences.append(_as_printed(sides, names, unit=unit, higher=higher))
    return sentences, crossed


def _at_few(
    sides: Sequence[Sequence[Point]],
    names: tuple[str, str],
    noise: Noise | None,
    *,
    unit: str,
    higher: bool,
) -> str:
    """Two methods at two or three budgets: what each budget shows, and nothing between them."""
    verdicts = apart_at_each(
        *sides, names=names, higher_is_better=higher, known=_known(noise), order=_order(noise)
    )
    texts = [
        f"{ahead} ahead at {short(budget)}" if ahead else f"not distinguishable at {short(budget)}"
        for budget, ahead in verdicts
    ]
    return (
        f"{names[0]} and {names[1]}: {', '.join(texts)} {unit}; between and beyond these unknown, "
        f"as a curve takes {FEWEST} budgets"
    )


def _as_printed(
    sides: Sequence[Sequence[Point]], names: tuple[str, str], *, unit: str, higher: bool
) -> str:
    """The order of single runs whose noise nobody knows: who is ahead is unknown everywhere."""
    by_budget = [{point.budget: point.mean for point in side} for side in sides]
    best: dict[str, list[str]] = {}
    for budget in sorted(set(by_budget[0]) & set(by_budget[1])):
        gap = by_budget[1][budget] - by_budget[0][budget]
        name = "neither" if not gap else names[1] if (gap > 0) == higher else names[0]
        best.setdefault(name, []).append(short(budget))
    texts = [f"{name} at {', '.join(budgets)} {unit}" for name, budgets in best.items()]
    return (
        f"{names[0]} and {names[1]}: unknown. As printed, the better score is that of "
        f"{'; of '.join(texts)}, one run each"
    )


def _plot(
    ladder: _Ladder,
    shown: Mapping[str, Sequence[Point]],
    crossed: Sequence[Crossing],
    noise: Noise | None,
    metric: str,
) -> str:
    if len({point.budget for side in shown.values() for point in side}) < 2:
        return ""
    every = [point for side in shown.values() for point in side]
    try:
        variance, freedom = spread(every, _known(noise))
    except RuleError:
        variance, freedom = 0.0, 1
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    errors = {
        name: [reach * (variance / len(p.scores) + _order(noise)) ** 0.5 for p in side]
        for name, side in shown.items()
    }
    name = metric.replace("_", " ")
    return crossing_plot(
        shown,
        errors,
        crossed,
        metric=metric,
        unit=ladder.book.budget_unit,
        title=f"{name} over the budgets of the scales of {ladder.book.name}",
        in_words=False,
    )


def _worth(
    ladder: _Ladder, metric: str, chosen: Sequence[str], noise: Noise | None, *, higher: bool
) -> list[Worth]:
    """What each filter is worth at each scale, in unfiltered data under the same model."""
    plain = ladder.rows.get(BASELINE, {})
    unit = ladder.book.budget_unit
    worth: list[Worth] = []
    for method in chosen:
        if method == BASELINE:
            continue
        for scale in ladder.budgets:
            row = ladder.rows[method].get(scale)
            if row is None or metric not in row.figures:
                continue
            curve = [
                Point(budget=ladder.budgets[other], scores=plain_row.figures[metric].values)
                for other, plain_row in plain.items()
                if metric in plain_row.figures and ladder.models[other] == ladder.models[scale]
            ]
            point = Point(budget=ladder.budgets[scale], scores=row.figures[metric].values)
            times, text = _price(curve, point, noise, unit=unit, higher=higher)
            sentence = text if times is not None else f"{UNKNOWN}{text}"
            worth.append(Worth(row=row, scale=scale, times=times, sentence=sentence))
    return worth


def _unpriced(worth: Sequence[Worth], track: str) -> str:
    reasons = Counter(e.sentence.removeprefix(UNKNOWN) for e in worth if not e.known)
    if not reasons:
        return ""
    whole = f"Of {len(worth)} rows of the {track} track that have a budget"
    because = "; ".join(f"of {number:,} because {why}" for why, number in reasons.most_common())
    return f"{whole}, the price is unknown {because}"


def _price(
    curve: Sequence[Point], point: Point, noise: Noise | None, *, unit: str, higher: bool
) -> tuple[float | None, str]:
    """The price, and the sentence that says it; or None, and why."""
    if not curve:
        return None, f"there is no row of {BASELINE} with this model"
    if len(curve) < 2:
        return None, f"{BASELINE} was trained with this model at one budget alone"
    try:
        [price] = prices(
            curve, [point], higher_is_better=higher, known=_known(noise), order=_order(noise)
        )
        note = ""
    except RuleError:
        [price] = prices(curve, [point], higher_is_better=higher, noise_unknown=True)
        note = "; no interval, as nothing is known of the noise between runs"
    low, high = (short(end.budget) for end in (min(curve, key=_at), max(curve, key=_at)))
    tried = f"the budgets of {BASELINE} with this model, {low} to {high} {unit}"
    if price.times is None:
        side = "more than all" if price.beyond else "less than any"
        return None, f"it is {side} of {tried}"
    ends = [f"{end:.2f}" if end is not None else "?" for end in (price.low, price.high)]
    interval = "" if note else f" [{ends[0]}, {ends[1]}]"
    return (
        price.times,
        f"{price.times:.2f}{interval} times as much unfiltered data{note}; read in {tried}",
    )


def _at(point: Point) -> float:
    return point.budget


__all__ = ["OverBudgets", "Worth", "over_budgets"]
