"""Documents that contain phrases of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Filter, Operator, because
from pipelines.text.patterns import Pattern, check_entries, read_list

Location = Literal["any", "prefix", "suffix"]


class PhraseList(Operator):
    """Phrases, given in place or as a list file."""

    phrases: tuple[str, ...] = Field((), description="phrases that are looked for")
    list_asset: str | None = Field(None, description="asset: a list, one phrase a line")
    _entries: tuple[str, ...] = PrivateAttr(())
    _made: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_source(self) -> PhraseList:
        if self.list_asset is None:
            check_entries(self.phrases)
            self._set(self.phrases)
        elif self.phrases:
            raise ValueError("give phrases or list_asset, not both")
        return self

    def assets(self) -> tuple[str, ...]:
        return () if self.list_asset is None else (self.list_asset,)

    def load(self, assets: AssetFolder) -> None:
        if self.list_asset is not None and not self._entries:
            self._set(read_list(assets.path(self.list_asset)))

    def _set(self, entries: Sequence[str]) -> None:
        self._entries = tuple(entries)
        self._made = self.prepare(self._entries)

    def prepare(self, entries: tuple[str, ...]) -> Any:
        """What the entries become before the first batch."""
        raise NotImplementedError


class Substrings(PhraseList, Filter, name="substrings"):
    """Reject documents that contain a phrase of a list.

    Without regard to case, text and phrases are compared in lower case. A whole word is between
    word boundaries (\\b), so a phrase that begins with a symbol matches only next to a letter.
    """

    regex: bool = Field(False, description="phrases are regular expressions, as in DCLM")
    location: Location = Field("any", description="where in the document the phrase must occur")
    case_sensitive: bool = Field(False, description="distinguish upper and lower case")
    whole_words: bool = Field(False, description="the phrase is not part of a longer word")
    reasons: ClassVar[tuple[str, ...]] = ("contains_phrase",)
    reference: ClassVar[str | None] = "substring_filter"

    def prepare(self, entries: tuple[str, ...]) -> Pattern:
        if not self.case_sensitive:
            entries = tuple(entry.lower() for entry in entries)
        border = r"\b" if self.whole_words else ""
        start = "^" if self.location == "prefix" else ""
        end = "$" if self.location == "suffix" else ""
        return Pattern(entries, literal=not self.regex, before=start + border, after=border + end)

    def reject(self, batch: Batch) -> pa.Array:
        pattern: Pattern = self._made
        occurs = pattern.occurs(batch.text, lowered=not self.case_sensitive, whole=self.whole_words)
        return because(occurs, "contains_phrase")

    def passage(self, batch: Batch, reason: str) -> str | None:
        text = batch.text[0].as_py()
        return self._made.shown(text if self.case_sensitive else text.lower())  # type: ignore[no-any-return]
