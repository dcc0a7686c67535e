"""Measure a model with a suite: tasks -> logs per question -> scores -> ScoresRecord.

A task is cut into chunks of questions. Each chunk writes one log file with a row per question and
commits it; a run that is started again asks only the questions without a commit. Scores are
computed from the logs alone, so anyone with the logs can recompute them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evals.aggregate import aggregate_suite
from evals.controls import check_probabilities, controls_of
from evals.items import Metrics, Tally, TaskData
from evals.kinds import Estimate, has_data, kind_of, read_data
from evals.metrics import bootstrap, score_of, standard_error
from evals.models import ModelError
from evals.result_formats import format_of_benchmark
from evals.suite import Suite, load_suite
from evals.tasks import EvalError, Task
from pipelines.errors import DataError
from pipelines.execution.progress import say
from pipelines.formats.writers import write_array
from pipelines.records import (
    Control,
    File,
    ScoresRecord,
    ScoresResults,
    ScoresWork,
    TaskRef,
    TaskScore,
    digest,
    made_by,
    now,
    parse_record,
)
from pipelines.storage.base import Store, as_file, write_bytes
from pipelines.storage.commits import Done, attempt_name, commit, find_done
from pipelines.storage.open import open_store

CHUNK_ROWS = 256  # questions per commit: the most that a killed run has to ask again
RECORD = "record.json"

T = TypeVar("T")
R = TypeVar("R")


class MapTasks(Protocol):
    """Runs a module-level function over picklable items; results in the order of the items."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]: ...


@dataclass(frozen=True)
class Chunk:
    """Some questions of one task, by their positions in its data file: [start, stop)."""

    task: Task
    sha256: str
    start: int
    stop: int
    key: str

    @property
    def stem(self) -> str:
        return f"logs/{self.task.name}/{self.start:06d}"


class _Data(NamedTuple):
    """What a run needs to know of a data file after it was checked."""

    num_rows: int
    num_duplicated: int
    sha256: str
    verified: bool
    num_empty: int
    identity: str

    @classmethod
    def of(cls, data: TaskData) -> _Data:
        return cls(
            data.num_rows,
            data.num_duplicated,
            data.sha256,
            data.verified,
            len(data.empty_classes()),
            data.identity,
        )


def run(
    model: Any,
    *,
    suite: Suite | str,
    data: Path | str,
    out: Path | str,
    map_tasks: MapTasks | None = None,
) -> ScoresRecord:
    """Ask `model` every question of the suite; return the record and write it as `record.json`.

    `model` is a LanguageModel (or another protocol that the tasks' kinds need); with several
    processes it must be picklable. All data is read and checked before the first question is
    asked. Raises DataError for missing or malformed data, ModelError when the model's answer is not
    a finite number, and EvalError when the suite does not fit the model or `out` holds other
    scores. A task that cannot be scored fails the run; it is never left out of an average. Started
    again with the same arguments, the run continues after the last committed chunk.
    """
    started, clock = now(), time.perf_counter()
    suite = load_suite(suite) if isinstance(suite, str) else suite
    folder = str(data)
    suite = suite.without(_absent(suite, folder))
    tasks = suite.load_tasks()
    _check_length(model, suite)
    loaded = _read_all(tasks, folder)
    work = _work(suite, tasks, loaded, model)
    parents = {"model": model.id}
    key = ScoresRecord.key_of(work=work, parents=parents)
    store = open_store(out)
    finished = _finished_record(store, key)
    if finished is not None:
        return finished
    chunks = [
        chunk
        for task, ref, task_data in zip(tasks, work.tasks, loaded, strict=True)
        for chunk in _chunks(task, task_data, _task_key(suite, ref, model))
    ]
    ask = partial(run_chunk, model=model, folder=folder, out=str(out), window=suite.window)
    # Longest first, so that no long chunk still runs when the other workers have finished.
    chunks.sort(key=lambda chunk: chunk.start - chunk.stop)
    done = _all_done(list(map_tasks(ask, chunks) if map_tasks else map(ask, chunks)))
    files = [file for result in done for file in result.files]
    controls = _controls(tasks, loaded, files, model, folder, store, suite.window, map_tasks)
    scores, draws = [], {}
    measured: dict[str, Metrics] = {}
    for task in tasks:
        log = read_log(store, [f.name for f in files if f.name.startswith(f"logs/{task.name}/")])
        score, draws[task.name] = score_task(task, log)
        scores.append(score)
        metrics = kind_of(task).metrics(task, log)
        if metrics is not None:
            measured[task.name] = metrics
    format_ = format_of_benchmark(suite.benchmark) if measured else None
    if format_ is not None:
        files += format_.write(store, tasks, measured)
    seconds = time.perf_counter() - clock
    record = ScoresRecord.seal(
        work=work,
        parents=parents,
        outputs=files,
        counts={
            "questions": sum(score.num_items for score in scores),
            "questions_with_duplicated_options": sum(
                task_data.num_duplicated for task_data in loaded
            ),
            "checked_distributions": sum(control.num_positions for control in controls),
            **{
                f"classes_without_pictures/{task.name}": task_data.num_empty
                for task, task_data in zip(tasks, loaded, strict=True)
                if task_data.num_empty
            },
        },
        results=ScoresResults(
            tasks=tuple(scores),
            aggregates=aggregate_suite(suite, scores, draws),
            controls=tuple(
                control for own_controls in controls for control in own_controls.controls
            ),
        ),
        made_by=made_by(
            started,
            locations={"data": str(folder), "out": str(out)},
            figures={"seconds": round(seconds, 3)},
        ),
    )
    write_bytes(store, RECORD, record.to_json())
    return record


