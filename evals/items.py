"""Items and tallies: an item is one question of a task's data file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evals.tasks import PerplexityTask, PromptedTask
from pipelines.errors import DataError
from pipelines.records import canonical_json

Metrics = dict[str, float | None]
"""Figures of one task by name; None where a figure is not defined."""


@dataclass(frozen=True)
class Item:
    """One question. Which fields are filled depends on the kind of its task."""

    row: int
    category: str | None = None
    context: str = ""
    contexts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer: str = ""
    aliases: tuple[str, ...] = ()
    reasoning: str = ""
    gold: int | None = None
    ids: tuple[int, ...] = ()

    def text(self) -> str:
        """The question with its right answer, as decontamination searches for it."""
        if self.contexts:
            assert self.gold is not None
            return f"{self.contexts[self.gold]} {self.answer}"
        answer = self.options[self.gold] if self.gold is not None else self.answer
        return f"{self.context} {answer}".strip()


@dataclass(frozen=True)
class Tally:
    """Numerators and denominators of a task's score, one for each item.

    The score is the mean over groups of sum(numerator) / sum(denominator), or with `worst` the
    lowest of them.
    """

    numerator: np.ndarray[Any, np.dtype[np.float64]]
    denominator: np.ndarray[Any, np.dtype[np.float64]]
    group: np.ndarray[Any, np.dtype[np.int64]]
    worst: bool = False


@dataclass(frozen=True, eq=False)
class TaskData:
    """The checked items of a task, and the hash of their file. Equal only to itself."""

    items: tuple[Item, ...]
    sha256: str
    verified: bool

    @cached_property
    def identity(self) -> str:
        """The hash of the canonical rows: equal for equal questions, however they are stored."""
        return identity_of(self.items)

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def num_duplicated(self) -> int:
        """Questions that offer the same option twice."""
        return sum(len(set(item.options)) < len(item.options) for item in self.items)

    def empty_classes(self) -> list[str]:
        """For images: classes without an image, which means over classes leave out."""
        return []


def identity_of(items: Iterable[Item]) -> str:
    """sha256 over the canonical JSON of every item's content, one per line, in order."""
    state = hashlib.sha256()
    for item in items:
        content = [getattr(item, name) for name in IDENTITY_FIELDS]
        state.update(canonical_json(content) + b"\n")
    return state.hexdigest()


IDENTITY_FIELDS = (
    "category",
    "context",
    "contexts",
    "options",
    "answer",
    "aliases",
    "reasoning",
    "gold",
    "ids",
)
"""The fields of an item that are content; `row` is only its position."""


def text_field(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    """A text of a row; empty texts are refused unless `empty`."""
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"field {name!r} should be a text, found {_shown(value)}")
    if not value and not empty:
        raise DataError(f"field {name!r} is empty")
    return value


def texts_field(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts of a row, none of them blank."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"field {name!r} should be a list of texts, found {_shown(value)}")
    for number, text in enumerate(value):
        if not text.strip():
            raise DataError(f"field {name!r} has an empty text at position {number}")
    return tuple(value)


def gold_field(row: Mapping[str, Any], num_options: int) -> int:
    """The index of the right option of a row."""
    gold = row.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool):
        raise DataError(f"field 'gold' should be an index, found {_shown(gold)}")
    if not 0 <= gold < num_options:
        raise DataError(f"field 'gold' is {gold}, but the row has {num_options} options")
    return gold


def category_field(row: Mapping[str, Any], task: PromptedTask | PerplexityTask) -> str | None:
    """The category of a row, where the task is split by category."""
    return text_field(row, "category") if task.by_category else None


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
