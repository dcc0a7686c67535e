"""Near-duplicate images: perceptual hashes that differ in few bits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.dedup.ranks import Keep, rank_kind, ranks
from pipelines.operators import Dedup, Keys, Sketch

BITS = 48  # of the hashes that `datacomp score --kind phash` makes


class ImageHashDedup(Dedup, name="image_hash_dedup"):
    """Keep one of images whose perceptual hashes differ in at most `max_distance` of 48 bits.

    The hash is cut into `max_distance` + 1 bands; of two that are near, one band at least is equal,
    so all are found that are compared with the first of a band or the three before. A pair goes
    only if one that stays is as near. One without a hash (null) is never a duplicate. (The hash:
    Zauner 2010; the bands: Manku, Jain, Das Sarma 2007)
    """

    linked: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("near_duplicate_image",)

    column: str = Field("phash", description="column of hashes, as `scores` adds it")
    max_distance: int = Field(3, ge=0, le=11, description="bits in which two hashes may differ")
    keep_by: str | None = Field(
        None, description="a column: who stays among near images (ties and none: the first row)"
    )
    keep: Keep = Field("max", description="which value of `keep_by` stays")

    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.keep_by is None else (self.column, self.keep_by)

    def keys(self, batch: Batch) -> Keys:
        hashes, there = self._hashes(batch)
        bands = self.max_distance + 1
        edges = np.linspace(0, BITS, bands + 1).astype(np.int64)
        rows = np.flatnonzero(there)
        key = np.empty((len(rows), bands, 2), np.uint64)
        for band in range(bands):
            width = np.uint64(edges[band + 1] - edges[band])
            mask = (np.uint64(1) << width) - np.uint64(1)
            value = (hashes[rows] >> np.uint64(edges[band])) & mask
            key[:, band, 0] = (value * np.uint64(bands) + np.uint64(band)) * MIXED
            key[:, band, 1] = value * np.uint64(bands) + np.uint64(band)
        return Keys(
            position=np.repeat(rows, bands),
            unit=np.tile(np.arange(bands, dtype=np.int64), len(rows)),
            key=key.reshape(-1, 2),
            rank=np.repeat(ranks(batch, self.keep_by, self.keep)[rows], bands),
            rank_kind=rank_kind(batch, self.keep_by),
        )

    def min_similarity(self) -> float | None:
        """Of the sets of bits that `sketch` gives: d bits apart share 48 - d of 48 + d."""
        return (BITS - self.max_distance) / (BITS + self.max_distance) - 1e-9

    def sketch(self, batch: Batch) -> Sketch:
        """A hash as the set of its 48 bits, each with its place."""
        hashes, there = self._hashes(batch)
        rows = np.flatnonzero(there)
        places = np.arange(BITS, dtype=np.uint64)
        bits = (hashes[rows, None] >> places[None]) & np.uint64(1)
        elements = (places[None] * np.uint64(2) + bits).astype(np.uint32)
        borders = np.concatenate([[0], np.cumsum(np.where(there, BITS, 0))]).astype(np.int64)
        return Sketch(elements.reshape(-1), borders, np.zeros(batch.num_rows, np.uint8))

    def _hashes(self, batch: Batch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        column = batch.column(self.column).cast(pa.float64())
        values = column.to_numpy(zero_copy_only=False)
        there = ~np.isnan(values)
        known = values[there]
        if ((known < 0) | (known >= 1 << BITS) | (known != np.floor(known))).any():
            raise ValueError(
                f"{self.column!r} holds no hashes of {BITS} bits; make them by: score --kind phash"
            )
        hashes = np.zeros(len(values), np.uint64)
        hashes[there] = known.astype(np.uint64)
        return hashes, there


MIXED = np.uint64(0x9E3779B97F4A7C15)  # spreads equal bands over the parts
