"""Deduplication by n-grams in a Bloom filter: BFF, the filter behind DCLM-Baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import Fold
from pipelines.schema import STRING, TEXT

TASK_BYTES = 1 << 30  # of a task besides its filter
CONTAINED_BEFORE = "bff_contained_ngram_count_before_dedupe"
CONTAINED = "bff_contained_ngram_count"
SPANS = "bff_duplicate_spans"
EXACT = "bff_exact_duplicate"

WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters with the Unicode property White_Space; a page of nothing else is blank."""

Mode = Literal["old_both", "both", "naive_both", "paragraph", "document", "exact", "substring"]


@dataclass
class State:
    """The filter of one group of shards, and how much text went by."""

    filter: Any
    rows: int = 0
    text_bytes: int = 0


@dataclass(frozen=True)
class Sieve:
    """What one batch became: new texts (null: nothing is left), columns, and bytes that went."""

    columns: Mapping[str, pa.Array]
    removed: npt.NDArray[np.int64]


class NgramBloomDedup(Fold, name="ngram_bloom_dedup"):
    """Remove paragraphs or documents whose n-grams were seen before, by a Bloom filter (BFF).

    Words are UAX #29 segments other than white space, or the text between it. A unit with
    `max_ngram` words or more is compared by all its n-grams of `max_ngram` words, a shorter one of
    at least `min_ngram` words as one n-gram, a still shorter one stays. A unit goes when more than
    `threshold` of its n-grams are known; else they become known. Shards of a group are read in
    order with one filter; groups do not see each other. Rows left without text go. (Li et al. 2024,
    DataComp-LM)
    """

    reasons: ClassVar[tuple[str, ...]] = ("nothing_left",)
    reference: ClassVar[str | None] = "bff"

    mode: Mode = Field(
        "old_both",
        description="`old_both`: paragraphs, then the page by the sum over them (DCLM-Baseline); "
        "`both`: the page, then its first paragraph; `naive_both`: the page, then paragraphs that "
        "the page itself made known; `paragraph`; `document`; `exact`: equal texts; `substring`: "
        "known spans of at least `substring_length` words",
    )
    expected_ngrams: int = Field(
        100_000_000,
        gt=0,
        description="different n-grams that one group of shards holds at most; more is an error",
    )
    false_positive_rate: float = Field(0.01, gt=0, lt=1, description="at `expected_ngrams`")
    units: Literal["uax29", "whitespace"] = Field(
        "uax29",
        description="UAX #29 words and punctuation (the reference), or words between white space",
    )
    min_ngram: int = Field(13, ge=1, description="words below which a unit always stays")
    max_ngram: int = Field(13, ge=1, description="words per n-gram")
    threshold: float = Field(0.8, ge=0, le=1, description="share of known n-grams that may stay")
    substring_length: int = Field(50, ge=1, description="words of the shortest span that goes")
    annotate: bool = Field(False, description="change no text; say in columns what would go")

    def writes(self) -> Mapping[str, pa.DataType]:
        columns: dict[str, pa.DataType] = {TEXT: STRING}
        if self.annotate and self.mode == "exact":
            columns[EXACT] = pa.bool_()
        elif self.annotate:
            columns |= {CONTAINED: pa.int64(), SPANS: STRING}
        elif self.mode == "old_both":
            columns[CONTAINED_BEFORE] = pa.int64()
        return columns

    def needs(self) -> Mapping[str, float]:
        """Room for the filter of a group, beside what every task takes."""
        bloom = kernels.bloom
        blocks, _ = bloom.size(self.expected_ngrams, self.false_positive_rate)
        return {"memory_bytes": blocks * bloom.BLOCK_WORDS * 8 + TASK_BYTES}

    def start(self) -> State:
        bloom = kernels.bloom
        return State(bloom.new_filter(self.expected_ngrams, self.false_positive_rate))

    def step(self, state: State, batch: Batch) -> tuple[State, Mapping[str, pa.Array]]:
        sieve = self.sieve(state, batch.text)
        state.rows += batch.num_rows
        state.text_bytes += batch.text.nbytes
        if state.filter.inserted > state.filter.capacity:
            raise ValueError(self._full(state))
        return state, sieve.columns

    def describe(self, state: State) -> Mapping[str, Any]:
        filled, rate = kernels.bloom.filling(state.filter)
        return {
            "rows": state.rows,
            "expected_ngrams": state.filter.capacity,
            "inserted_ngrams": state.filter.inserted,
            "filter_bytes": state.filter.bits.nbytes,
            "num_hashes": state.filter.num_hashes,
            "filled_fraction": round(filled, 6),
            "false_positive_rate": float(f"{rate:.4g}"),
        }

    def _full(self, state: State) -> str:
        rate = state.filter.inserted / max(state.text_bytes, 1)
        ngrams_per_gib = int(rate * (1 << 30)) + 1
        return (
            f"the Bloom filter is full: it was sized for {state.filter.capacity} n-grams "
            f"(expected_ngrams) and held {state.filter.inserted} after {state.rows} rows "
            f"({state.text_bytes} bytes) of a group, so texts would be removed by mistake. This "
            f"pool needs about {ngrams_per_gib} expected_ngrams per GiB of text in a group; the "
            "number of words in the largest group is always enough"
        )

    def sieve(self, state: State, texts: pa.Array) -> Sieve:
        """Ask the filter about each text in order; the state's filter changes."""
        if self.mode == "exact":
            return self._exact(state, texts)
        kind = kernels.words.uax29_tokens if self.units == "uax29" else kernels.words.whitespace
        words = kind(texts)
        data, offsets = kernels.buffers.buffers_of(texts)
        sifted = kernels.bloom.sift(
            state.filter,
            words,
            offsets,
            mode=getattr(kernels.bloom, self.mode.upper()),
            min_ngram=self.min_ngram,
            max_ngram=self.max_ngram,
            threshold=self.threshold,
            length=self.substring_length,
        )
        sizes = np.diff(offsets)
        span_bytes = np.concatenate([[0], np.cumsum(sifted.stop - sifted.start)])
        removed = span_bytes[sifted.border[1:]] - span_bytes[sifted.border[:-1]]
        removed = np.where(sifted.whole, sizes, removed)
        if self.annotate:
            return Sieve(self._annotated(texts, sifted, sizes), removed)
        cut_data, cut_offsets = kernels.bloom.cut(data, offsets, sifted)
        cut = pa.LargeStringArray.from_buffers(
            len(texts), pa.py_buffer(cut_offsets), pa.py_buffer(cut_data)
        )
        kept = pc.if_else(pa.array(~sifted.whole), cut, pa.scalar(None, STRING))
        if self.mode == "both":
            kept = _trimmed(kept, sifted.total > 0, left=False)
        if self.mode == "substring":
            kept = _trimmed(kept, sifted.total > 0, left=True)
        columns: dict[str, pa.Array] = {TEXT: _without_blank(kept)}
        if self.mode == "old_both":
            columns[CONTAINED_BEFORE] = pa.array(sifted.contained)
        return Sieve(columns, removed)

    def _annotated(
        self, texts: pa.Array, sifted: Any, sizes: npt.NDArray[np.int64]
    ) -> dict[str, pa.Array]:
        asked = sifted.total > 0
        if self.mode in ("old_both", "paragraph"):
            asked = np.ones(len(texts), dtype=bool)
        spans: list[str | None] = []
        for row in range(len(texts)):
            if not asked[row]:
                spans.append(None)
                continue
            here = slice(sifted.border[row], sifted.border[row + 1])
            ranges = np.stack([sifted.start[here], sifted.stop[here]], axis=1).tolist()
            if sifted.whole[row] and self.mode != "old_both":
                ranges = [[0, int(sizes[row])]]
            spans.append(orjson.dumps(ranges).decode())
        return {
            TEXT: _without_blank(texts),
            CONTAINED: pa.array(sifted.contained, mask=~asked),
            SPANS: pa.array(spans, STRING),
        }

    def _exact(self, state: State, texts: pa.Array) -> Sieve:
        values = [value.encode("utf-8") for value in texts.to_pylist()]
        keys = np.array([xxhash.xxh3_64_intdigest(value) for value in values], dtype=np.uint64)
        known = kernels.bloom.seen(state.filter, keys)
        removed = np.where(known, np.array([len(value) for value in values], dtype=np.int64), 0)
        if self.annotate:
            marks = pa.array(known, mask=~known)
            return Sieve({TEXT: _without_blank(texts), EXACT: marks}, removed)
        kept = pc.if_else(pa.array(~known), texts, pa.scalar(None, STRING))
        return Sieve({TEXT: _without_blank(kept)}, removed)


def _trimmed(texts: pa.Array, where: npt.NDArray[np.bool_], *, left: bool) -> pa.Array:
    trim = pc.utf8_trim if left else pc.utf8_rtrim
    return pc.if_else(pa.array(where), trim(texts, WHITE_SPACE), texts)


def _without_blank(texts: pa.Array) -> pa.Array:
    """The texts, null where nothing but white space is left."""
    blank = pc.equal(pc.utf8_trim(texts, WHITE_SPACE), "")
    return pc.if_else(blank, pa.scalar(None, STRING), texts)
