"""Rules on the size of an image and on the CLIP scores in a pool's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Case, Filter

WIDTH, HEIGHT = "original_width", "original_height"
SCORES = {"b32": "clip_b32_similarity_score", "l14": "clip_l14_similarity_score"}


def numbers(batch: Batch, column: str) -> npt.NDArray[Any]:
    """A column of numbers; null is NaN. ValueError names another type."""
    values = batch.column(column)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise ValueError(f"the column {column!r} holds {values.type}, expected numbers")
    return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


class ImageSize(Filter, name="picture_size"):
    """Keep images that are large enough and not too long. (Gadre et al. 2023, basic filter)

    A missing side, or one of 0 pixels, is too small.
    """

    min_side: int = Field(200, ge=0, description="pixels of the shorter side, at least")
    max_aspect: float = Field(3.0, ge=1, description="longer side over shorter, at most")
    reasons: ClassVar[tuple[str, ...]] = ("too_small", "too_long")

    def reads(self) -> tuple[str, ...]:
        return (WIDTH, HEIGHT)

    def cases(self, batch: Batch) -> Sequence[Case]:
        width = numbers(batch, WIDTH).astype(np.float64)
        height = numbers(batch, HEIGHT).astype(np.float64)
        shorter = np.nan_to_num(np.minimum(width, height), nan=0.0)
        longer = np.nan_to_num(np.maximum(width, height), nan=0.0)
        aspect = np.divide(longer, shorter, out=np.full(len(longer), np.inf), where=shorter > 0)
        return [
            Case((shorter < self.min_side) | (shorter <= 0), "too_small", shorter, self.min_side),
            Case(aspect > self.max_aspect, "too_long", aspect, self.max_aspect),
        ]


class ClipScore(Filter, name="clip_score"):
    """Keep pairs whose image and caption are similar enough to CLIP. (Gadre et al. 2023)

    Scores come from the pool's tables. The threshold is compared in the column's own precision, so
    that a float32 score of 0.28 passes 0.28. Pairs without a score are rejected. To keep a fraction
    of the pool use `select`.
    """

    arch: Literal["b32", "l14"] = Field("l14", description="OpenAI's ViT-B/32 or ViT-L/14")
    min_score: float = Field(description="lowest score kept")
    column: str | None = Field(None, description="a column of scores to use instead of the pool's")
    reasons: ClassVar[tuple[str, ...]] = ("no_score", "score_too_low")

    def reads(self) -> tuple[str, ...]:
        return (self.column or SCORES[self.arch],)

    def cases(self, batch: Batch) -> Sequence[Case]:
        scores = numbers(batch, self.reads()[0])
        limit = scores.dtype.type(self.min_score) if scores.dtype.kind == "f" else self.min_score
        missing = np.isnan(scores) if scores.dtype.kind == "f" else np.zeros(len(scores), bool)
        return [
            Case(missing, "no_score"),
            Case(scores < limit, "score_too_low", scores, self.min_score),
        ]
