"""Rejected rows of a shard with step and reason; a sample of them with text and evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.batch import Batch
from pipelines.engine.evidence import Evidence, evidence_of
from pipelines.operators import Filter
from pipelines.schema import ROW, STRING, TEXT, URL
from pipelines.stats import Tally

SAMPLES_PER_REASON = 3  # rejected documents kept with their text, per shard, step and reason
SAMPLE_CHARACTERS = 2000  # of a sampled text, as much as a report shows
UID = "uid"
OF_EVERY_ROW = (ROW, "step", "operator", "reason")

NOTHING = Evidence()

Lookup = Callable[[Sequence[int]], Mapping[int, Mapping[str, str | None]]]
"""From rows to their text, url and uid, as far as they are known."""


@dataclass
class Sample:
    """One rejected row with its text and evidence, for the report."""

    row: int
    text: str | None = None
    uid: str | None = None
    evidence: Evidence = NOTHING


@dataclass
class _Part:
    """Rows that one step rejected in one batch. `reasons` index into `words`."""

    rows: npt.NDArray[np.int64]
    step: Tally
    reasons: npt.NDArray[np.int64]
    words: tuple[str, ...]
    urls: pa.Array | None


@dataclass
class Rejections:
    """Rejected rows in columns, a part for each step and batch, in the order of rejection."""

    num_rows: int = 0
    _parts: list[_Part] = field(default_factory=list)
    _samples: dict[int, Sample] = field(default_factory=dict)  # by position among rejected rows
    _seen: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(
        self, batch: Batch, reasons: pa.Array, step: Tally, *, filter_: Filter | None = None
    ) -> None:
        """Record the rows that have a reason, and count them for the step.

        `filter_` provides the evidence for the first few rows of each reason.
        """
        encoded = reasons.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        places = np.flatnonzero(codes >= 0)
        words = tuple(encoded.dictionary.to_pylist())
        counts = np.bincount(codes[places], minlength=len(words))
        for word, number in sorted(zip(words, counts.tolist(), strict=True)):
            step.because(word, number)
        urls = batch.strings(URL).take(pa.array(places)) if batch.has(URL) else None
        for code, word in enumerate(words):
            self._take_samples(
                batch, places, np.flatnonzero(codes[places] == code), word, step, filter_
            )
        self._append(_Part(batch.rows[places], step, codes[places].astype(np.int64), words, urls))

    def _take_samples(
        self,
        batch: Batch,
        places: npt.NDArray[np.int64],
        of_reason: npt.NDArray[np.int64],
        reason: str,
        step: Tally,
        filter_: Filter | None,
    ) -> None:
        seen = self._seen.get((step.number, reason), 0)
        for position in of_reason[: max(0, SAMPLES_PER_REASON - seen)].tolist():
            row = int(places[position])
            sample = Sample(int(batch.rows[row]))
            if batch.has(TEXT):
                value = batch.text[row].as_py()
                sample.text = None if value is None else value[:SAMPLE_CHARACTERS]
            if batch.has(UID):
                sample.uid = batch.column(UID)[row].as_py()
            if filter_ is not None:
                sample.evidence = evidence_of(filter_, batch.slice(row, 1), reason)
            self._samples[self.num_rows + position] = sample
        self._seen[step.number, reason] = seen + len(of_reason)

    def add_row(self, row: int, step: Tally, reason: str, url: str | None) -> None:
        """Record one row that a reader refused."""
        step.because(reason, 1)
        urls = pa.array([url], type=STRING)
        self._append(_Part(np.array([row]), step, np.zeros(1, np.int64), (reason,), urls))

    def _append(self, part: _Part) -> None:
        if len(part.rows):
            self._parts.append(part)
            self.num_rows += len(part.rows)

    def table(self, lookup: Lookup | None = None) -> pa.Table:
        """All rejected rows. `lookup` provides text, url and uid of samples that lack them."""
        samples = self._samples
        fields_of = (
            lookup([sample.row for sample in samples.values()]) if lookup and samples else {}
        )
        urls: dict[int, str | None] = {}
        for position, sample in samples.items():
            known = fields_of.get(sample.row, {})
            text = known.get(TEXT)
            sample.text = sample.text or (None if text is None else text[:SAMPLE_CHARACTERS])
            sample.uid = sample.uid or known.get(UID)
            urls[position] = known.get(URL)
        url_column = self._sparse(urls, STRING)
        if lookup is None:
            given = [
                pa.nulls(len(p.rows), STRING) if p.urls is None else p.urls for p in self._parts
            ]
            url_column = pa.concat_arrays(given)
        evidence = {position: sample.evidence for position, sample in samples.items()}
        texts = {position: sample.text for position, sample in samples.items()}
        columns = {
            ROW: pa.array(np.concatenate([part.rows for part in self._parts])),
            "step": self._per_part([part.step.number for part in self._parts]),
            "operator": self._words([(p.step.name,) for p in self._parts], one_each=True),
            "reason": self._words([p.words for p in self._parts]),
            URL: url_column,
            TEXT: self._sparse(texts, STRING),
            "value": self._sparse({n: e.value for n, e in evidence.items()}, pa.float64()),
            "limit": self._sparse({n: e.limit for n, e in evidence.items()}, pa.float64()),
            "passage": self._sparse({n: e.passage for n, e in evidence.items()}, STRING),
        }
        if lookup is not None:
            columns[UID] = self._sparse({n: s.uid for n, s in samples.items()}, STRING)
        table = pa.table(columns)
        # Columns without nulls are declared so: parquet then writes no definition levels for them.
        fields = [field.with_nullable(field.name not in OF_EVERY_ROW) for field in table.schema]
        return table.cast(pa.schema(fields))

    def _words(self, words: Sequence[tuple[str, ...]], *, one_each: bool = False) -> pa.Array:
        """A dictionary column, so that parquet stores each of the few words once."""
        known = {word: n for n, word in enumerate(dict.fromkeys(w for part in words for w in part))}
        codes = []
        for part, own in zip(self._parts, words, strict=True):
            own_codes = np.array([known[word] for word in own], dtype=np.int32)
            codes.append(
                np.full(len(part.rows), own_codes[0]) if one_each else own_codes[part.reasons]
            )
        return pa.DictionaryArray.from_arrays(
            pa.array(np.concatenate(codes)), pa.array(list(known), type=STRING)
        )

    def _per_part(self, values: Sequence[int]) -> pa.Array:
        sizes = [len(part.rows) for part in self._parts]
        return pa.array(np.repeat(np.array(values, dtype=np.int32), sizes))

    def _sparse(self, values: Mapping[int, object], type_: pa.DataType) -> pa.ChunkedArray:
        """A column that is null except at these positions."""
        pieces, end = [], 0
        for position in sorted(position for position, value in values.items() if value is not None):
            pieces += [pa.nulls(position - end, type_), pa.array([values[position]], type=type_)]
            end = position + 1
        return pa.chunked_array([*pieces, pa.nulls(self.num_rows - end, type_)], type=type_)
