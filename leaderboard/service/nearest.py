"""The training documents nearest to wrongly answered questions, for public datasets.

Finding the nearest document takes the whole dataset, so neither the check nor a page does it: a
maintainer indexes the dataset (`pipelines index`) and passes the index to `leaderboard nearest`. It
writes one file for each task into the folder of the submission's evidence:

    shown/<submission>-.../nearest-<task>.json
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field, ValidationError

from leaderboard.database.states import StoredSubmission
from leaderboard.service.drill_down import Asked, page_of
from leaderboard.service.evidence import folder_of, read_evidence
from leaderboard.service.question_texts import QuestionText
from leaderboard.service.questions import numbers_of
from leaderboard.service.service import Service
from pipelines.errors import UsageError
from pipelines.records import Frozen, parse_record
from pipelines.reports.find_text import NGRAM, nearest, read_index
from pipelines.storage.base import Store as Files
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store

LONG = 600  # characters of a passage that are shown: about a hundred words
MAX_BYTES = 4 << 20  # read of one file: 4,000 passages
PAGE = 200  # questions read at a time


class NearDocument(Frozen):
    """The document nearest to one question."""

    question: int
    row: str = Field(description="shard:row of the dataset")
    url: str = Field("", description="from the dataset; empty when unknown")
    share: float = Field(description="fraction of the question's distinct 5-grams in it")
    passage: str


class NearDocuments(Frozen):
    """The wrong questions of one task that were searched for, and the document nearest to each."""

    task: str
    dataset: str = Field(description="the record of the dataset")
    looked: tuple[int, ...] = Field(description="numbers of the wrong questions searched for")
    near: tuple[NearDocument, ...]


def write_nearest(
    service: Service, submission: StoredSubmission, index: str, *, most: int
) -> Iterator[NearDocuments]:
    """Search for up to `most` wrong questions of each task, and write the nearest documents.

    UsageError when the dataset is not public, when the index is of another dataset, or when the
    service has no question texts.
    """
    row = next(iter(service.store.rows([submission.id])), None)
    evidence = read_evidence(service.files, submission)
    if row is None or evidence is None:
        raise UsageError(f"submission {submission.id} has not passed its check")
    if not row.dataset_public or not evidence.dataset_at:
        raise UsageError(f"the dataset of submission {submission.id} is not public")
    known = read_index(index)
    record = parse_record(open_store(known.pool).read_bytes("record.json"), source=known.pool)
    if record.id != row.dataset_id:
        raise UsageError(
            f"{index} is an index of {record.kind} {record.id}, and the submission's dataset is "
            f"{row.dataset_id}; index that one"
        )
    texts_seen = False
    for task in evidence.tasks:
        questions: list[tuple[int, QuestionText]] = []
        for offset in range(0, most, PAGE):
            asked = Asked(task, show="wrong", limit=min(PAGE, most - offset), offset=offset)
            page = page_of(service.files, submission, asked)
            if page.right is None or not page.texts:
                break
            pairs = zip(numbers_of(page.questions), page.texts, strict=True)
            questions += [(number, text) for number, text in pairs if text is not None]
        texts_seen = texts_seen or bool(questions)
        if questions:
            entry = _nearest(task, row.dataset_id, questions, index)
            write_bytes(service.files, _name(submission, task), entry.model_dump_json().encode())
            yield entry
    if not texts_seen:
        raise UsageError(
            "this service shows no texts of these tasks' wrong questions; serve with --eval-data, "
            "and write the evidence again with `leaderboard recompute`"
        )


def _nearest(
    task: str, dataset: str, questions: list[tuple[int, QuestionText]], index: str
) -> NearDocuments:
    looked, near = [], []
    for number, text in questions:
        passage = passage_of(text)
        if len(passage.split()) < NGRAM:
            continue
        looked.append(number)
        match = nearest(passage, index)
        if match is not None:
            near.append(
                NearDocument(
                    question=number,
                    row=f"{match.shard}:{match.number}",
                    url=(match.url or "")[:500],
                    share=match.share,
                    passage=match.passage[:LONG],
                )
            )
    return NearDocuments(task=task, dataset=dataset, looked=tuple(looked), near=tuple(near))


def passage_of(text: QuestionText) -> str:
    """The text searched for: the question with its right answer."""
    right = [text.options[at] for at in text.gold if at < len(text.options)] or [text.answer]
    return " ".join(part for part in (text.context, *right) if part)


def read_nearest(files: Files, submission: StoredSubmission, task: str) -> NearDocuments | None:
    """What was written for a task; None when nobody has searched."""
    try:
        with files.open(_name(submission, task)) as file:
            return NearDocuments.model_validate_json(file.read(MAX_BYTES))
    except (FileNotFoundError, ValidationError):
        return None


def safe_address(url: str) -> str:
    """`url` if a page may link to it (http or https); empty for any other text."""
    return url if re.fullmatch(r"https?://[^\s\"'<>\\]{1,490}", url) else ""


def _name(submission: StoredSubmission, task: str) -> str:
    return f"{folder_of(submission)}nearest-{task}.json"
