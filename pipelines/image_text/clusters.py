"""Pictures near those of another set, by clusters of their CLIP features."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Filter, because

CHUNK_BYTES = 64 << 20  # of inner products that are held at a time


class NearTargets(Filter, name="near_targets"):
    """Keep pictures whose cluster holds a picture of the target set. (Gadre et al. 2023, 3.4)

    A picture belongs to the centroid with the greatest inner product with its features, as they
    stand, in 32 bits (the first of equal ones). Targets are assigned alike; their clusters stay.
    """

    features: str = Field("l14_img", description="the column of features")
    centroids: str = Field(description="asset: centroids, an array (clusters, dim) in .npy")
    targets: str = Field(description="asset: features of the targets, an array (n, dim) in .npy")
    reasons: ClassVar[tuple[str, ...]] = ("far_from_targets",)
    _centroids: Any = PrivateAttr(None)
    _kept: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def assets(self) -> tuple[str, ...]:
        return (self.centroids, self.targets)

    def load(self, assets: AssetFolder) -> None:
        self._centroids = read_features(assets.path(self.centroids))
        targets = read_features(assets.path(self.targets))
        if targets.shape[1] != self._centroids.shape[1]:
            raise ValueError(
                f"{self.targets} has features of {targets.shape[1]} numbers, {self.centroids} of "
                f"{self._centroids.shape[1]}: they must come from one model"
            )
        self._kept = np.zeros(len(self._centroids), dtype=bool)
        self._kept[nearest(targets, self._centroids)] = True

    def reject(self, batch: Batch) -> pa.Array:
        features = features_of(batch.column(self.features), self.features)
        if len(features) and features.shape[1] != self._centroids.shape[1]:
            raise ValueError(
                f"{self.features!r} has {features.shape[1]} numbers a picture, the centroids have "
                f"{self._centroids.shape[1]}"
            )
        return because(~self._kept[nearest(features, self._centroids)], self.reasons[0])


def read_features(path: Path) -> npt.NDArray[np.float32]:
    """An array (n, dim) of numbers from .npy, in 32 bits. ValueError for anything else."""
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, expected (n, dim)")
    if not np.isfinite(array).all():
        raise ValueError(f"{path} holds NaN or infinity")
    return np.ascontiguousarray(array, dtype=np.float32)


def features_of(column: pa.Array, name: str) -> npt.NDArray[np.float32]:
    """A column of fixed-size lists as an array (rows, dim), in 32 bits."""
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"the column {name!r} holds {column.type}, expected features")
    size = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, size).astype(np.float32)  # type: ignore[no-any-return]


def nearest(
    features: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """For each row the centroid with the greatest inner product, shape (rows,)."""
    rows = max(1, CHUNK_BYTES // (4 * len(centroids)))
    found = np.empty(len(features), np.int64)
    products = np.empty((min(rows, len(features)), len(centroids)), np.float32)
    for begin in range(0, len(features), rows):
        part = features[begin : begin + rows]
        out = products[: len(part)]
        np.matmul(part, centroids.T, out=out)
        found[begin : begin + len(part)] = out.argmax(axis=1)
    return found
