"""The packed images of a training run, and the batch of every step.

A batch is a function of (seed, step, process), so resuming needs no saved state. The image of each
position in a batch is drawn first, by weight, then a noise level above which it may teach. So every
image teaches as often as its weight says, and low levels, where only clean images may teach, are
trained as often as those are drawn (Daras et al. 2024). Drawing the level first repeats a clean
tenth at low levels until it is copied (docs/decisions/images-before-levels.md).
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from ambient.diffusion.edm import draw_sigma
from ambient.diffusion.loss import Rows
from ambient.packing.pack import ROWS
from ambient.pool.corruption import mask_of
from ambient.recipe import Recipe
from pipelines.errors import TrainingError
from pipelines.records import PackedRecord, sha256_file
from pipelines.storage.base import Store

IN_MEMORY_BYTES = 1 << 28  # up to 256 MiB, arrays are copied into memory instead of mapped


class Images:
    """The arrays of a packed dataset, memory-mapped where local, and the corruption of each row.

    TrainingError when a local file is not the one in the record.
    """

    def __init__(self, store: Store, record: PackedRecord) -> None:
        names = sorted(f.name for f in record.outputs if f.name.endswith(".npy"))
        self._check(store, record)
        self._shards = [self._open(store, name) for name in names]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        with store.open(ROWS) as file:
            table = pq.read_table(file)
        self.uids: list[str] = table["uid"].to_pylist()
        self.kinds = np.array(table["corruption"].to_pylist(), object)
        self.level = table["level"].to_numpy()
        self.strength = table["strength"].to_numpy()
        self.seeds = table["seed"].to_numpy()
        self.sigma_min = table["sigma_min"].to_numpy()
        self._lower = np.maximum(self.level, self.sigma_min).astype(np.float32)
        weight = table["weight"].to_numpy().astype(np.float64)
        self._cumulative = np.cumsum(weight)
        self._last = int(np.flatnonzero(weight)[-1])
        num_bytes = sum(shard.nbytes for shard in self._shards)
        if num_bytes <= IN_MEMORY_BYTES:
            self._shards = [np.concatenate(self._shards)]
            self._ends = np.array([len(self._shards[0])])
        self.masked = bool((self.kinds == "mask").any())

    def __len__(self) -> int:
        return len(self.uids)

    @staticmethod
    def _check(store: Store, record: PackedRecord) -> None:
        for file in record.outputs:
            path = store.local_path(file.name)
            if path is not None and (not path.is_file() or sha256_file(path) != file.sha256):
                raise TrainingError(
                    f"{store.uri}/{file.name} does not match its checksum in the record; pack again"
                )

    @staticmethod
    def _open(store: Store, name: str) -> npt.NDArray[np.float16]:
        path = store.local_path(name)
        if path is not None:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        data: Any = np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False)
        return data  # type: ignore[no-any-return]

    def rows(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The images of these rows, (places, channels, height, width) float32."""
        if len(self._shards) == 1:
            return self._shards[0][places].astype(np.float32)
        shard = np.searchsorted(self._ends, places, side="right")
        begins = self._ends - np.array([len(shard) for shard in self._shards])
        return np.stack(
            [
                self._shards[s][position - begins[s]]
                for s, position in zip(shard.tolist(), places.tolist(), strict=True)
            ]
        ).astype(np.float32)

    def masks(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """1 where a pixel was seen, else 0, (places, 1, height, width) float32."""
        shape = self._shards[0].shape[2:]
        result = np.ones((len(places), 1, *shape), np.float32)
        for n, position in enumerate(places.tolist()):
            if self.kinds[position] == "mask":
                seed, level = int(self.seeds[position]), float(self.strength[position])
                result[n, 0] = mask_of(self.uids[position], seed, level, (shape[0], shape[1]))
        return result

    def clean(self) -> npt.NDArray[np.int64]:
        """The rows of uncorrupted images; all rows if there are none."""
        places = np.flatnonzero(self.kinds == "none")
        return places if len(places) else np.arange(len(self))

    def batch(
        self, recipe: Recipe, *, seed: int, step: int, rank: int, world: int, device: torch.device
    ) -> tuple[Rows, torch.Tensor, torch.Generator]:
        """This process's rows of a step, their noise levels, and the generator of their noise."""
        state = hashlib.sha256(f"batch|{seed}|{step}|{rank}".encode()).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(state[:16], "big")))
        number = recipe.global_batch_size // world
        shares = rng.random(number) * self._cumulative[-1]
        places = np.searchsorted(self._cumulative, shares, side="right").clip(max=self._last)
        sigma = draw_sigma(
            torch.from_numpy(self._lower[places]),
            generator=torch.Generator().manual_seed(int.from_bytes(state[23:30], "big")),
            log_mean=recipe.log_mean,
            log_std=recipe.log_std,
        )
        images = torch.from_numpy(self.rows(places))
        mask = torch.from_numpy(self.masks(places)) if self.masked else None
        if recipe.flip:  # image and mask together: a pixel that was hidden stays hidden
            flipped = torch.from_numpy(rng.random(number) < 0.5)[:, None, None, None]
            images = torch.where(flipped, images.flip(-1), images)
            mask = None if mask is None else torch.where(flipped, mask.flip(-1), mask)
        generator = torch.Generator(device).manual_seed(int.from_bytes(state[16:23], "big"))
        rows = Rows(
            images=images.to(device, non_blocking=True),
            level=torch.from_numpy(self.level[places]).to(device),
            sigma_min=torch.from_numpy(self.sigma_min[places]).to(device),
            mask=None if mask is None else mask.to(device, non_blocking=True),
        )
        return rows, sigma.to(device), generator
