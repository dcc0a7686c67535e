"""Compute every score again from its questions, and compare the questions with what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.aggregate import aggregate_suite
from evals.pins import pin_of, truth_of, truth_table
from evals.run import score_task
from evals.tasks import EvalError, Task, is_secret, load_task
from leaderboard.submissions.answers import Choices, answers_of, choices_of, loss_sample, marks
from leaderboard.submissions.bundle import MANIFEST, Bundle
from leaderboard.submissions.case import Case, CheckpointCase
from leaderboard.submissions.control_figures import control_faults, same
from leaderboard.submissions.data_numbers import Numbers, data_numbers, sums_apart
from leaderboard.submissions.facts import TaskFacts, majority
from leaderboard.submissions.faults import BundleError, Fault, Words, fault
from leaderboard.submissions.lineage import data_of
from leaderboard.submissions.logs import (
    BATCH_ROWS,
    check_rows,
    open_parquet,
    read_log,
)
from leaderboard.submissions.shown_losses import check_evidence
from pipelines.errors import DataError
from pipelines.records import Score, ScoresRecord, TaskRef, TaskScore

Draws = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class OnTheWay:
    """Of one checkpoint: its headline, and what its answers are compared by."""

    headline: Score
    answers: frozenset[str]
    losses: tuple[float, ...]


@dataclass
class Recomputed:
    """By-products of the check: the figures that the board shows, and facts for later checks."""

    tasks: dict[int, list[TaskScore]] = field(default_factory=dict)
    draws: dict[int, Draws] = field(default_factory=dict)
    facts: dict[str, TaskFacts] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    marks: dict[str, list[float]] = field(default_factory=dict)
    choices: dict[int, Choices] = field(default_factory=dict)
    answers: dict[str, set[int]] = field(default_factory=dict)  # hash of a log's answers: seeds
    clean: dict[int, list[TaskScore]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], Numbers] = field(default_factory=dict)
    clean_headline: dict[int, float] = field(default_factory=dict)
    unshown: set[str] = field(default_factory=set)  # tasks whose logs have no losses of options
    checkpoints: dict[tuple[int, str], OnTheWay] = field(default_factory=dict)


def check(case: Case, out: Recomputed, tick: Callable[[], None]) -> Iterator[Fault]:
    """Fill `out` and yield every difference. `tick` is called between pieces, against timeouts."""
    for seed, scores in case.by_seed.items():
        faults = list(_seed(case, seed, scores, out, tick))
        yield from faults
        if not faults:
            yield from _aggregates(case, scores, out.tasks[seed], out.draws[seed])
            _clean_headline(case, seed, out)
            chosen = out.choices[seed].digest() if seed in out.choices else ""
            if chosen:
                out.answers.setdefault(chosen, set()).add(seed)
    for sub in case.checkpoints:
        yield from _checkpoint(sub, out, tick)


def _checkpoint(sub: CheckpointCase, out: Recomputed, tick: Callable[[], None]) -> Iterator[Fault]:
    """Fill `out.checkpoints` with one, and yield every difference of its scores and curve."""
    assert sub.bundle is not None
    seed, scores = sub.seed, sub.by_seed[sub.seed]
    own = Recomputed(facts=dict(out.facts), numbers=dict(out.numbers))
    faults = list(_seed(sub, seed, scores, own, tick))
    yield from faults
    if faults:
        return
    yield from _aggregates(sub, scores, own.tasks[seed], own.draws[seed])
    computed = aggregate_suite(sub.suite, own.tasks[seed], own.draws[seed])[sub.suite.headline]
    points = sub.bundle.manifest.curves.get(str(seed), ())
    for point in (point for point in points if point.checkpoint == sub.checkpoint):
        for field_name in ("value", "stderr"):
            a, b = getattr(point, field_name), getattr(computed, field_name)
            if not same(a, b):
                where = f"curves.{seed}: {sub.checkpoint}: {field_name}"
                yield fault(MANIFEST, where, a, b, "computed again from the questions")
    losses = tuple(own.losses.get(str(seed), ()))
    out.checkpoints[seed, sub.checkpoint] = OnTheWay(computed, frozenset(own.answers), losses)


def _seed(
    case: Case, seed: int, scores: ScoresRecord, out: Recomputed, tick: Callable[[], None]
) -> Iterator[Fault]:
    bundle = case.bundle
    assert bundle is not None
    hashes = {file.name: file.sha256 for file in bundle.manifest.files}
    refs = {ref.name: ref for ref in scores.work.tasks}
    out.tasks[seed], out.draws[seed] = [], {}
    for task_score in scores.results.tasks:
        tick()
        name, parts = bundle.folder(seed, task_score.task), bundle.parts(seed, task_score.task)
        prefix = f"logs/{task_score.task}/"
        named = sorted(
            (o for o in scores.outputs if o.name.startswith(prefix)), key=lambda o: o.name
        )
        if not parts or [hashes[part] for part in parts] != [file.sha256 for file in named]:
            problem = Words(f"{len(parts)} files of other bytes")
            yield fault(
                name,
                "sha256",
                problem,
                Words(f"the {len(named)} files that scores {scores.id} names"),
            )
            continue
        task = load_task(task_score.task)
        try:
            log = read_log(bundle, seed, task_score.task)
            faults = list(check_rows(name, task, log))
            faults += _truth(case, name, refs[task_score.task], task, log, out)
            if not faults:  # else not even scored: a class of a billion is an array of a billion
                faults += _evidence(bundle, parts, name, task, tick)
                if task.kind in SHOW_OPTIONS and not is_secret(task) and not _shown(bundle, parts):
                    out.unshown.add(task.name)
            if faults:
                yield from faults
                continue
            score, draws = score_task(task, log)
        except BundleError as error:
            yield from error.faults
            continue
        except (DataError, EvalError, KeyError, pa.ArrowException, ValueError, TypeError) as error:
            problem = Words(f"{type(error).__name__}: {error}")
            yield fault(name, "", problem, Words(f"the log of a {task.kind} task"))
            continue
        yield from _equal(case.scores_file, name, task_score, score)
        yield from control_faults(scores, name, task, refs[task.name], log)
        out.tasks[seed].append(score)
        out.draws[seed][task_score.task] = draws
        out.losses.setdefault(str(seed), []).extend(loss_sample(task, log))
        out.marks.setdefault(str(seed), []).extend(marks(task, log, len(case.suite.tasks)))
        out.choices.setdefault(seed, Choices()).add(task, log)
        for answers in filter(None, (answers_of(task, log), choices_of(task, log))):
            out.answers.setdefault(answers, set()).add(seed)
        yield from _clean(case, seed, task, log, score, out)


def _clean(
    case: Case, seed: int, task: Task, log: pa.Table, score: TaskScore, out: Recomputed
) -> Iterator[Fault]:
    """The score over the items that do not occur in the dataset, where the bundle says which do."""
    bundle = case.bundle
    report = bundle.manifest.overlap if bundle is not None else None
    if report is None or isinstance(case, CheckpointCase):
        return
    overlap = report.get(task.name)
    clean = score
    if overlap is not None and overlap.found:
        rows = log["row"].to_numpy()
        unknown = set(overlap.found) - set(rows.tolist())
        twice = len(set(overlap.found)) < len(overlap.found)
        if unknown or twice or not len(overlap.found) <= overlap.num_items <= len(rows):
            several = f"{len(overlap.found)} rows of {overlap.num_items:,} items"
            problem = Words(f"row {min(unknown)}" if unknown else several)
            where = f"overlap.{task.name}.found"
            yield fault(
                MANIFEST,
                where,
                problem,
                Words("rows of the task's data, each once, among its items"),
            )
            return
        keep = ~np.isin(rows, np.array(overlap.found, np.int64))
        if keep.sum() < 2:
            return  # too few clean items for a score
        try:
            clean, _ = score_task(task, log.filter(pa.array(keep)))
        except (DataError, ValueError, FloatingPointError):
            return  # too few clean items for the metric, or for a covariance
    out.clean.setdefault(seed, []).append(clean)


def _clean_headline(case: Case, seed: int, out: Recomputed) -> None:
    """The headline over the clean items; none where a task has no clean item left."""
    clean = out.clean.get(seed, [])
    if len(clean) == len(out.tasks[seed]):
        aggregates = aggregate_suite(case.suite, clean, out.draws[seed])
        out.clean_headline[seed] = aggregates[case.suite.headline].value


SHOW_OPTIONS = ("multiple_choice", "schema", "language_modeling")


def _shown(bundle: Bundle, parts: Sequence[str]) -> bool:
    """Whether every file of a log has the losses of the options."""
    return all("options" in open_parquet(bundle, part).schema_arrow.names for part in parts)


def _evidence(
    bundle: Bundle, parts: Sequence[str], name: str, task: Task, tick: Callable[[], None]
) -> list[Fault]:
    """Check the large columns batch by batch; faults of the first wrong batch alone."""
    for part in parts:
        file = open_parquet(bundle, part)
        for batch in file.iter_batches(batch_size=64 * BATCH_ROWS, use_threads=False):
            tick()
            faults = list(check_evidence(name, task, pa.table(batch)))
            if faults:
                return faults
    return []


def _truth(
    case: Case, name: str, ref: TaskRef, task: Task, log: pa.Table, out: Recomputed
) -> Iterator[Fault]:
    """Check that the log describes the pinned data, or the data of most accepted logs."""
    data, truth = data_of(ref), truth_of(task.kind, log)
    numbers = data_numbers(task, log)
    sums = {column.column: column.sums() for column in numbers}
    facts = TaskFacts(data=data, rows=len(log), truth=truth, sums=sums)
    before = out.facts.setdefault(task.name, facts)
    if before.truth != truth:
        problem = Words("other right answers, bytes or rows than another seed")
        yield fault(name, "", problem, Words("the same questions for every seed"))
        return
    yield from _same_numbers(name, task, numbers, out)
    pin = pin_of(task.name)
    if pin is not None and pin.identity == data:
        if len(log) != pin.rows:
            yield fault(name, "rows", len(log), pin.rows, f"the questions of {task.name}")
        elif truth != pin.truth:
            problem = Words("right answers, bytes or rows that are not the data's")
            hint = "evaluate again; only a model's answers may differ between logs"
            yield fault(name, "truth", problem, Words("those of the pinned data"), hint)
        return
    most = majority(case.known.entries(case.book.name), task.name, data)
    if most is None or (numbers and not most[0].sums):  # facts of before these were compared
        return
    if most[0].truth != truth:
        yield _first_difference(case, name, task, log, most)
    elif numbers:
        yield from _as_accepted(case, name, task, numbers, most)


def _same_numbers(
    name: str, task: Task, numbers: Sequence[Numbers], out: Recomputed
) -> Iterator[Fault]:
    """Check that columns of the data equal those of other seeds, and of tasks on the same file."""
    for column in numbers:
        shared = task.file if column.column == "mse" else task.name
        first = out.numbers.setdefault((shared, column.column), column)
        row = column.differs(first)
        if row is not None:
            problem = Words("numbers of other images than another seed or task has")
            expected = Words("those of the held-out images")
            yield fault(name, f"{column.column}, row {row}", problem, expected)


def _as_accepted(
    case: Case,
    name: str,
    task: Task,
    numbers: Sequence[Numbers],
    most: tuple[TaskFacts, str],
) -> Iterator[Fault]:
    """Check that these columns equal an accepted log's on the same data, up to rounding."""
    facts, id_ = most
    hint = f"as in the log of {id_}, which was accepted on the same data"
    log = case.known.log(id_, task.name)
    others = data_numbers(task, log) if log is not None else []
    for position, column in enumerate(numbers):
        if others:
            row = column.differs(others[position])
        else:
            known = facts.sums.get(column.column)
            differs = known is not None and sums_apart(column.sums(), known, column.tolerance)
            row = 0 if differs else None
        if row is not None:
            expected = Words("those of the held-out images")
            problem = Words("numbers of other images")
            yield fault(name, f"{column.column}, row {row}", problem, expected, hint)


