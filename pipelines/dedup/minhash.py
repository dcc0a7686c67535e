"""Near-duplicates: MinHash over word or character n-grams, bands, linked groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.dedup.ranks import Keep, rank_kind, ranks
from pipelines.operators import Dedup, Keys, Sketch
from pipelines.schema import TEXT

SKETCH = 1024  # n-grams that stand for a document: all of most; of longer ones about 750, +-.015
PRESETS = {"14x8": (14, 8), "93x15": (93, 15)}


class MinhashDedup(Dedup, name="minhash_dedup"):
    """Keep one of documents with near-equal text, found by MinHash in bands and then verified.

    Two documents with Jaccard similarity J of their n-grams are found with probability
    1 - (1 - J^rows)^bands. A document goes only if one that stays is as similar to it as `verify`;
    with `verify: null` whatever is linked, by way of others too, is one group of which one stays.
    A document shorter than an n-gram is one shingle; one without any word is never a duplicate.
    (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4)
    """

    version: ClassVar[int] = 3  # 3: links are verified unless `verify` is null
    linked: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("near_duplicate",)

    preset: Literal["14x8", "93x15"] = Field("14x8", description="bands x rows")
    bands: int | None = Field(None, ge=1, description="with `rows`, in place of the preset")
    rows: int | None = Field(None, ge=1, description="hashes per band")
    units: Literal["whitespace", "uax29", "characters"] = Field(
        "whitespace", description="what n-grams are made of: words or characters"
    )
    ngram: int = Field(5, ge=1, description="units per n-gram")
    lowercase: bool = Field(False, description="compare lower-cased texts")
    verify: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="a document goes if one that stays is as similar as this; null: unverified",
    )
    verify_by: Literal["jaccard", "containment"] = Field(
        "jaccard",
        description="similarity of n-grams: Jaccard's, or the part of them that the kept one has",
    )
    stop_at_loss: float | None = Field(
        None,
        gt=0,
        le=1,
        description="stop the run when a source or domain loses more than this part of its "
        "documents; null: report it",
    )
    keep_by: str | None = Field(
        None,
        description="a column of numbers, times or short strings: who stays in a group (ties and "
        "none: the first row)",
    )
    keep: Keep = Field("max", description="which value of `keep_by` stays")
    seed: int = Field(1, ge=0, lt=1 << 32, description="of the hash functions")

    @model_validator(mode="after")
    def _together(self) -> MinhashDedup:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give bands and rows together, or neither")
        return self

    def reads(self) -> tuple[str, ...]:
        return (TEXT,) if self.keep_by is None else (TEXT, self.keep_by)

    def shape(self) -> tuple[int, int]:
        """Bands, and rows per band."""
        if self.bands is None or self.rows is None:
            return PRESETS[self.preset]
        return self.bands, self.rows

    def keys(self, batch: Batch) -> Keys:
        bands, rows = self.shape()
        hashes, begin, end = self._units(batch)
        there = np.flatnonzero(end > begin)
        factors, summands = kernels.minhash.coefficients(self.seed, bands * rows)
        signed = kernels.minhash.signatures(
            hashes, begin[there], end[there], ngram=self.ngram, factors=factors, summands=summands
        )
        keys = kernels.minhash.band_keys(signed, bands, rows)
        return Keys(
            position=np.repeat(there, bands),
            unit=np.tile(np.arange(bands, dtype=np.int64), len(there)),
            key=keys.reshape(-1, 2),
            rank=np.repeat(ranks(batch, self.keep_by, self.keep)[there], bands),
            rank_kind=rank_kind(batch, self.keep_by),
        )

    def _units(
        self, batch: Batch
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        units = batch.view(_reader(self.units, self.lowercase))
        return units.hash, units.begin, units.end

    def min_similarity(self) -> float | None:
        return self.verify

    def containment(self) -> bool:
        return self.verify_by == "containment"

    def max_loss(self) -> float | None:
        return self.stop_at_loss

    def sketch(self, batch: Batch) -> Sketch:
        hashes, begin, end = self._units(batch)
        return Sketch(*kernels.minhash.sketches(hashes, begin, end, ngram=self.ngram, limit=SKETCH))


@dataclass(frozen=True)
class _Units:
    """The hashed units of each row: row i has begin[i] .. end[i]."""

    hash: npt.NDArray[np.uint64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def take(self, indices: npt.NDArray[np.int64]) -> _Units:
        return _Units(self.hash, self.begin[indices], self.end[indices])


@cache
def _reader(units: str, lowercase: bool) -> Callable[[pa.Array], _Units]:
    """The function of a column that gives its units: one object, so that a batch keeps its view."""
    return partial(_read_units, units=units, lowercase=lowercase)


def _read_units(texts: pa.Array, *, units: str, lowercase: bool) -> _Units:
    if lowercase:
        texts = pc.utf8_lower(texts)
    if units == "characters":
        return _Units(*kernels.minhash.characters(texts))
    words = getattr(kernels.words, units)(texts)
    return _Units(words.hash, words.begin, words.end)
