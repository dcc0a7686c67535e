"""Rules on images whose corruption is known: kinds, shares, noise levels and weights.

The columns are those that a pool of corrupted images has: `corruption` (none, gaussian, mask, blur,
fourier, unknown), `level` (of noise: its standard deviation on images in [-1, 1]; of a mask: the
share that is hidden; of blur: pixels). `noise_level` and `weight` write what goes beside the list
of uids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.image_text.image_rules import numbers
from pipelines.operators import Case, Filter, Modifier

KIND, LEVEL, UID = "corruption", "level", "uid"
Kind = Literal["none", "gaussian", "mask", "blur", "fourier", "unknown"]
KINDS: tuple[Kind, ...] = ("none", "gaussian", "mask", "blur", "fourier")
"""What can be done to an image. `unknown` is what a pool says that withholds it."""


def of_kinds(batch: Batch, kinds: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows have one of these corruptions; a missing one is none of them."""
    among = pc.is_in(batch.column(KIND), value_set=pa.array(list(kinds), pa.large_string()))
    return np.asarray(among.to_numpy(zero_copy_only=False), bool)


class Corruption(Filter, name="corruption"):
    """Keep images by kind of corruption and strength. (Daras et al. 2024, arXiv 2411.02780)

    A level at the limit is kept; clean images have none and pass it.
    """

    keep: tuple[Kind, ...] = Field(KINDS, min_length=1, description="kinds that stay")
    max_level: float | None = Field(None, ge=0, description="level of corrupted ones, at most")
    reasons: ClassVar[tuple[str, ...]] = ("other_corruption", "too_corrupted")

    def reads(self) -> tuple[str, ...]:
        return (KIND, LEVEL)

    def cases(self, batch: Batch) -> Sequence[Case]:
        result = [Case(~of_kinds(batch, self.keep), "other_corruption")]
        if self.max_level is not None:
            level = np.asarray(numbers(batch, LEVEL), np.float64)
            corrupted = ~of_kinds(batch, ("none",))
            too_much = corrupted & ~(level <= self.max_level)
            result.append(Case(too_much, "too_corrupted", level, self.max_level))
        return result


class CleanShare(Filter, name="clean_share"):
    """Keep a part of the clean images and a part of the corrupted ones, by hash of seed and uid."""

    clean: float = Field(1.0, ge=0, le=1, description="part of the clean images that stays")
    corrupted: float = Field(1.0, ge=0, le=1, description="part of the corrupted ones that stays")
    seed: int = Field(0, ge=0, description="another seed, another part")
    reasons: ClassVar[tuple[str, ...]] = ("clean_not_drawn", "corrupted_not_drawn")

    def reads(self) -> tuple[str, ...]:
        return (KIND, UID)

    def cases(self, batch: Batch) -> Sequence[Case]:
        high, low, _ = kernels.uids.parse(batch.column(UID))
        mixed = (high ^ np.uint64(self.seed)) * np.uint64(0x9E3779B97F4A7C15) ^ low
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = mixed ^ (mixed >> np.uint64(31))
        part = (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
        clean = of_kinds(batch, ("none",))
        return [
            Case(clean & (part >= self.clean), "clean_not_drawn", part, self.clean),
            Case(~clean & (part >= self.corrupted), "corrupted_not_drawn", part, self.corrupted),
        ]


class NoiseLevel(Modifier, name="noise_level"):
    """Set from which noise level on an image is trained on; other images keep the recipe's rule.

    Without this step a noisy image teaches above its own level, by a loss that knows the level. A
    value below its level says that it counts as clean from there on. A column with estimates gives
    each image its own. (Daras et al. 2025, arXiv 2506.10038)
    """

    kinds: tuple[Kind, ...] = Field(
        ("gaussian", "mask", "blur", "fourier"), min_length=1, description="images it is set for"
    )
    sigma_min: float | None = Field(None, ge=0, description="one value for all of them")
    of_level: float | None = Field(None, ge=0, description="or this many times their level")
    column: str | None = Field(None, description="or a column that holds it")
    reasons: ClassVar[tuple[str, ...]] = ()

    def model_post_init(self, context: object) -> None:
        given = [v for v in (self.sigma_min, self.of_level, self.column) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of sigma_min, of_level and column")

    def reads(self) -> tuple[str, ...]:
        if self.column is not None:
            return (KIND, self.column)
        return (KIND,) if self.of_level is None else (KIND, LEVEL)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {"sigma_min": pa.float32()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        chosen = of_kinds(batch, self.kinds)
        if self.column is not None:
            values = np.asarray(numbers(batch, self.column), np.float32)
        elif self.of_level is not None:
            values = np.asarray(numbers(batch, LEVEL) * self.of_level, np.float32)
        else:
            values = np.full(batch.num_rows, self.sigma_min, np.float32)
        return {"sigma_min": pa.array(values, mask=~chosen | np.isnan(values))}


class Weight(Modifier, name="weight"):
    """Set how often an image is drawn in training, relative to others; 1 where nothing is said."""

    clean: float = Field(1.0, ge=0, description="of clean images")
    corrupted: float = Field(1.0, ge=0, description="of corrupted images")
    column: str | None = Field(None, description="a column to multiply it by")
    reasons: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        return (KIND,) if self.column is None else (KIND, self.column)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {"weight": pa.float32()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        clean = of_kinds(batch, ("none",))
        values = np.where(clean, self.clean, self.corrupted).astype(np.float32)
        if self.column is not None:
            values = values * np.asarray(numbers(batch, self.column), np.float32)
        if (values < 0).any():
            raise ValueError(f"the column {self.column!r} holds a weight below 0")
        return {"weight": pa.array(values)}
