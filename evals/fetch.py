"""Fetch task data from the Hugging Face hub and convert it to the layout of a data folder.

This works only for tasks with a public dataset there whose rows have all that the task needs. The
texts are those of the hub's version, not the reference's bytes, so scores on them are unverified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def _labelled(row: Mapping[str, Any], query: str) -> dict[str, Any]:
    """Choices with labels, and the label of the right one."""
    labels = list(row["choices"]["label"])
    gold = labels.index(row["answerKey"])
    return {"query": query, "choices": list(row["choices"]["text"]), "gold": gold}


def arc(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of allenai/ai2_arc: question, choices with labels, the right label."""
    return _labelled(row, f"Question: {row['question']}")


def openbook_qa(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of allenai/openbookqa: the beginning of a sentence and its ends."""
    return _labelled(row, row["question_stem"])


def piqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ybisk/piqa: a goal, two ways to it, the number of the right one."""
    choices = [row["sol1"], row["sol2"]]
    return {"query": f"Question: {row['goal']}\n", "choices": choices, "gold": int(row["label"])}


def boolq(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of google/boolq: a passage, a question without its mark, true or false."""
    query = f"Passage: {row['passage']}\nQuestion: {row['question']}?"
    return {"query": query, "choices": ["no", "yes"], "gold": int(bool(row["answer"]))}


def copa(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of super_glue's copa: a premise, two sentences, one its cause or effect."""
    word = {"cause": "because", "effect": "therefore"}[row["question"]]
    choices = [text[:1].lower() + text[1:] for text in (row["choice1"], row["choice2"])]
    query = f"{row['premise'].rstrip('.')}, {word}"
    return {"query": query, "choices": choices, "gold": int(row["label"])}


def winogrande(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of allenai/winogrande: a sentence with a gap, two names, the right one of them."""
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError(f"there is no gap in {row['sentence']!r}")
    return {
        "context_options": [before + row["option1"], before + row["option2"]],
        "continuation": after.strip(),
        "gold": int(row["answer"]) - 1,
    }


def lambada(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of EleutherAI/lambada_openai: a passage, whose last word is the answer."""
    context, _, word = row["text"].strip().rpartition(" ")
    return {"context": context, "continuation": word}


def gsm8k(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of openai/gsm8k: a question, and steps that end in `#### number`."""
    steps, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError(f"there is no #### in {row['answer']!r}")
    return {
        "context": row["question"],
        "chain_of_thought": steps.strip(),
        "answer": answer.strip().replace(",", ""),
    }


class Home(NamedTuple):
    """The hub dataset of a data file, and the function that converts its rows."""

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
    "reading_comprehension/boolq.jsonl": Home("google/boolq", None, "validation", boolq),
    "world_knowledge/arc_easy.jsonl": Home("allenai/ai2_arc", "ARC-Easy", "test", arc),
    "world_knowledge/arc_challenge.jsonl": Home("allenai/ai2_arc", "ARC-Challenge", "test", arc),
    "commonsense_reasoning/openbook_qa.jsonl": Home(
        "allenai/openbookqa", "main", "test", openbook_qa
    ),
    "commonsense_reasoning/piqa.jsonl": Home("ybisk/piqa", None, "validation", piqa),
    "commonsense_reasoning/copa.jsonl": Home("aps/super_glue", "copa", "validation", copa),
    "language_understanding/winogrande.jsonl": Home(
        "allenai/winogrande", "winogrande_xl", "validation", winogrande
    ),
    "language_understanding/lambada_openai.jsonl": Home(
        "EleutherAI/lambada_openai", "default", "test", lambada
    ),
    "symbolic_problem_solving/gsm8k.jsonl": Home("openai/gsm8k", "main", "test", gsm8k),
}


class Fetched(NamedTuple):
    """The result for each task of a suite."""

    written: list[Path]
    there: list[str]
    by_hand: dict[str, str]  # source of the data, from the task file, by task
    failed: dict[str, str]  # what went wrong, by task


def fetch_tasks(tasks: Sequence[Task], folder: Path) -> Fetched:
    """Fetch every task in `HOMES` that has no data in the folder yet.

    A dataset that the hub does not give, or whose rows do not fit, stops no other; when the hub
    cannot be reached, no other is tried.
    """
    result = Fetched([], [], {}, {})
    files: set[str] = set()
    unreachable = ""
    for task in tasks:
        if all((folder / name).exists() for name in task.files()):
            result.there.append(task.name)
        elif task.file in HOMES and unreachable:
            result.failed[task.name] = unreachable
        elif task.file in HOMES and task.file not in files:
            try:
                result.written.append(fetch(task, folder))
            except ConnectionError as error:
                unreachable = f"the hub cannot be reached: {error}"
                result.failed[task.name] = unreachable
            except (DataError, OSError, RuntimeError, ValueError) as error:
                # what `datasets` raises for a dataset that moved, is gated, or needs its own code
                result.failed[task.name] = f"{type(error).__name__}: {error}"
        elif task.file not in files:
            result.by_hand[task.name] = task.source or f"no source is known for {task.file}"
        files.add(task.file)
    return result


def fetch(task: Task, folder: Path, *, revision: str | None = None) -> Path:
    """Write the data file of a task from the hub. EvalError for a task that is not in `HOMES`."""
    if task.file not in HOMES:
        raise EvalError(
            f"task {task.name}: no hub repository is known for it. {task.source} Known: "
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
    """Convert rows of the hub and write them as JSONL. DataError names a row that does not fit."""
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
