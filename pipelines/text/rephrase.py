"""Texts that a language model writes anew, as in WRAP, Nemotron-CC and FinePhrase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Counted
from pipelines.schema import STRING, TEXT
from pipelines.text.chat import Chat


class Rephrase(Chat, name="rephrase"):
    """Replace each text by what a language model answers to a prompt about it, asked over HTTP.

    The model runs where you like: a server of your own on GPUs (vLLM, llama.cpp) or a service. The
    text before stays in the column `original`, so every sentence can be traced. An empty answer
    leaves the text as it is, or rejects the document. The counts of the run hold requests, tokens
    read and written (the server's counts, where it gives them) and their price (`micro_dollars`).
    (Maini et al. 2024; Su et al. 2024; Nguyen et al. 2025)
    """

    max_characters: int = Field(20_000, ge=1, description="only so much of a text is asked about")
    max_tokens: int = Field(2048, ge=1, description="longest answer")
    original: str | None = Field("original", description="column for the text before; null: none")
    empty: Literal["keep", "reject"] = Field(
        "keep", description="what an empty answer does: keep the text, or reject the document"
    )
    reasons: ClassVar[tuple[str, ...]] = ("empty_answer",)

    def writes(self) -> Mapping[str, pa.DataType]:
        written = {TEXT: STRING}
        return written if self.original is None else written | {self.original: STRING}

    def modify(self, batch: Batch) -> Counted:
        before = batch.text.to_pylist()
        asked = self.asked(before)
        answers = self.answers(asked)
        texts = []
        num_empty = 0
        for old, answer in zip(before, answers, strict=True):
            new = answer.text.strip()
            num_empty += not new
            texts.append(new or (old if self.empty == "keep" else None))
        counts = self.cost(asked, answers) | {"empty_answers": num_empty}
        columns = {TEXT: pa.array(texts, STRING)}
        if self.original is not None:
            columns[self.original] = pa.array(before, STRING)
        return Counted(columns, counts)
