"""Scores by a large language model behind an HTTP endpoint, asked with a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from pipelines.batch import Batch
from pipelines.operators import Counted
from pipelines.text.chat import BYTES_A_TOKEN, Chat


class PromptScore(Chat, name="prompt_score"):
    """Add the number that a language model answers about a text, asked over HTTP.

    An answer in which `pattern` finds no number is no score (null). The counts of the run hold the
    requests, about how many tokens they read and write at most, and what that costs at the prices
    given (`micro_dollars`), cached answers included: what the same run costs somebody else. The key
    of a service is read from the environment variable that `key_variable` names.
    """

    column: str = Field("score", description="column to write")
    pattern: str = Field(r"(-?\d+(?:\.\d+)?)", description="the number in an answer, in a group")
    reasons: ClassVar[tuple[str, ...]] = ()

    @field_validator("pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("the pattern has no group (...) around the number")
        return pattern

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def modify(self, batch: Batch) -> Counted:
        asked = self.asked(batch.text.to_pylist())
        scores = [self._number(answer.text) for answer in self.answers(asked)]
        read = sum(-(-len(prompt.encode()) // BYTES_A_TOKEN) for prompt in asked)
        counts = self.counts(len(asked), read, self.max_tokens * len(asked))
        return Counted({self.column: pa.array(scores, pa.float64())}, counts)

    def _number(self, answer: str) -> float | None:
        match = re.search(self.pattern, answer)
        try:
            return None if match is None else float(match.group(1))
        except ValueError:
            return None
