"""Near-duplicates: MinHash over word or character n-grams, bands, linked groups."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.dedup.ranks import Keep, rank_kind, ranks
from pipelines.operators import Dedup, Keys
from pipelines.schema import TEXT

PRESETS = {"14x8": (14, 8), "93x15": (93, 15)}


class MinhashDedup(Dedup, name="minhash_dedup"):
    """Keep one of all documents that are linked by near-equal text, found by MinHash in bands.

    Two documents with Jaccard similarity J of their n-grams are linked with probability
    1 - (1 - J^rows)^bands; links join into groups, and one document of each group stays. A document
    shorter than an n-gram is one shingle; one without any word is never a duplicate.
    (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4)
    """

    version: ClassVar[int] = 2
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
        None,
        gt=0,
        le=1,
        description="check each link: it stays if the true Jaccard similarity is this or more",
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
        hashes, begin, end = self._units(batch.text)
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
        self, texts: pa.Array
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if self.lowercase:
            texts = pc.utf8_lower(texts)
        if self.units == "characters":
            signatures: tuple[
                npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]
            ] = kernels.minhash.characters(texts)
            return signatures
        words = getattr(kernels.words, self.units)(texts)
        return words.hash, words.begin, words.end

    def min_similarity(self) -> float | None:
        return self.verify

    def shingles(self, batch: Batch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        hashes, begin, end = self._units(batch.text)
        shingles: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]] = kernels.minhash.shingles(
            hashes, begin, end, ngram=self.ngram
        )
        return shingles
