"""What the published results say to the three questions that people bring.

Is A better than B, would it be so at ten times the size, which figure can be trusted? Written as a
page, with charts.

Claims carry intervals, and the page ends with what the tables cannot hold.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leaderboard.board.boards import Library
from leaderboard.board.intervals import kendall
from leaderboard.board.plots import STATIC, Interval, intervals, lines
from leaderboard.board.power import PUBLISHED, seeds_for
from leaderboard.published.decisions import every_metric
from leaderboard.published.literature import imported, literatures
from leaderboard.service.comparison import agreements
from leaderboard.service.over_budgets import over_budgets
from leaderboard.submissions.results import Row
from pipelines.console import table
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore

KNOWN = 1_000_000  # degrees of freedom of a deviation that is taken as known
LINE = 110  # characters of a line of the page
ENOUGH = 20  # runs that a figure about tasks rests on, at least
PAGE, FOLDER = "findings.md", "findings"
OWN_RUNS = "## What our own tiny scales decide"
COLOURS = {
    "var(--ink)": "#1b1f24",
    "var(--soft)": "#57606a",
    "var(--line)": "#d0d7de",
    "var(--lead)": "#0b5cad",
}


def write_findings(library: Library, folder: Path, *, published: Sequence[Path] = ()) -> Path:
    """Write `findings.md` and its plots below `folder`; returns the page.

    `published` are benchmarks' published tables as files. DataError for one that none knows.
    """
    store = LocalStore(folder)
    known = literatures()
    parts = [_head(library, [source.name for lit in known.values() for source in lit.sources])]
    parts.append(_power())
    for benchmark, literature in sorted(known.items()):
        if literature.headline:
            parts.append(_scales(library, benchmark, literature.headline, store))
    parts += [_decisions(path, store) for path in published]
    parts.append(_worth(library, [name for name, lit in sorted(known.items()) if lit.headline]))
    parts.append(_tasks([group for lit in known.values() for group in lit.runs(library)]))
    for literature in known.values():
        tables = [path for path in published if literature.ladder(path, ()) is not None]
        parts += literature.findings(library, tables[0] if tables else None)
    parts.append(LIMITS)
    text = _filled("\n".join(parts)).rstrip() + "\n" + _own_runs(folder / PAGE)
    write_bytes(store, PAGE, text.encode())
    return folder / PAGE


def _own_runs(page: Path) -> str:
    """The section on runs of this project, which `make soak` writes: it stays as it is."""
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    _, heading, section = before.partition(f"\n{OWN_RUNS}\n")
    return heading + section


def _filled(text: str) -> str:
    """Markdown with paragraphs and list items in lines of even length; all else as it is."""
    blocks, code = [], False
    for block in text.split("\n\n"):
        begins = code
        code ^= block.count("```") % 2 == 1
        if begins or "```" in block or block.lstrip().startswith(("#", "|", "!")):
            blocks.append(block)
            continue
        items = re.split(r"\n(?=- )", block.strip("\n"))
        filled = [
            textwrap.fill(
                " ".join(item.split()),
                LINE,
                subsequent_indent="  " if item.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for item in items
        ]
        blocks.append("\n".join(filled))
    return "\n\n".join(blocks)


def _head(library: Library, sources: Sequence[str]) -> str:
    boards = library.boards()
    number = sum(board.number for board in boards)
    commands = " and ".join(f"`leaderboard import {name}`" for name in sources)
    return f"""# Findings

Written by `leaderboard findings` from the published results that
{commands} bring: {number} rows on {len(boards)} boards, figures of other
people's models. Only the last section, where there is one, is of runs of this project. Intervals
of Kendall's tau are from 1,000 resamples of the methods; they hold the choice of methods, not the
variance between training runs, which these tables do not publish.
"""


LIMITS = """## What these tables cannot say

- **Chance between runs.** Nearly all published runs have one seed. The one published set of repeats
  (seven identical runs of nanochat) has a standard deviation of .0052 in CORE; differences below
  .015 between two single runs are within it.
- **What was not published.** A table holds the runs that its authors chose to keep, and datasets
  that were followed to a large scale are those that looked good at a small one.
- **Other recipes.** All runs of a scale have one recipe. Whether an order holds at another learning
  rate or budget cannot be read here; `run --recipe-check low-rate` and `cross` ask it of your own
  runs.
- **Causes.** Datasets differ in many steps at once; `ablate` takes one step out at a time.
"""


def _power() -> str:
    """How many seeds a gap takes, where one run's noise is known."""
    gaps = (0.002, 0.004, 0.005, 0.008, 0.0125)
    metric, noise = next(iter(PUBLISHED.items()))
    known = noise.model_copy(update={"seed_freedom": KNOWN})
    rows = [
        (f"{gap:g}", seeds_for(gap, known) or "-", seeds_for(gap, noise) or "-") for gap in gaps
    ]
    header = ("gap", "seeds an arm", f"with {noise.seed_freedom} degrees of freedom")
    return f"""## Is A better than B?

A difference of two runs can be believed from a size on that depends on how far one run moves by
chance. For `{metric}` that is known from {noise.source}: a standard deviation of
{noise.seed_sd:g}. To see a gap with 80% power takes so many seeds of each dataset, with the
deviation taken as known, and with its own uncertainty:

```
{table(rows, header=header)}
```

`plan --detect GAP` says the same for a scale, from noise that was measured there where somebody
did.
"""


