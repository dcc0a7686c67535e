"""Exact substrings: runs of words or bytes that occur more than once in the pool are cut out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import Keys, SpanDedup, choose
from pipelines.schema import STRING, TEXT

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """The units of a batch: a hash each, row i has begin[i] .. end[i].

    start, stop are byte places of words in the data; None where every byte is a unit.
    """

    hash: npt.NDArray[np.uint64]
    begin: Ints
    end: Ints
    start: Ints | None = None
    stop: Ints | None = None


class SubstringDedup(SpanDedup, name="substring_dedup"):
    """Cut out every span of `length` or more units that the pool has had before.

    Two spans are equal when all their words are; white space between words does not count. A span
    is a repeat when it occurs in an earlier document, or in the same one and ends before this one
    begins. Each repeat is found by hash and goes only after it was compared with the first one byte
    by byte. With words, white space behind a span goes with it; with bytes, characters that are
    only partly covered stay. (Lee et al. 2022; RefinedWeb: Penedo et al. 2023, G.3.2)
    """

    reasons: ClassVar[tuple[str, ...]] = ("nothing_left", "repeated_span")

    units: Literal["uax29", "whitespace", "bytes"] = Field(
        "uax29", description="UAX #29 words and punctuation, words between white space, or bytes"
    )
    length: int = Field(50, ge=2, description="units of the shortest span that goes")
    keep: Literal["first", "none"] = Field(
        "first", description="whether the first of equal spans stays, or all go"
    )
    action: Literal["cut", "drop"] = Field(
        "cut", description="cut out the spans, or drop the documents that have any"
    )

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING} if self.action == "cut" else {}

    def window_units(self) -> int:
        return self.length

    def keep_first(self) -> bool:
        return self.keep == "first"

    @property
    def gram(self) -> int:
        """Units of an anchor: long enough to be rare, short enough for few anchors."""
        return (self.length + 1) // 2

    def keys(self, batch: Batch) -> Keys:
        units = self._units(batch)
        anchors = kernels.spans.anchors(
            units.hash, units.begin, units.end, window=self.length, gram=self.gram
        )
        return _keys(anchors)

    def windows(self, batch: Batch, anchors: Sequence[Ints]) -> Keys:
        units = self._units(batch)
        windows = kernels.spans.windows(
            units.hash,
            units.begin,
            units.end,
            window=self.length,
            gram=self.gram,
            marked=np.concatenate(anchors) if anchors else np.zeros(0, np.int64),
            border=np.concatenate([[0], np.cumsum([len(a) for a in anchors])]).astype(np.int64),
        )
        return _keys(windows)

    def quotes(self, batch: Batch, row: Ints, begin: Ints, end: Ints) -> pa.Array:
        units = self._units(batch)
        data, offsets = kernels.buffers.buffers_of(batch.text)
        if units.start is None:
            first = offsets[row] + begin
            start, stop = first, first + (end - begin)
            numbers = np.arange(len(row) + 1)
            out, places = kernels.spans.quotes(data, start, stop, numbers[:-1], numbers[1:])
        else:
            base = units.begin[row]
            out, places = kernels.spans.quotes(
                data, units.start, units.stop, base + begin, base + end
            )
        buffers = [None, pa.py_buffer(places), pa.py_buffer(out)]
        return pa.Array.from_buffers(pa.large_binary(), len(row), buffers)

    def places(self, batch: Batch, row: Ints, begin: Ints, end: Ints) -> tuple[Ints, Ints]:
        units = self._units(batch)
        data, offsets = kernels.buffers.buffers_of(batch.text)
        sizes = (offsets[1:] - offsets[:-1])[row]
        if units.start is None:
            whole = _character_borders(data, offsets[0], offsets[-1])
            base = offsets[row] - offsets[0]
            first = whole[np.searchsorted(whole, base + begin)] - base
            last = whole[np.searchsorted(whole, base + end, side="right") - 1] - base
            return first, np.maximum(first, last)
        past = units.begin[row] + end
        inside = past < units.end[row]
        after = units.start[np.minimum(past, len(units.start) - 1)] - offsets[row]
        return (
            units.start[units.begin[row] + begin] - offsets[row],
            np.where(inside, after, sizes),
        )

    def _units(self, batch: Batch) -> Units:
        if self.units == "bytes":
            return Units(*kernels.spans.byte_units(batch.text))
        kind = kernels.words.uax29_tokens if self.units == "uax29" else kernels.words.whitespace
        words = batch.view(kind)
        return Units(words.hash, words.begin, words.end, words.start, words.stop)

    def apply(self, batch: Batch, dropped: Sequence[Ints]) -> Mapping[str, Any]:
        counts = np.array([len(spans) for spans in dropped], dtype=np.int64)
        nothing, repeated = self.reasons
        if self.action == "drop":
            return {"reject": choose([(counts > 0, repeated)])}
        spans = np.concatenate(dropped) if dropped else np.zeros(0, np.int64)
        border = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        data, offsets = kernels.buffers.buffers_of(batch.text)
        start, stop = spans >> 32, spans & 0xFFFFFFFF
        text = kernels.spans.cut(data, offsets, start, stop, border)
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(text)), 0)
        emptied = blank.to_numpy(zero_copy_only=False) & (counts > 0)
        return {TEXT: text, "reject": choose([(emptied, nothing)])}

    def excerpt(self, value: str, unit: int) -> str:
        return value.encode("utf-8")[unit >> 32 : unit & 0xFFFFFFFF].decode("utf-8", "replace")


def _keys(places: Any) -> Keys:
    return Keys(
        position=places.row,
        unit=places.unit,
        key=places.key,
        rank=np.zeros(len(places.row), np.uint8),
        route=places.route,
    )


def _character_borders(data: npt.NDArray[np.uint8], first: int, last: int) -> Ints:
    """Places from `first` where a character begins, and the end."""
    begins = np.flatnonzero((data[first:last] & 0xC0) != 0x80)
    return np.append(begins, last - first)
