"""Question-and-answer pages: fields `question` {text} and `answers` [{text, score}].

As RedPajama-v1 prepared Stack Exchange (Together 2023).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Modifier
from pipelines.schema import EXTRA, STRING, TEXT
from pipelines.text import fields

QUESTION, ANSWERS = "question", "answers"


class _Posts(Modifier):
    """Changes the posts of a page, which are entries of `extra`."""

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (QUESTION, ANSWERS)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {EXTRA: STRING}

    def change(self, question: dict[str, Any], answers: list[Any] | None) -> Mapping[str, Any]:
        """The new entries of a page that has a question."""
        raise NotImplementedError

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        questions = fields.values_of(batch, QUESTION)
        answers = fields.values_of(batch, ANSWERS)
        entries = []
        for question, replies in zip(questions, answers, strict=True):
            if not isinstance(question, dict):
                raise ValueError(f"a row has no field {QUESTION!r}, which {self.name} needs")
            entries.append(self.change(question, replies if isinstance(replies, list) else None))
        return {EXTRA: fields.with_entries(batch, entries)}


def _each_text(
    question: dict[str, Any], answers: list[Any] | None, function: Callable[[str], str]
) -> dict[str, Any]:
    entries: dict[str, Any] = {QUESTION: {**question, "text": function(question["text"])}}
    if answers is not None:
        entries[ANSWERS] = [{**answer, "text": function(answer["text"])} for answer in answers]
    return entries


_LIST_OPEN = re.compile(r"<(?:li|ol)>")
_LIST_CLOSE = re.compile(r"</(?:li|ol)>")


class PostLists(_Posts, name="post_lists"):
    """Turn HTML lists in posts into lines that begin with `*`."""

    reference: ClassVar[str | None] = "stackexchange_list_modifier"

    def change(self, question: dict[str, Any], answers: list[Any] | None) -> Mapping[str, Any]:
        return _each_text(
            question, answers, lambda text: _LIST_CLOSE.sub("", _LIST_OPEN.sub("\n*", text))
        )


class PostHtml(_Posts, name="post_html"):
    """Take the HTML markup out of posts."""

    reference: ClassVar[str | None] = "stackexchange_html_extraction_modifier"

    def load(self, assets: object) -> None:
        try:
            import bs4  # noqa: F401
            import lxml  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{self.name} needs packages: pip install beautifulsoup4 lxml ({error})"
            ) from None

    def change(self, question: dict[str, Any], answers: list[Any] | None) -> Mapping[str, Any]:
        from bs4 import BeautifulSoup

        return _each_text(question, answers, lambda text: BeautifulSoup(text, "lxml").get_text())


class SortAnswers(_Posts, name="sort_answers"):
    """Sort answers by score; one without counts as 0, equal ones keep their order."""

    descending: bool = Field(True, description="the best answer first")
    reference: ClassVar[str | None] = "stackexchange_answer_sort_modifier"

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        entries: list[dict[str, Any]] = []
        for answers in fields.values_of(batch, ANSWERS):
            if not isinstance(answers, list):
                entries.append({})
                continue
            ordered = sorted(
                answers, key=lambda answer: answer.get("score") or 0, reverse=self.descending
            )
            entries.append({ANSWERS: ordered})
        return {EXTRA: fields.with_entries(batch, entries)}


class QuestionText(Modifier, name="question_text"):
    """Make one text of question and answers: `Q: ...`, then `A: ...` for each; others go."""

    drop_posts: bool = Field(False, description="remove the fields question and answers")
    reference: ClassVar[str | None] = "stackexchange_qa_formatter"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (QUESTION, ANSWERS)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING, EXTRA: STRING}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        texts: list[str | None] = []
        entries: list[dict[str, Any]] = []
        questions = fields.values_of(batch, QUESTION)
        for question, answers in zip(questions, fields.values_of(batch, ANSWERS), strict=True):
            if not isinstance(question, dict) or not isinstance(answers, list):
                texts.append(None)
                entries.append({})
                continue
            replies = "\nA: ".join(answer["text"] for answer in answers)
            texts.append(f"Q: {question['text']}\nA: {replies}")
            missing = {QUESTION: fields.MISSING, ANSWERS: fields.MISSING}
            entries.append(missing if self.drop_posts else {})
        extra = fields.with_entries(batch, entries)
        return {TEXT: pa.array(texts, type=STRING), EXTRA: extra}