def _first_difference(
    case: Case, name: str, task: Task, log: pa.Table, most: tuple[TaskFacts, str]
) -> Fault:
    majority_facts, id_ = most
    hint = f"as in the log of {id_}, which was accepted on the same data"
    if majority_facts.rows != len(log):
        return fault(name, "rows", len(log), majority_facts.rows, hint)
    other = case.known.log(id_, task.name)
    if other is not None:
        mine, theirs = truth_table(task.kind, log), truth_table(task.kind, other)
        for column in theirs.column_names:
            if column not in mine.column_names:
                return fault(name, column, Words("no such column"), Words("one"), hint)
            a, b = mine[column].to_pylist(), theirs[column].to_pylist()
            row = next(
                (n for n, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), -1
            )
            if row >= 0:
                return fault(name, f"{column}, row {row}", a[row], b[row], hint)
    problem = Words("right answers, bytes or rows that are not those of others")
    return fault(name, "truth", problem, Words("the same as in accepted logs"), hint)


def _equal(file: str, name: str, claimed: TaskScore, computed: TaskScore) -> Iterator[Fault]:
    for field_name in TaskScore.model_fields:
        a, b = getattr(claimed, field_name), getattr(computed, field_name)
        if not same(a, b):
            yield fault(file, f"{name}: {field_name}", a, b, "computed again from the questions")


def _aggregates(
    case: Case, scores: ScoresRecord, tasks: Sequence[TaskScore], draws: Mapping[str, Any]
) -> Iterator[Fault]:
    computed = aggregate_suite(case.suite, tasks, draws)
    claimed = scores.results.aggregates
    if set(claimed) != set(computed):
        where = f"scores {scores.id}: results.aggregates"
        yield fault(case.scores_file, where, sorted(claimed), sorted(computed))
        return
    for name, value in computed.items():
        for field_name in ("metric", "value", "stderr", "num_items", "higher_is_better"):
            a, b = getattr(claimed[name], field_name), getattr(value, field_name)
            if not same(a, b):
                hint = "computed again from the tasks"
                where = f"scores {scores.id}: {name}.{field_name}"
                yield fault(case.scores_file, where, a, b, hint)
