"""Steps on fields of a page other than its text: renaming, copying, choosing by a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import NoneType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipelines.batch import Batch
from pipelines.extra_fields import canonical
from pipelines.operators import Case, Filter, Modifier, because
from pipelines.schema import EXTRA, ROW, STRING, TEXT, URL
from pipelines.text import fields


class UrlFromMetadata(Modifier, name="url_from_metadata"):
    """Set the URL from the WARC header WARC-Target-URI in the field `metadata`."""

    header: str = Field("WARC-Target-URI", description="the entry of `metadata`")
    reference: ClassVar[str | None] = "move_url_modifier"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return ("metadata",)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {URL: STRING}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        urls = []
        for metadata in fields.needed(batch, "metadata", why=self.name):
            if not isinstance(metadata, dict) or self.header not in metadata:
                raise ValueError(f"a row's metadata has no entry {self.header!r}")
            urls.append(str(metadata[self.header]))
        return {URL: pa.array(urls, type=STRING)}


class RenameField(Modifier, name="rename_field"):
    """Give a field another name; rows without it are left alone. The new `text` is a string."""

    old: str = Field("content", min_length=1, description="the field's name")
    new: str = Field(TEXT, min_length=1, description="its new name")
    existing: Literal["error", "keep", "replace"] = Field(
        "error", description="a field with the new name: stop, keep both as they are, replace it"
    )
    reference: ClassVar[str | None] = "key_name_modifier"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (self.old, self.new)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.new: STRING, EXTRA: STRING}

    def drops(self) -> tuple[str, ...]:
        return (self.old,)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        values: list[str | None] = []
        entries: list[dict[str, Any]] = []
        olds, news = fields.values_of(batch, self.old), fields.values_of(batch, self.new)
        for old, new in zip(olds, news, strict=True):
            old = None if old is fields.MISSING else old
            new = None if new is fields.MISSING else new
            if old is not None and new is not None and self.existing == "error":
                raise ValueError(
                    f"the field {self.new!r} exists already; set existing: keep or replace"
                )
            stays = old is None or (new is not None and self.existing == "keep")
            value = new if stays else old
            if self.new == TEXT and not isinstance(value, str | None):
                raise ValueError(f"{self.old!r} is {type(value).__name__}, and a text is a string")
            values.append(value if isinstance(value, str) else None)
            # A field that keeps its old name moves into `extra`, since the column goes; so does a
            # value that is not a string, since the column holds strings.
            kept = old if stays and old is not None else fields.MISSING
            inside = fields.MISSING if isinstance(value, str | None) else value
            entries.append({self.old: kept, self.new: inside})
        extra = fields.with_entries(batch, entries)
        return {self.new: pa.array(values, type=STRING), EXTRA: extra}


class SampleRows(Filter, name="sample_rows"):
    """Keep a random part of the rows: those whose hash of seed and column is small enough.

    The size is not exact (see `hash_sample` for that), but no pass over the pool is needed.
    """

    keep_fraction: float = Field(0.1, ge=0, le=1, description="share of rows kept, on average")
    seed: int = Field(0, ge=0, description="another seed, another sample")
    column: str = Field(ROW, description="the column that is hashed; equal values go together")
    reasons: ClassVar[tuple[str, ...]] = ("not_sampled",)
    reference: ClassVar[str | None] = "random_sampling_filter"

    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    def reject(self, batch: Batch) -> pa.Array:
        seed = f"{self.seed}:".encode()
        values = batch.column(self.column).to_pylist()
        if None in values:
            raise ValueError(f"a row has no {self.column!r} to hash; name another column")
        hashes = [
            xxhash.xxh3_64_intdigest(seed + canonical(value).encode()) >> 11 for value in values
        ]
        chance = np.array(hashes, dtype=np.float64) / float(1 << 53)
        return because(chance >= self.keep_fraction, "not_sampled")


class Threshold(Filter, name="threshold"):
    """Reject documents whose score is outside bounds; both bounds are kept.

    A null or NaN score is an error unless `missing: reject`.
    """

    by: str = Field(min_length=1, description="field with the score")
    min_score: float | None = Field(None, description="lowest score kept")
    max_score: float | None = Field(None, description="highest score kept")
    missing: Literal["error", "reject"] = Field("error", description="what no score means")
    reasons: ClassVar[tuple[str, ...]] = ("no_score", "score_too_low", "score_too_high")
    reference: ClassVar[str | None] = "quality_filter"

    def model_post_init(self, context: object) -> None:
        if self.min_score is None and self.max_score is None:
            raise ValueError("give min_score, max_score or both")

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (self.by,)

    def cases(self, batch: Batch) -> Sequence[Case]:
        values = fields.values_of(batch, self.by)
        if self.missing == "error":
            values = fields.needed(batch, self.by, why=self.name)
        values = [None if value is fields.MISSING else value for value in values]
        numbers = (int, float, Decimal, NoneType)
        wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, numbers)]
        if wrong:
            raise ValueError(f"the field {self.by!r} is {type(wrong[0]).__name__}, not a number")
        scores = np.array(values, dtype=np.float64)
        none = np.isnan(scores)
        if none.any() and self.missing == "error":
            raise ValueError(f"a row's {self.by!r} is null or NaN; set missing: reject to drop it")
        cases = [Case(none, "no_score")]
        if self.min_score is not None:
            low = scores < self.min_score
            cases.append(Case(low, "score_too_low", scores, self.min_score))
        if self.max_score is not None:
            high = scores > self.max_score
            cases.append(Case(high, "score_too_high", scores, self.max_score))
        return cases