# ---- decisions

COIN = 0.5  # of the pairs ordered alike, by chance
SHOWN = 14  # metrics in the chart, and as many at the other end in words


def _decisions(path: Path, store: LocalStore) -> str:
    """Which figure of a cheap run orders datasets as the headline of a dear one does."""
    results = every_metric(path)
    if not results:
        return ""
    first = results[0]
    sure = [entry for entry in results if not entry.at_chance]
    chance = [entry.metric for entry in results if entry.at_chance]
    coin = [entry.metric for entry in sure if entry.low <= COIN]
    own = next((entry for entry in results if entry.metric == entry.target), None)
    chart = [
        Interval(
            entry.metric,
            entry.accuracy,
            entry.low,
            entry.high,
            title=f"{entry.metric}: {entry.accuracy:.3f} [{entry.low:.3f}, {entry.high:.3f}]",
            css="rest" if entry.low <= COIN else "lead",
        )
        for entry in sure[:SHOWN]
    ]
    title = f"decision accuracy of {first.small} for {first.target} at {first.large}"
    name = f"{FOLDER}/decisions-{path.stem}.svg"
    svg = intervals(
        chart,
        title=title,
        axis="pairs ordered alike; the line is a coin",
        span=(0.0, 1.0),
        mark=COIN,
        style=_style(),
    )
    write_bytes(store, name, f"{svg}\n".encode())
    cost = "" if first.cost is None else f", at {first.cost:.2%} of the cost of one"
    itself = (
        ""
        if own is None
        else f"`{own.target}` itself is right in {own.accuracy:.0%} "
        f"[{own.low:.0%}, {own.high:.0%}]."
    )
    return f"""## Which figure of a small run decides? {path.stem}

{first.num_methods} datasets were trained at {first.small} and at {first.large}{cost}. Of their
{first.num_pairs} pairs, how many does a metric of the small runs order as `{first.target}` of the
large ones does? The intervals resample datasets. {itself}

![{title}]({name})

At chance at the small scale, so they decide nothing: {", ".join(chance) or "none"}.

Above chance, but not shown to be better than a coin: {len(coin)} of {len(sure)}
metrics{_first(coin)}.
"""


