"""A page of single questions: what was asked, what one model answered, and what another did.

Everything is read from what checks wrote: answers from the submissions' own files, texts and images
from those of the task's data.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from leaderboard.database.states import StoredSubmission
from leaderboard.service.evidence import CHECKED, Evidence, folder_of, read_evidence
from leaderboard.service.question_texts import read_image, read_texts
from leaderboard.service.questions import QuestionPage, Shown, numbers_of, read_questions
from pipelines.records import Frozen
from pipelines.storage.base import Store as Files

PAGE = 50  # questions a page


@dataclass(frozen=True)
class Asked:
    """Which questions of a submission a page shows."""

    task: str
    seed: int | None = None
    show: Shown = ""
    category: str = ""
    limit: int = PAGE
    offset: int = 0


class AskedQuestions(Frozen):
    """The query of a page of questions."""

    seed: int | None = Field(None, ge=0, le=2**63)
    show: Shown = Field("", description="only what was answered wrong or right")
    wrong: bool = Field(False, description="as show=wrong")
    category: str = Field("", max_length=100)
    rival: str = Field(
        "",
        pattern="^([0-9a-f]{32})?$",
        description="submission whose answers are shown next to these",
    )
    limit: int = Field(PAGE, ge=1, le=500)
    offset: int = Field(0, ge=0, le=10_000_000)

    def asked(self, task: str) -> Asked:
        """The query, for one task."""
        show: Shown = "wrong" if self.wrong else self.show
        return Asked(task, self.seed, show, self.category, self.limit, self.offset)


def page_of(
    files: Files,
    submission: StoredSubmission,
    asked: Asked,
    *,
    rival: StoredSubmission | None = None,
) -> QuestionPage:
    """A page of questions, with the answers of a rival to the same questions where one is given.

    KeyError for an unknown task, seed, category or rival, and before the submission is checked.
    """
    evidence = _checked(files, submission)
    task = asked.task
    seed = _seed(evidence, asked.seed)
    if task not in evidence.tasks:
        raise KeyError(f"there is no task {task!r}; there are {', '.join(evidence.tasks)}")
    theirs, rival_seed = "", None
    if rival is not None:
        other = _checked(files, rival)
        if other.data.get(task) != evidence.data.get(task) or task not in other.tasks:
            raise KeyError(f"{rival.method} was not asked the same questions of {task}")
        rival_seed = seed if seed in other.seeds else other.seeds[0]
        theirs = _name(rival, rival_seed, task)
    part = read_questions(
        files,
        _name(submission, seed, task),
        show=asked.show,
        category=asked.category,
        rival=theirs,
        limit=asked.limit,
        offset=asked.offset,
    )
    texts = read_texts(files, task, evidence.data.get(task, ""), numbers_of(part.questions))
    return QuestionPage(
        submission=submission.id,
        task=task,
        seed=seed,
        seeds=evidence.seeds,
        total=part.total,
        right=part.index.right,
        offset=asked.offset,
        columns=part.index.columns,
        questions=part.questions,
        show=asked.show if part.index.wrong else "",
        category=asked.category,
        categories=part.index.categories,
        texts=texts.texts,
        no_texts=texts.why,
        classes=texts.classes,
        rival=rival.id if rival is not None else "",
        rival_seed=rival_seed,
        rival_answers=part.rival_answers,
        num_apart=part.num_apart,
    )


def image_of(files: Files, submission: StoredSubmission, task: str, number: int) -> bytes:
    """A thumbnail of a task's image, as WebP. KeyError when it is missing or may not be shown."""
    evidence = _checked(files, submission)
    if task not in evidence.data:
        raise KeyError(f"there is no task {task!r}")
    return read_image(files, task, evidence.data[task], number)


def _checked(files: Files, submission: StoredSubmission) -> Evidence:
    evidence = read_evidence(files, submission) if submission.state in CHECKED else None
    if evidence is None:
        raise KeyError(
            f"submission {submission.id} has not passed its check; it shows no questions"
        )
    return evidence


def _seed(evidence: Evidence, seed: int | None) -> int:
    chosen = evidence.seeds[0] if seed is None else seed
    if chosen not in evidence.seeds:
        raise KeyError(
            f"there is no seed {chosen}; there are {', '.join(map(str, evidence.seeds))}"
        )
    return chosen


def _name(submission: StoredSubmission, seed: int, task: str) -> str:
    return f"{folder_of(submission)}{seed}-{task}.questions"
