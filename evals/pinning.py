"""Make the pin of a task's data (see `evals.pins`) from the data itself.

The columns of a log that repeat the data do not depend on the model, so a null model is used: bytes
as tokens, no shots, no truncation.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from evals.kinds import kind_of, read_data
from evals.nulls import NullModel
from evals.pins import PINS, Pin, pins, truth_of
from evals.tasks import OF_GENERATORS, EvalError, PromptedTask, Task
from pipelines.errors import DataError

HEADER = "# Task data that is known; see pins.py. Written by `evals pin TASK --data FOLDER`.\n"
AT_ONCE = 1024  # questions whose full logs are in memory together
WIDE = 1 << 30  # tokens: longer than any context, so nothing is cut


def make_pin(task: Task, folder: Path | str) -> Pin:
    """Identity, rows and truth of the task's data below `folder`. DataError when it is malformed.

    EvalError for a generator's task: its log repeats features of the held-out images, which each
    machine rounds in its own way.

    Data of a task that records a checksum must have that checksum: a pin is never of other bytes.
    """
    if isinstance(task, OF_GENERATORS):
        raise EvalError(
            f"task {task.name} cannot be pinned: its logs repeat features of the held-out images, "
            "which each machine rounds in its own way; its data is known by its sha256"
        )
    data = read_data(task, folder)
    if task.sha256 is not None and data.sha256 != task.sha256:
        raise DataError(
            f"task {task.name}: {folder}/{task.file} has the sha256 {data.sha256[:16]}, but the "
            f"task records {task.sha256[:16]}; get the file again"
        )
    plain = task.model_copy(update={"shots": 0}) if isinstance(task, PromptedTask) else task
    kind = kind_of(task)
    image = task.kind.startswith("image_")
    model = NullModel("constant" if image else "uniform")
    step = data.num_rows if image else AT_ONCE
    logs = []
    for start in range(0, data.num_rows, step):
        rows = range(start, min(start + step, data.num_rows))
        answer = kind.answer(plain, data, rows, model, window=WIDE)
        log = answer[0] if isinstance(answer, tuple) else answer
        heavy = ("contexts", "options", "losses", "generated")
        logs.append(log.drop_columns([name for name in heavy if name in log.column_names]))
    whole = pa.concat_tables(logs)
    return Pin(identity=data.identity, rows=len(whole), truth=truth_of(task.kind, whole))


def write_pins(new: Iterable[tuple[str, Pin]], path: Path = PINS) -> None:
    """Add pins to the file, sorted by task; a pin of a task that has one replaces it."""
    known = dict(pins()) if path == PINS else {}
    known |= dict(new)
    lines = [
        f"{name}: {{identity: {pin.identity}, rows: {pin.rows}, truth: {pin.truth}}}\n"
        for name, pin in sorted(known.items())
    ]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    pins.cache_clear()
