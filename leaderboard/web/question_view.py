"""Single questions as a page says them: the question, its options, and what each model answered."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.board.describe import words
from leaderboard.database.states import StoredSubmission
from leaderboard.service.evidence import Evidence
from leaderboard.service.nearest import NearDocument, NearDocuments, safe_address
from leaderboard.service.question_texts import QuestionText
from leaderboard.service.questions import QuestionPage
from leaderboard.submissions.results import Row
from pipelines.records import Frozen

IN_WORDS = ("row", "index", "category", "predicted", "gold", "correct", "credit", "generated")
"""Columns that a line of a question says in words; all others are listed as they are."""


class Answered(Frozen):
    """What one model answered."""

    right: bool | None
    chosen: tuple[int, ...] = ()
    said: str = ""
    figures: tuple[tuple[str, str], ...] = ()


class Shown(Frozen):
    """One question with one answer or two."""

    number: int
    category: str
    text: QuestionText | None
    gold: str = ""  # where there is no text: the index of the right answer
    answers: tuple[Answered, ...]
    apart: bool = False
    near: NearDocument | None = None
    near_address: str = ""


def questions_of(page: QuestionPage, documents: NearDocuments | None = None) -> list[Shown]:
    """The questions of a page, with the training document nearest to each, where one is known."""
    shown = []
    near = {document.question: document for document in documents.near} if documents else {}
    for at, question in enumerate(page.questions):
        own = [question, *page.rival_answers[at : at + 1]]
        answers = tuple(_answered(answer, page.classes) for answer in own)
        text = page.texts[at] if at < len(page.texts) else None
        document = near.get(int(question.get("row", 0)))
        shown.append(
            Shown(
                number=int(question.get("row", 0)),
                category=str(question.get("category") or ""),
                text=text,
                gold="" if text is not None else _listed(question.get("gold")),
                answers=answers,
                apart=page.offset + at < page.num_apart,
                near=document,
                near_address=safe_address(document.url) if document is not None else "",
            )
        )
    return shown


def _answered(answer: Mapping[str, Any], classes: Sequence[str]) -> Answered:
    predicted = answer.get("predicted")
    chosen = tuple(predicted) if isinstance(predicted, list) else ()
    said = str(answer.get("generated", ""))
    if isinstance(predicted, int):
        chosen = (predicted,)
        if 0 <= predicted < len(classes):
            said = classes[predicted]
    return Answered(
        right=answer.get("correct"), chosen=chosen, said=said, figures=tuple(_figures(answer))
    )


def _figures(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    figures = []
    if "nats" in answer and answer.get("num_bytes"):
        bits = answer["nats"] / math.log(2) / answer["num_bytes"]
        figures.append(("bits per byte", f"{bits:.4f}"))
    losses = [option.get("mean_loss") for option in answer.get("options") or ()]
    if any(loss is not None for loss in losses):
        shown = ", ".join("-" if loss is None else f"{loss:.3f}" for loss in losses)
        figures.append(("mean loss of each option", shown))
    for name, value in answer.items():
        if name not in (*IN_WORDS, "options", "key", "cue") and value is not None:
            figures.append((words(name), _listed(value)))
    return figures


def _listed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(map(_listed, value))
    return "" if value is None else str(value)


def nearest_command(row: Row, evidence: Evidence, submission: StoredSubmission) -> str:
    """The commands that look for the suite's questions in a dataset that everybody may read.

    The address is somebody else's text, so it is quoted for a shell.
    """
    if not row.dataset_public or not evidence.dataset_at:
        return ""
    dataset = shlex.quote(evidence.dataset_at)
    suite = f"{submission.benchmark}/{row.suite}"
    return (
        f"evals overlap {dataset} {suite} --data EVAL_DATA\n"
        f"pipelines index {dataset} --out INDEX\n"
        "pipelines find 'A PASSAGE OF A QUESTION' INDEX"
    )
