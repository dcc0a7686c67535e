"""Made-up task data of the right form and row count, for trying a suite whose data is not here.

The files have the fields, categories and number of rows that the tasks say, and nothing else in
common with the real ones. Their checksums are not the recorded ones, so scores on them are marked
unverified and cannot rank.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from evals.tasks import AnswerLossTask, EvalError, PerplexityTask, PromptedTask, Task

NUM_CATEGORIES = {"mmlu_zeroshot": 57, "mmlu_fewshot": 57, "bbq": 11, "jeopardy": 5}
LETTERS = ("A", "B", "C", "D")
WORDS = (
    *("river", "stone", "lamp", "teacher", "winter", "music", "market", "engine", "garden"),
    *("letter", "window", "captain", "village", "number", "colour", "reason", "method", "system"),
)


def write_synthetic(tasks: Iterable[Task], folder: Path, *, seed: int) -> list[Path]:
    """Write the data file of every task that has none in `folder`; tasks may share a file.

    Same seed, same bytes. EvalError for a task that does not say how many rows it has.
    """
    written = []
    for task in tasks:
        path = folder / task.file
        if path.exists():
            continue
        if task.rows is None:
            raise EvalError(f"task {task.name} does not say how many rows its data has")
        rng = random.Random(f"{seed} {task.file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (_row(task, index, rng) for index in range(task.rows))
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        written.append(path)
    return written


def _row(task: Task, index: int, rng: random.Random) -> dict[str, Any]:
    row = _content(task, rng)
    if isinstance(task, PromptedTask | PerplexityTask) and task.by_category:
        row["category"] = f"category_{index % NUM_CATEGORIES.get(task.name, 3):02}"
    return row


def _content(task: Task, rng: random.Random) -> dict[str, Any]:
    if isinstance(task, AnswerLossTask):
        task = task.question()
    if task.kind == "schema":
        options = [_sentence(rng, 6) for _ in range(2)]
        return {
            "context_options": options,
            "continuation": _sentence(rng, 4),
            "gold": rng.randrange(2),
        }
    if task.kind == "language_modeling":
        return {"context": _sentence(rng, 20), "continuation": _sentence(rng, 2)}
    if task.kind == "generation":
        number = str(rng.randrange(100))
        return {"context": _sentence(rng, 12), "answer": number, "aliases": [number]}
    if "mmlu" in task.name:
        listed = "\n".join(f"{letter}. {_sentence(rng, 3)}" for letter in LETTERS)
        query = f"{_sentence(rng, 10)}\n{listed}"
        return {"query": query, "choices": list(LETTERS), "gold": rng.randrange(4)}
    choices = [_sentence(rng, 4) for _ in range(2 if task.name == "bbq" else 4)]
    query = _sentence(rng, 15)
    return {"query": query, "choices": choices, "gold": rng.randrange(len(choices))}


def _sentence(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=num_words))