def _first(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" ({', '.join(names[:SHOWN])}{more})"


# ---- scales


def by_scale(
    library: Library, benchmark: str, metric: str
) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """The best value of every method at each ranked scale that has imported rows."""
    scales = [
        board.scale
        for board in library.boards()
        if board.benchmark == benchmark and board.track == "filtering"
    ]
    by_method: dict[str, dict[str, float]] = {}
    for scale in scales:
        for row in imported(library, benchmark, scale):
            if metric in row.figures:
                scores = by_method.setdefault(row.method, {})
                scores[scale] = max(scores.get(scale, -math.inf), row.figures[metric].value)
    several = {name: values for name, values in by_method.items() if len(values) > 1}
    used = [scale for scale in scales if any(scale in values for values in several.values())]
    return used, [(name, [v.get(scale) for scale in used]) for name, v in sorted(several.items())]


def _scales(library: Library, benchmark: str, metric: str, store: LocalStore) -> str:
    scales, methods = by_scale(library, benchmark, metric)
    if len(scales) < 2:
        return ""
    most = sorted(methods, key=lambda item: -sum(value is not None for value in item[1]))[:12]
    name = f"{FOLDER}/{benchmark}-scales.svg"
    title = f"{metric} across scales of {benchmark}"
    plot = lines(most, steps=scales, axis=metric.replace("_", " "), title=title, style=_style())
    write_bytes(store, name, f"{plot}\n".encode())
    agreed = agreements(scales, methods)
    rows = [
        (
            f"{agreement.a}, {agreement.b}",
            agreement.number,
            _number(agreement.tau),
            "too few"
            if agreement.low is None
            else f"{agreement.low:.2f} to {_number(agreement.high)}",
        )
        for agreement in agreed
    ]
    best = _best(scales, methods)
    return f"""## Does a small scale predict a large one? {benchmark}

{metric}, best run of each method with runs at two scales or more.

```
{table(rows, header=("scales", "methods", "tau", "95% interval"))}
```

{best}

![{title}]({name})
"""


def _worth(library: Library, benchmarks: Sequence[str]) -> str:
    """What filters of the tables are worth in unfiltered data, and of how many it is unknown."""
    lines = [
        "## What is a filter worth?",
        "",
        "The price of a filter is the amount of unfiltered data that gives its score under the "
        "same model, read between the budgets at which the unfiltered pool was trained and never "
        "beyond them. One run each, and no noise is published at these scales, so there is no "
        "interval.",
    ]
    for benchmark in benchmarks:
        made = over_budgets(library, benchmark)
        known = [
            (worth.row.method, worth.scale, f"{worth.times:.2f} times")
            for worth in made.worth
            if worth.times is not None
        ]
        lines += ["", f"### {benchmark}"]
        if known:
            header = ("filter", "scale", "price in unfiltered data")
            lines += ["", "```", table(known, header=header), "```"]
        if made.unpriced:
            lines += ["", f"{made.unpriced}."]
    return "\n".join([*lines, ""])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _best(scales: Sequence[str], methods: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """The rank of the winner of a scale at the next larger ones."""
    sentences = []
    for i, j in combinations(range(len(scales)), 2):
        both = [(name, v[i], v[j]) for name, v in methods if v[i] is not None and v[j] is not None]
        if len(both) < 3:
            continue
        winner = max(both, key=lambda method: method[1] or -math.inf)
        rank = 1 + sum((method[2] or 0) > (winner[2] or 0) for method in both)
        name = winner[0] if len(winner[0]) <= 60 else f"{winner[0][:57]}..."
        sentences.append(
            f"- the best of {len(both)} at {scales[i]} (`{name}`) is number {rank} at {scales[j]}"
        )
    return "\n".join(sentences)


# ---- tasks


@dataclass(frozen=True)
class TaskSignal:
    """How much of a task's variance between runs is not chance, and what it says of the rest."""

    name: str
    mean: float
    spread: float
    noise: float | None
    signal: float | None
    tau: float


def task_signal(
    name: str,
    values: npt.NDArray[np.float64],
    rest: npt.NDArray[np.float64],
    items: int | None,
) -> TaskSignal:
    """`items` None where the metric is not a share of questions: then its chance is not known."""
    spread = float(values.std(ddof=1))
    chance = float(np.mean(values * (1 - values))) / items if items else None
    return TaskSignal(
        name=name,
        mean=float(values.mean()),
        spread=spread,
        noise=None if chance is None else math.sqrt(chance),
        signal=None if chance is None or not spread else max(0.0, 1 - chance / spread**2),
        tau=kendall(values.tolist(), rest.tolist()),
    )


def task_signals(rows: Sequence[Row]) -> list[TaskSignal]:
    """Every task over these runs, next to the mean of all other tasks, all centered."""
    names = [task.task for task in rows[0].tasks]
    scores_of = [{task.task: task for task in row.tasks} for row in rows]
    shared = [name for name in names if sum(name in scores for scores in scores_of) == len(rows)]
    values = {name: np.array([scores[name].value for scores in scores_of]) for name in shared}
    centered = {}
    for name in shared:
        guess = scores_of[0][name].random_baseline or 0.0
        centered[name] = (values[name] - guess) / (1 - guess)
    whole = np.sum([centered[name] for name in shared], axis=0)
    signals = []
    for name in shared:
        rest = (whole - centered[name]) / max(len(shared) - 1, 1)
        task = scores_of[0][name]
        items = task.num_items if task.stderr is not None else None
        signals.append(task_signal(name, values[name], rest, items))
    return signals


def _tasks(groups: Sequence[tuple[str, Sequence[Row]]]) -> str:
    parts = ["## Which tasks carry the signal, and which the noise?\n"]
    for title, rows in groups:
        if len(rows) < ENOUGH:
            continue
        signals = sorted(task_signals(rows), key=lambda signal: -signal.tau)
        lines_ = [
            (
                signal.name,
                f"{signal.mean:.3f}",
                f"{signal.spread:.3f}",
                "-" if signal.noise is None else f"{signal.noise:.3f}",
                "-" if signal.signal is None else f"{100 * signal.signal:.0f}%",
                f"{signal.tau:.2f}",
            )
            for signal in signals
        ]
        header = ("task", "mean", "spread", "chance", "signal", "tau with the rest")
        low = [
            signal.name for signal in signals if signal.signal is not None and signal.signal < 0.5
        ]
        parts.append(
            f"""### {title}: {len(rows)} runs

`spread` is the standard deviation between runs; `chance` what the number of questions alone would
give, were they drawn anew for each run (all runs answer the same ones, so it is an upper bound);
`signal` the part of the variance that is more than that, a lower bound; `tau` the agreement of the
task's order with the mean of all other tasks.

```
{table(lines_, header=header)}
```

Less than half of the variance is signal in: {", ".join(low) or "none"}.
"""
        )
    return "\n".join(parts)


# ---- plots as files


def _style() -> str:
    """The style sheet of a plot in a file of its own: the rules, with fixed colours."""
    rules = [
        line
        for line in (STATIC / "style.css").read_text(encoding="utf-8").splitlines()
        if line.startswith((".plot", ".s0"))
    ]
    style = "\n".join(rules)
    for variable, colour in COLOURS.items():
        style = style.replace(variable, colour)
    return style.replace(".plot text", "text", 1)
