"""Read finished runs: print single questions for people, and compare two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from evals.kinds import kind_of
from evals.metrics import standard_error
from evals.run import RECORD, estimate, read_log
from evals.tasks import EvalError, Task, load_task
from pipelines.console import table
from pipelines.records import Frozen, RecordError, ScoresRecord, TaskScore, parse_record
from pipelines.storage.base import Store
from pipelines.storage.open import open_store


class Run:
    """A finished run: its record and the logs next to it."""

    def __init__(self, record: ScoresRecord, store: Store) -> None:
        self.record = record
        self.store = store

    def log(self, task: str) -> pa.Table:
        """The log of one task. EvalError when the run has none."""
        names = [f.name for f in self.record.outputs if f.name.startswith(f"logs/{task}/")]
        if not names:
            known = ", ".join(ref.name for ref in self.record.work.tasks)
            raise EvalError(f"{self.store.uri} has no task {task!r}; it has {known}")
        return read_log(self.store, names)

    def score(self, task: str) -> TaskScore:
        return next(score for score in self.record.results.tasks if score.task == task)


def open_run(uri: str) -> Run:
    """The finished run in a folder or bucket prefix. RecordError when there is none."""
    store = open_store(uri)
    try:
        data = store.read_bytes(RECORD)
    except FileNotFoundError:
        raise RecordError(f"{uri} holds no {RECORD}; finish the evaluation first") from None
    record = parse_record(data, source=f"{uri}/{RECORD}")
    if not isinstance(record, ScoresRecord):
        raise RecordError(f"{uri} holds a {record.kind} record, not scores")
    return Run(record, store)


def questions(run: Run, task: str, *, wrong: bool = False) -> Iterator[dict[str, Any]]:
    """The log rows of one task in order, all or only those answered wrong."""
    log = run.log(task)
    for entry in log.to_pylist():
        if not wrong or entry.get("correct") is False:
            yield entry


class Difference(Frozen):
    """How two models differ on one task. `low` and `high` bound the middle 95% of resamples."""

    task: str
    first: float
    second: float
    difference: float
    stderr: float
    low: float
    high: float
    lost: tuple[int, ...] = ()
    gained: tuple[int, ...] = ()


def compare(first: Run, second: Run) -> list[Difference]:
    """Second minus first, task by task, over the same questions.

    Both models are resampled on the same items, so what makes an item hard for both cancels.
    `lost` and `gained` are the rows that only the first or only the second got right.
    EvalError when the runs are not of one suite version, or a task's data or definition differs.
    """
    left, two = first.record.work, second.record.work
    for name in ("benchmark", "suite", "suite_version"):
        if getattr(left, name) != getattr(two, name):
            raise EvalError(
                f"these runs cannot be compared: their {name} is {getattr(left, name)!r} and "
                f"{getattr(two, name)!r}"
            )
    refs = {ref.name: ref for ref in two.tasks}
    for ref in left.tasks:
        if refs.get(ref.name) != ref:
            raise EvalError(
                f"these runs cannot be compared: task {ref.name} has another definition or other "
                "data in the second; evaluate one of the models again"
            )
    return [_difference(ref.name, first, second) for ref in left.tasks]


def _difference(name: str, first: Run, second: Run) -> Difference:
    task = load_task(name)
    logs = first.log(name), second.log(name)
    tallies = [kind_of(task).tally(task, log) for log in logs]
    estimates = [estimate(task, log, tally) for log, tally in zip(logs, tallies, strict=True)]
    scores, draws = [value for value, _ in estimates], [drawn for _, drawn in estimates]
    change = draws[1] - draws[0]
    low, high = np.quantile(change, [0.025, 0.975])
    lost, gained = _flips(logs)
    return Difference(
        task=name,
        first=scores[0],
        second=scores[1],
        difference=scores[1] - scores[0],
        stderr=standard_error(change),
        low=float(low),
        high=float(high),
        lost=lost,
        gained=gained,
    )


def _flips(logs: tuple[pa.Table, pa.Table]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if "correct" not in logs[0].column_names:
        return (), ()
    before, after = (log["correct"].to_numpy().astype(bool) for log in logs)
    rows = logs[0]["row"].to_numpy()
    return tuple(rows[before & ~after].tolist()), tuple(rows[~before & after].tolist())


def describe(entry: Mapping[str, Any], task: Task, text: str, options: tuple[str, ...]) -> str:
    """One question as text: prompt, options with mean loss (nats), the choice, right or wrong."""
    lines = [f"{task.name}, row {entry['row']}"]
    if entry.get("category"):
        lines[0] += f", {entry['category']}"
    lines += ["", text, ""]
    if "nats" in entry:
        bits = entry["nats"] / np.log(2) / entry["num_bytes"]
        lines.append(f"{bits:.4f} bits per byte over {entry['num_bytes']} bytes")
        return "\n".join(lines)
    if task.kind == "generation":
        lines.append(f"generated: {entry['generated']!r}")
        lines.append(f"accepted:  {', '.join(options)}")
    elif entry["options"] is None:
        lines.append(f"option {entry['predicted']} chosen, option {entry['gold']} right")
    else:
        for number, (option, words) in enumerate(zip(entry["options"], options, strict=True)):
            marks = "*" if number == entry["predicted"] else " "
            marks += "+" if number == entry["gold"] else " "
            lines.append(f"{marks} {option['mean_loss']:8.4f}  {words}")
        if task.kind != "language_modeling":
            lines.append("* chosen, + right; lower loss is chosen")
    lines.append("right" if entry["correct"] else "wrong")
    return "\n".join(lines)


def scores_text(record: ScoresRecord) -> str:
    """The score of each task, then the aggregates over them, with standard errors."""
    verified = {ref.name: ref.verified for ref in record.work.tasks}
    rows = [
        (s.task, s.metric, s.value, s.stderr, s.num_items, "" if verified[s.task] else "unverified")
        for s in record.results.tasks
    ]
    totals = [
        (name, s.metric, s.value, s.stderr, "higher" if s.higher_is_better else "lower")
        for name, s in record.results.aggregates.items()
    ]
    work = record.work
    parts = [
        table(rows, header=("task", "metric", "score", "stderr", "items", "data")),
        table(totals, header=("aggregate", "metric", "score", "stderr", "better")),
        f"scores {record.id}: {work.benchmark} {work.suite} {work.suite_version}",
    ]
    text = "\n\n".join(parts)
    if not all(verified.values()):
        text += "\nSome data is not the recorded one, so these scores cannot rank."
    return text
