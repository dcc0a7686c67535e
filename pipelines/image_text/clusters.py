"""Images near those of another set, by clusters of their CLIP features."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Filter, because, choose

CHUNK_BYTES = 64 << 20  # of inner products in memory at a time
DEVICE_BYTES = 4 << 30  # the same on a GPU
# Relative error of an inner product of bfloat16 values: 2^-8 from rounding both factors, and an
# allowance for summing in 32 bits.
ROUGH = 2.0**-8 + 2.0**-12


class NearTargets(Filter, name="near_targets"):
    """Keep images whose cluster has an image of the target set. (Gadre et al. 2023, 3.4)

    An image belongs to the centroid with the greatest inner product with its features (float32, not
    normalised; the first of equal ones). Targets are assigned in the same way, and their clusters
    are kept. Features with NaN or infinity belong to no cluster.
    """

    features: str = Field("l14_img", description="the column of features")
    centroids: str = Field(description="asset: centroids, an array (clusters, dim) in .npy")
    targets: str = Field(description="asset: features of the targets, an array (n, dim) in .npy")
    reasons: ClassVar[tuple[str, ...]] = ("far_from_targets", "features_are_no_numbers")
    _centroids: Any = PrivateAttr(None)
    _kept: Any = PrivateAttr(None)
    _nearest: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def assets(self) -> tuple[str, ...]:
        return (self.centroids, self.targets)

    def needs(self) -> Mapping[str, float]:
        """One GPU if the machine has any; on CPUs the same is computed far more slowly."""
        return {"num_gpus": 1}

    def load(self, assets: AssetFolder) -> None:
        self._centroids = read_features(assets.path(self.centroids))
        targets = read_features(assets.path(self.targets))
        if targets.shape[1] != self._centroids.shape[1]:
            raise ValueError(
                f"{self.targets} has features of {targets.shape[1]} numbers, {self.centroids} of "
                f"{self._centroids.shape[1]}: both must come from one model"
            )
        self._nearest = on_device("cuda", self._centroids) if has_gpu() else None
        self._kept = np.zeros(len(self._centroids), dtype=bool)
        self._kept[self._assign(targets)] = True

    def reject(self, batch: Batch) -> pa.Array:
        features = features_of(batch.column(self.features), self.features)
        if len(features) and features.shape[1] != self._centroids.shape[1]:
            raise ValueError(
                f"{self.features!r} has {features.shape[1]} numbers per image, the centroids have "
                f"{self._centroids.shape[1]}"
            )
        good = finite_rows(features)
        if good.all():
            return because(~self._kept[self._assign(features)], self.reasons[0])
        near: Any = np.zeros(len(features), dtype=np.bool_)
        near[good] = self._kept[self._assign(features[good])]
        return choose([(~good, self.reasons[1]), (~near, self.reasons[0])])

    def _assign(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        if self._nearest is not None and len(features):
            return self._nearest(features)  # type: ignore[no-any-return]
        return nearest(features, self._centroids)


def read_features(path: Path) -> npt.NDArray[np.float32]:
    """A float array (n, dim) from .npy, as float32. ValueError for anything else."""
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not an .npy file of numbers: {error}") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, expected (n, dim)")
    if not np.isfinite(array).all():
        raise ValueError(f"{path} holds NaN or infinity")
    return np.ascontiguousarray(array, dtype=np.float32)


def features_of(column: pa.Array, name: str) -> npt.NDArray[np.float32]:
    """A column of fixed-size lists as (rows, dim) float32. ValueError for another type."""
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"the column {name!r} holds {column.type}, expected features")
    size = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, size).astype(np.float32)  # type: ignore[no-any-return]


def finite_rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which rows have only finite numbers, (rows,): half precision overflows at 65,504."""
    return np.asarray(np.isfinite(features).all(axis=1))


def nearest(
    features: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """The index of the centroid with the greatest inner product, (rows,); the first of equals."""
    rows = max(1, CHUNK_BYTES // (4 * len(centroids)))
    centers = np.empty(len(features), np.int64)
    products = np.empty((min(rows, len(features)), len(centroids)), np.float32)
    for begin in range(0, len(features), rows):
        part = features[begin : begin + rows]
        out = products[: len(part)]
        np.matmul(part, centroids.T, out=out)
        centers[begin : begin + len(part)] = out.argmax(axis=1)
    return centers


# ---- on a GPU


def has_gpu() -> bool:
    """Whether torch is installed and sees a GPU. Without an NVIDIA device torch is not imported."""
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def on_device(
    device: str, centroids: npt.NDArray[np.float32]
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """`nearest` on a torch device: products in bfloat16, close candidates again in 64 bits.

    A product of bfloat16 values, summed in 32 bits, is off by at most `ROUGH` |x| |c|. Every
    centroid within twice that of a row's greatest product may be the nearest; these few are
    compared in 64 bits. So the result is that of exact arithmetic, the first of equal ones.
    """
    import torch

    exact = torch.from_numpy(centroids).to(device)
    rough = exact.to(torch.bfloat16).T.contiguous()
    longest = float(exact.double().norm(dim=1).max())
    size = max(1, DEVICE_BYTES // (4 * len(centroids)))

    def assign(part: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        rows = torch.from_numpy(np.ascontiguousarray(part)).to(device)
        products = _products(rows.to(torch.bfloat16), rough)
        margin = 2 * ROUGH * longest * rows.double().norm(dim=1)
        least = products.amax(dim=1) - margin.float() * (1 + 2**-20)
        row, column = (products >= least[:, None]).nonzero(as_tuple=True)
        score = torch.einsum("ij,ij->i", rows[row].double(), exact[column].double())
        best = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=device)
        best.scatter_reduce_(0, row, score, "amax")
        first = torch.full((len(rows),), len(exact), dtype=torch.int64, device=device)
        tied = score == best[row]
        first.scatter_reduce_(0, row[tied], column[tied], "amin")
        return first.cpu().numpy()  # type: ignore[no-any-return]

    def over(features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        return np.concatenate(
            [assign(features[at : at + size]) for at in range(0, len(features), size)]
        )

    return over


def _products(rows: Any, centroids: Any) -> Any:
    """Inner products of bfloat16 rows and columns, shape (rows, clusters), in 32 bits."""
    import torch

    if rows.is_cuda:
        return torch.mm(rows, centroids, out_dtype=torch.float32)
    return rows.float() @ centroids.float()  # inputs rounded in the same way, for tests on CPUs
