"""What the published results say: does a small run tell what a large one would, which tasks can be
trusted, how far a new version of a score reorders. Written as a page, with the service's own plots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leaderboard.board.boards import Library
from leaderboard.board.intervals import kendall
from leaderboard.board.plots import STATIC, lines
from leaderboard.published.literature import imported, literatures
from leaderboard.service.comparison import agreements
from leaderboard.submissions.results import Row
from pipelines.console import table
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore

ENOUGH = 20  # runs that a figure about tasks rests on, at least
PAGE, FOLDER = "findings.md", "findings"
COLOURS = {
    "var(--ink)": "#1b1f24",
    "var(--soft)": "#57606a",
    "var(--line)": "#d0d7de",
    "var(--lead)": "#0b5cad",
}


def write_findings(library: Library, folder: Path, *, published: Path | None = None) -> Path:
    """Write `findings.md` and its plots below `folder`; returns the page.

    `published` is a benchmark's published table as a file, where its literature looks into one.
    """
    store = LocalStore(folder)
    known = literatures()
    parts = [_head(library, [source.name for lit in known.values() for source in lit.sources])]
    for benchmark, literature in sorted(known.items()):
        if literature.headline:
            parts.append(_scales(library, benchmark, literature.headline, store))
    parts.append(_tasks([group for lit in known.values() for group in lit.runs(library)]))
    for literature in known.values():
        parts += literature.findings(library, published)
    text = "\n".join(parts).rstrip() + "\n"
    write_bytes(store, PAGE, text.encode())
    return folder / PAGE


def _head(library: Library, sources: Sequence[str]) -> str:
    boards = library.boards()
    number = sum(board.number for board in boards)
    commands = " and ".join(f"`leaderboard import {name}`" for name in sources)
    return f"""# Findings

Written by `leaderboard findings` from the published results that
{commands} bring: {number} rows on {len(boards)} boards, figures of other
people's models. Nothing here was trained by this project. Intervals of Kendall's tau are from 1,000
resamples of the methods; they hold the choice of methods, not the variance between training runs,
which these tables do not publish.
"""


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
    """The style sheet of a plot that is a file by itself: its rules, with the colours fixed."""
    rules = [
        line
        for line in (STATIC / "style.css").read_text(encoding="utf-8").splitlines()
        if line.startswith((".plot", ".s0"))
    ]
    style = "\n".join(rules)
    for variable, colour in COLOURS.items():
        style = style.replace(variable, colour)
    return style.replace(".plot text", "text", 1)