def _absent(suite: Suite, folder: str) -> list[str]:
    """The optional tasks that have no data in a folder; logs one line for each."""
    absent = []
    for task in suite.load_tasks():
        if task.name in suite.optional and not has_data(task, folder):
            say(
                f"{task.name} is left out: no {task.file} in {folder}; the headline does not use it"
            )
            absent.append(task.name)
    return absent


def _check_length(model: Any, suite: Suite) -> None:
    longest = getattr(model, "max_length", None)
    if longest is not None and longest < suite.window:
        raise EvalError(
            f"suite {suite.name} {suite.version} asks with windows of {suite.window} tokens, but "
            f"this model takes at most {longest}; choose a suite with shorter windows"
        )


def _work(suite: Suite, tasks: Sequence[Task], loaded: Sequence[_Data], model: Any) -> ScoresWork:
    refs = tuple(
        TaskRef(
            name=task.name,
            definition=task.definition(),
            data=task_data.sha256,
            verified=task_data.verified,
            identity=task_data.identity,
        )
        for task, task_data in zip(tasks, loaded, strict=True)
    )
    return ScoresWork(
        benchmark=suite.benchmark,
        suite=suite.name,
        suite_version=suite.version,
        tasks=refs,
        parameters={
            "suite": suite.to_record(),
            "model": model.settings,
            "bootstrap_draws": 1000,
        },
    )


def _task_key(suite: Suite, ref: TaskRef, model: Any) -> str:
    """Hash of what the answers to one task depend on; changing other tasks does not change it."""
    return digest([model.id, model.settings, suite.window, ref.model_dump(mode="json")])


def _finished_record(store: Store, key: str) -> ScoresRecord | None:
    """The record with this key if the run finished before. EvalError for a record of other work."""
    if not store.exists(RECORD):
        return None
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    if record.key != key:
        raise EvalError(
            f"{store.uri} holds the scores of another model, suite or data; choose another --out"
        )
    assert isinstance(record, ScoresRecord)
    return record


def _chunks(task: Task, data: _Data, key: str) -> list[Chunk]:
    starts = range(0, data.num_rows, CHUNK_ROWS)
    if kind_of(task).whole:
        spans = [(0, data.num_rows)]
    else:
        spans = [(start, min(start + CHUNK_ROWS, data.num_rows)) for start in starts]
    return [Chunk(task, data.sha256, *span, key=digest([key, *span])) for span in spans]


@lru_cache(maxsize=4)
def _load(task: Task, folder: str, sha256: str) -> TaskData:
    """The data that the run was started with, read once per process and reused by its chunks."""
    data = read_data(task, folder)
    if data.sha256 != sha256:
        raise DataError(
            f"task {task.name}: {folder}/{task.file} changed during the run; start again"
        )
    return data


@dataclass(frozen=True)
class Failed:
    """A chunk that could not be asked. The other chunks continue and their results are kept."""

    task: str
    error: Exception


def _all_done(results: Sequence[Done | Failed]) -> list[Done]:
    """The commits of all chunks. One error that names every failed task if any chunk failed."""
    failed = {result.task: result for result in results if isinstance(result, Failed)}
    if not failed:
        return [result for result in results if isinstance(result, Done)]
    if len(failed) == 1:
        raise next(iter(failed.values())).error
    messages = "\n".join(f"  {failure.error}" for failure in failed.values())
    raise DataError(
        f"{len(failed)} tasks could not be measured; the others are kept, so that running this "
        f"again does only these:\n{messages}"
    )


def _read_all(tasks: Sequence[Task], folder: str) -> list[_Data]:
    """Read and check the data of all tasks. One DataError lists every problem."""
    loaded, faults = [], []
    for task in tasks:
        try:
            loaded.append(_Data.of(read_data(task, folder)))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return loaded


def run_chunk(chunk: Chunk, *, model: Any, folder: str, out: str, window: int) -> Done | Failed:
    """Ask the questions of one chunk and commit their log; a committed chunk is returned as is."""
    try:
        return _run_chunk(chunk, model=model, folder=folder, out=out, window=window)
    except (DataError, ModelError) as error:
        return Failed(chunk.task.name, error)


