"""Task data from the Hugging Face hub, brought into the layout of a data folder.

Only tasks with a public home there, whose rows hold all that the task needs, can be fetched. The
texts are those of the hub's version, not the reference's bytes, so scores on them are unverified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from evals.tasks import EvalError, Task
from evals.text.convert import mmlu_row
from pipelines.errors import DataError


def hellaswag(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Rowan/hellaswag: activity, the two parts of the context, endings, label."""
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}".strip()
    query = f"{row['activity_label']}: {context}"
    return {"query": query, "choices": list(row["endings"]), "gold": int(row["label"])}


def mmlu(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of cais/mmlu: question, choices, the index of the answer, subject."""
    return mmlu_row(row["question"], list(row["choices"]), int(row["answer"]), row["subject"])


def squad(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of rajpurkar/squad: passage, question and accepted answers, the first one counting."""
    context = f"Context: {row['context']}\nQuestion: {row['question']}\nAnswer:"
    return {"context": context, "continuation": row["answers"]["text"][0]}


class Home(NamedTuple):
    """Where a file's rows live on the hub, and how they are brought into the layout."""

    dataset: str
    config: str | None
    split: str
    row: Callable[[Mapping[str, Any]], dict[str, Any]]


HOMES = {
    "language_understanding/hellaswag.jsonl": Home(
        "Rowan/hellaswag", None, "validation", hellaswag
    ),
    "world_knowledge/mmlu.jsonl": Home("cais/mmlu", "all", "test", mmlu),
    "reading_comprehension/squad.jsonl": Home("rajpurkar/squad", None, "validation", squad),
}


def fetch(task: Task, folder: Path, *, revision: str | None = None) -> Path:
    """Write the data file of a task from the hub. EvalError for a task that has no home there."""
    if task.file not in HOMES:
        raise EvalError(
            f"task {task.name} has no home on the hub that is known here. {task.source} Known: "
            f"{', '.join(sorted(HOMES))}"
        )
    home = HOMES[task.file]
    try:
        from datasets import load_dataset
    except ImportError:
        raise EvalError("fetching needs `datasets`; install the extra `hub`") from None
    rows = load_dataset(home.dataset, home.config, split=home.split, revision=revision)
    return write_rows(task, folder, rows, home)


def write_rows(task: Task, folder: Path, rows: Iterable[Mapping[str, Any]], home: Home) -> Path:
    """Bring rows of the hub into the layout and write them. DataError names a row that is unfit."""
    lines = []
    for number, row in enumerate(rows):
        try:
            lines.append(orjson.dumps(home.row(row)) + b"\n")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{home.dataset}, row {number} does not fit: {error!r}") from None
    path = folder / task.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    return path
