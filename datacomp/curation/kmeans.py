"""Centroids of a pool's image features, for `near_targets`: Lloyd's k-means under L2.

As in the reference: distinct random rows as initial centroids, a fixed number of rounds, no
subsampling per cluster; an empty cluster is replaced by half of a large one. (Gadre et al. 2023;
Johnson et al. 2019, faiss, for empty clusters.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import kernels
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.image_text.clusters import features_of, finite_rows
from pipelines.images.pairs import check_tables, read_table
from pipelines.records import JSON, AssetRecord, AssetWork, now
from pipelines.scoring.asset_files import record_asset
from pipelines.storage.open import open_store

Floats = npt.NDArray[np.float32]
CHUNK_BYTES = 64 << 20  # of distances in memory at a time
SPLIT = 1 / 1024  # relative distance between the two halves of a split cluster, as in faiss


def train_centroids(
    pool: Pool,
    out: Path,
    *,
    features: str = "l14_img",
    clusters: int = 100_000,
    rounds: int = 20,
    sample: float = 1.0,
    seed: int = 0,
) -> AssetRecord:
    """Write centroids (clusters, dim) float32 as .npy, with the record of the asset next to it.

    `sample` in (0, 1] is the fraction of rows used, by a hash of seed and row; their features are
    in memory. Rows with NaN or infinity are left out and counted. ValueError when there are fewer
    rows than clusters.
    """
    started = now()
    check_tables(pool, [features])
    rows = sample_features(pool, features, sample=sample, seed=seed)
    good = finite_rows(rows)
    counts = {"rows": int(good.sum())}
    if counts["rows"] < len(rows):
        counts["rows_without_numbers"] = len(rows) - counts["rows"]
        rows = rows[good]
    if len(rows) < clusters:
        raise ValueError(
            f"{pool.uri} gives {len(rows)} rows of {features} at a sample of {sample}, fewer than "
            f"{clusters} clusters: take a larger sample, or fewer clusters"
        )
    centroids, spread = kmeans(rows, clusters, rounds=rounds, seed=seed)
    parameters: dict[str, JSON] = {
        "features": features,
        "clusters": clusters,
        "rounds": rounds,
        "sample": sample,
        "seed": seed,
    }
    return write_centroids(
        pool, out, centroids, parameters=parameters, counts=counts, spread=spread, started=started
    )


def write_centroids(
    pool: Pool,
    out: Path,
    centroids: Floats,
    *,
    parameters: dict[str, JSON],
    counts: dict[str, int],
    spread: list[float],
    started: str,
) -> AssetRecord:
    """Write the .npy file and the record next to it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        np.save(file, centroids, allow_pickle=False)
    work = AssetWork(
        name=out.name, licence="derived from the pool", inputs=(), parameters=parameters
    )
    return record_asset(
        out,
        work=work,
        parents={"pool": pool.record.id},
        counts=counts,
        started=started,
        figures={"mean_squared_distance": spread[-1]},
    )


def sample_features(pool: Pool, features: str, *, sample: float, seed: int) -> Floats:
    """The features (rows, dim) of the rows whose hash is below `sample`, in pool order."""
    store = open_store(pool.uri)
    parts: list[Floats] = []
    with progress_step("read features", total=len(pool.shards), unit="tables") as bar:
        for number, shard in enumerate(pool.shards):
            for batch in read_table(store, shard.name, [features]):
                values = features_of(batch.column(features), features)
                if sample < 1 and len(values):
                    chance = chance_of(batch.rows + (number << 32), seed)
                    values = values[chance < sample]
                if len(values):
                    parts.append(values)
            bar.advance()
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def chance_of(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row, by a hash of seed and row, (rows,)."""
    keys = rows.astype(np.uint64)
    mixed = kernels.grouping.mixed(keys, np.full(len(keys), seed, np.uint64))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def kmeans(rows: Floats, clusters: int, *, rounds: int, seed: int) -> tuple[Floats, list[float]]:
    """Centroids (clusters, dim), and the mean squared distance before each round."""
    rng = np.random.default_rng(seed)
    centroids = rows[np.sort(rng.choice(len(rows), clusters, replace=False))].copy()
    squares = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64)) / len(rows)
    spread = []
    with progress_step("k-means", total=rounds, unit="rounds") as bar:
        for _ in range(rounds):
            nearest, gain = assign(rows, centroids)
            spread.append(squares - 2 * gain)
            centroids = _means(rows, nearest, centroids, rng)
            bar.advance()
            bar.note(f"mean squared distance {spread[-1]:.5g}")
    return centroids, spread


def assign(rows: Floats, centroids: Floats) -> tuple[npt.NDArray[np.int64], float]:
    """The nearest centroid of each row, and the mean of x.c - |c|^2 / 2 over the rows."""
    half = 0.5 * np.einsum("ij,ij->i", centroids, centroids)
    size = max(1, CHUNK_BYTES // (4 * len(centroids)))
    nearest = np.empty(len(rows), np.int64)
    total = 0.0
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        products = part @ centroids.T
        products -= half
        nearest_of_part = products.argmax(axis=1)
        nearest[begin : begin + len(part)] = nearest_of_part
        total += float(products[np.arange(len(part)), nearest_of_part].sum(dtype=np.float64))
    return nearest, total / len(rows)


def _means(
    rows: Floats,
    nearest: npt.NDArray[np.int64],
    centroids: Floats,
    rng: np.random.Generator,
) -> Floats:
    """The means of the clusters; an empty one becomes half of a large one."""
    counts = np.bincount(nearest, minlength=len(centroids))
    order = np.argsort(nearest, kind="stable")
    filled = np.flatnonzero(counts)
    begins = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
    sums = np.add.reduceat(rows[order], begins, axis=0)
    made = centroids.copy()
    made[filled] = sums / counts[filled, None]
    return split_empty(made, counts, rng)


def split_empty(made: Floats, counts: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    """The centroids, with each empty one replaced by half of a cluster drawn by size."""
    sizes = counts.astype(np.float64)
    for empty in np.flatnonzero(counts == 0).tolist():
        share = np.maximum(sizes - 1, 0)
        if not share.sum():
            break  # no cluster has more than one row
        large = int(rng.choice(len(share), p=share / share.sum()))
        apart = np.where(np.arange(made.shape[1]) % 2 == 0, 1 + SPLIT, 1 - SPLIT)
        made[empty] = made[large] * apart
        made[large] = made[large] * (2 - apart)
        sizes[empty] = sizes[large] / 2
        sizes[large] -= sizes[empty]
    return made.astype(np.float32)