def _run_chunk(chunk: Chunk, *, model: Any, folder: str, out: str, window: int) -> Done:
    store = open_store(out)
    finished = find_done(store, chunk.key)
    if finished is not None:
        return finished
    clock = time.perf_counter()
    data = _load(chunk.task, folder, chunk.sha256)
    rows = range(chunk.start, chunk.stop)
    answer = kind_of(chunk.task).answer(chunk.task, data, rows, model, window=window)
    log, features = answer if isinstance(answer, tuple) else (answer, {})
    with store.create(attempt_name(chunk.stem, ".parquet")) as writer:
        pq.write_table(log, as_file(writer), compression="zstd")
    seconds = round(time.perf_counter() - clock, 3)
    files = [writer.file(num_rows=log.num_rows)]
    for name, array in features.items():
        stem = f"features/{chunk.task.name}/{name}"
        files.append(write_array(store, attempt_name(stem, ".npy"), array.astype(np.float16)))
    return commit(store, Done(key=chunk.key, files=tuple(files), seconds=seconds))


@dataclass(frozen=True)
class TaskControls:
    """The controls of one task, and the number of positions whose probabilities were summed."""

    controls: tuple[Control, ...]
    num_positions: int


def _controls(
    tasks: Sequence[Task],
    loaded: Sequence[_Data],
    files: Sequence[File],
    model: Any,
    folder: str,
    store: Store,
    window: int,
    map_tasks: MapTasks | None,
) -> list[TaskControls]:
    """The controls of every task, distributed over workers like the questions."""
    asked = [
        ControlTask(
            task,
            task_data.sha256,
            tuple(f.name for f in files if f.name.startswith(f"logs/{task.name}/")),
        )
        for task, task_data in zip(tasks, loaded, strict=True)
    ]
    test = partial(run_controls, model=model, folder=folder, out=store.uri, window=window)
    results = list(map_tasks(test, asked) if map_tasks else map(test, asked))
    for result in results:
        if isinstance(result, Failed):
            raise result.error
    return [result for result in results if isinstance(result, TaskControls)]


@dataclass(frozen=True)
class ControlTask:
    """A task whose questions were asked, and the files of its log."""

    task: Task
    sha256: str
    logs: tuple[str, ...]


def run_controls(
    control_task: ControlTask, *, model: Any, folder: str, out: str, window: int
) -> TaskControls | Failed:
    """Check that probabilities sum to 1 and ask the control questions of one task."""
    try:
        data = _load(control_task.task, folder, control_task.sha256)
        positions = check_probabilities(control_task.task, data, model, window=window)
        log = read_log(open_store(out), control_task.logs)
        controls = controls_of(control_task.task, data, model, window=window, log=log)
    except (DataError, ModelError) as error:
        return Failed(control_task.task.name, error)
    return TaskControls(tuple(controls), positions)


def read_log(store: Store, names: Sequence[str]) -> pa.Table:
    """The log of one task, one row per question in order, concatenated from its files."""
    tables = []
    for name in sorted(names):
        with store.open(name) as file:
            tables.append(pq.read_table(file))
    return pa.concat_tables(tables)


def score_task(task: Task, log: pa.Table) -> tuple[TaskScore, np.ndarray]:
    """The score of a task from its log, and its score on bootstrap resamples, (draws,).

    DataError when the log is empty or holds a number that is not finite.
    """
    tally = kind_of(task).tally(task, log)
    if len(tally.numerator) == 0:
        raise DataError(
            f"task {task.name}: the log is empty; delete the run's folder and run it again"
        )
    if not (np.isfinite(tally.numerator).all() and np.isfinite(tally.denominator).all()):
        raise DataError(f"task {task.name}: the log holds a number that is not finite")
    value, draws = estimate(task, log, tally)
    score = TaskScore(
        task=task.name,
        category=task.category,
        random_baseline=task.random_baseline.v2,
        metric=task.metric,
        value=value,
        stderr=standard_error(draws),
        num_items=len(tally.numerator),
        higher_is_better=task.higher_is_better,
    )
    return score, draws


def estimate(task: Task, log: pa.Table, tally: Tally) -> Estimate:
    """The score and its resamples: by the kind's own method if it has one, else from its tally."""
    seed = task_seed(task)
    return kind_of(task).estimate(task, log, seed=seed) or (
        score_of(tally),
        bootstrap(tally, seed=seed),
    )


def task_seed(task: Task) -> int:
    """A seed from the task's file: tasks over one file resample the same items.

    Their errors stay correlated, as they must be for an aggregate over both.
    """
    return int.from_bytes(hashlib.sha256(task.file.encode()).digest()[:4], "big")
