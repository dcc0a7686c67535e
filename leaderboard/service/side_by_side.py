"""Two to five rows side by side: every figure, category and task, each against one reference.

All of it is computed from what the checks wrote: resamples of tasks, and the contribution of each
question. A pair is computed once and cached for as long as both bundles are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from leaderboard.board.columns import category_parts, centered
from leaderboard.board.intervals import interval
from leaderboard.board.paired import GROUP, Paired, compare_values
from leaderboard.board.ranking import compare, group_of
from leaderboard.board.spreads import seed_spread
from leaderboard.service.evidence import read_answers, read_draws
from leaderboard.service.service import Service
from leaderboard.submissions.results import Difference, Row, TaskValue
from pipelines.records import Frozen

MOST_PAIRS = 256  # cached; about 20 KB each with the tasks of CORE

# A 95% interval reaches 1.96 standard errors; 80% power needs a difference of 2.80 (1.96 + 0.84).
REACH_TO_DETECTABLE = 2.8015852 / 1.9599640

Draws = npt.NDArray[np.float32]
PairOfTasks = Mapping[str, Paired]


class Cell(Frozen):
    """A value, and how much better it is than the reference's."""

    value: float | None
    apart: Difference | None = None
    detectable: float | None = (
        None  # smallest difference that these questions or runs show with 80% power
    )
    paired: Paired | None = None  # question by question; positive: better than the reference


class Line(Frozen):
    """One figure of several submissions."""

    name: str
    part: str  # figure, category or task
    cells: tuple[Cell, ...]

    @property
    def known(self) -> bool:
        """Whether any difference from the reference is known."""
        return any(cell.apart is not None or cell.paired is not None for cell in self.cells[1:])


class Comparison(Frozen):
    """Rows side by side; the first is the reference."""

    rows: tuple[Row, ...]
    lines: tuple[Line, ...]
    apart: str  # what keeps the rows from being comparable; empty when they are
    unpaired: bool  # whether some of them have no questions


def side_by_side(service: Service, rows: Sequence[Row]) -> Comparison:
    """Compare the rows with the first of them."""
    groups = [group_of(row) for row in rows]
    apart = "" if len(set(groups)) == 1 else _what_differs(groups)
    draws = [read_draws(service.files, service.store.get(row.submission_id)) for row in rows]
    pairs = [_pair(service, rows[0], row) if not apart else {} for row in rows[1:]]
    lines = [
        *_figures(service, rows, comparable=not apart),
        *_categories(rows, draws, comparable=not apart),
        *_tasks(rows, draws, pairs, comparable=not apart),
    ]
    return Comparison(
        rows=tuple(rows),
        lines=tuple(lines),
        apart=apart,
        unpaired=any(not own for own in draws),
    )


def _what_differs(groups: Sequence[tuple[str, ...]]) -> str:
    apart = [
        name
        for name, values in zip(GROUP, zip(*groups, strict=True), strict=True)
        if len(set(values)) > 1
    ]
    return ", ".join(apart)


def _figures(service: Service, rows: Sequence[Row], *, comparable: bool) -> list[Line]:
    lines = []
    for name in rows[0].figures:
        having = [row for row in rows if name in row.figures]
        if len(having) < len(rows):
            continue
        draws = [service.library.resamples(row, name) for row in rows]
        spread = seed_spread(rows, name) if comparable else None
        cells = [Cell(value=rows[0].figures[name].value)]
        for row, values in zip(rows[1:], draws[1:], strict=True):
            behind = compare(rows[0], row, name, draws[0], values, spread) if comparable else None
            cells.append(_cell(row.figures[name].value, _better(behind)))
        lines.append(Line(name=name, part="figure", cells=tuple(cells)))
    return lines


def _categories(
    rows: Sequence[Row], draws: Sequence[Mapping[str, Draws]], *, comparable: bool
) -> list[Line]:
    """Mean centered score of each category, when there is more than one category."""
    parts = [category_parts(row.tasks) for row in rows]
    if len(parts[0]) < 2:
        return []
    lines = []
    for name, tasks in parts[0].items():
        values = [_mean(own.get(name, [])) for own in parts]
        cells = [Cell(value=values[0])]
        for number, value in enumerate(values[1:], start=1):
            same = [task.task for task in parts[number].get(name, [])] == [t.task for t in tasks]
            apart = None
            if comparable and same and value is not None and values[0] is not None:
                a, b = (_category_draws(tasks, draws[k]) for k in (0, number))
                apart = _apart(value - values[0], a, b)
            cells.append(_cell(value, apart))
        lines.append(Line(name=name, part="category", cells=tuple(cells)))
    return lines


def _mean(tasks: Sequence[TaskValue]) -> float | None:
    return sum(map(centered, tasks)) / len(tasks) if tasks else None


def _category_draws(tasks: Sequence[TaskValue], draws: Mapping[str, Draws]) -> Draws | None:
    if any(task.task not in draws for task in tasks):
        return None
    scaled = [
        draws[task.task] / (1 - guess if (guess := task.random_baseline or 0.0) < 1 else 1)
        for task in tasks
    ]
    return np.asarray(np.mean(scaled, axis=0), np.float32)


def _tasks(
    rows: Sequence[Row],
    draws: Sequence[Mapping[str, Draws]],
    pairs: Sequence[PairOfTasks],
    *,
    comparable: bool,
) -> list[Line]:
    others = [{task.task: task for task in row.tasks} for row in rows[1:]]
    lines = []
    for task in rows[0].tasks:
        cells = [Cell(value=task.value)]
        for number, other in enumerate(others):
            two = other.get(task.task)
            mine, theirs = draws[0].get(task.task), draws[number + 1].get(task.task)
            apart = _task(task, two, mine, theirs) if comparable else None
            paired = pairs[number].get(task.task)
            cells.append(_cell(two.value if two else None, apart, paired))
        lines.append(Line(name=task.task, part="task", cells=tuple(cells)))
    return lines


def _cell(value: float | None, apart: Difference | None, paired: Paired | None = None) -> Cell:
    seen = None if apart is None else (apart.high - apart.low) / 2 * REACH_TO_DETECTABLE
    return Cell(value=value, apart=apart, detectable=seen, paired=paired)


def _better(behind: Difference | None) -> Difference | None:
    if behind is None:
        return None
    return Difference(value=-behind.value, low=-behind.high, high=-behind.low)


def _task(
    first: TaskValue, two: TaskValue | None, a: Draws | None, b: Draws | None
) -> Difference | None:
    """How much better `two` is; paired over questions where both have them. Ignores seed noise."""
    if two is None:
        return None
    sign = 1.0 if first.higher_is_better else -1.0
    value = sign * (two.value - first.value)
    if a is not None and b is not None:
        return _apart(value, a, b)
    if first.stderr is None or two.stderr is None:
        return None
    low, high = interval(value, 0.0, 0, first.stderr**2 + two.stderr**2)
    return Difference(value=value, low=low, high=high)


def _apart(value: float, a: Draws | None, b: Draws | None) -> Difference | None:
    if a is None or b is None:
        return None
    low, high = interval(value, 0.0, 0, float(np.var(b.astype(np.float64) - a, ddof=1)))
    return Difference(value=value, low=low, high=high)


# ---- question by question

_PAIRS: OrderedDict[tuple[str, ...], PairOfTasks] = OrderedDict()
_LOCK = Lock()


def _pair(service: Service, first: Row, second: Row) -> PairOfTasks:
    """Every task of two submissions question by question, second minus first."""
    entries = [service.store.get(row.submission_id) for row in (first, second)]
    key = (service.files.uri, *(f"{entry.id}-{entry.bundle_sha256}" for entry in entries))
    with _LOCK:
        if key in _PAIRS:
            _PAIRS.move_to_end(key)
            return _PAIRS[key]
    a, b = (read_answers(service.files, entry) for entry in entries)
    pair = {
        task: compare_values(mine, theirs)
        for task in (row.task for row in first.tasks)
        if task in a and task in b
        for mine, theirs in [_same_questions(task, a, b)]
        if len(mine) > 1
    }
    with _LOCK:
        _PAIRS[key] = pair
        while len(_PAIRS) > MOST_PAIRS:
            _PAIRS.popitem(last=False)
    return pair


def _same_questions(task: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Any, Any]:
    """The contributions of both to the questions that both answered, aligned."""
    mine, theirs = a[task].astype(np.float64), b[task].astype(np.float64)
    first, second = (own.get(f"{task}/numbers", np.arange(len(own[task]))) for own in (a, b))
    if np.array_equal(first, second):
        return mine, theirs
    _, at_a, at_b = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return mine[at_a], theirs[at_b]
