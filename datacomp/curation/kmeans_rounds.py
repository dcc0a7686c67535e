"""k-means over a pool of any size: each round is one pass over the tables, in parallel tasks.

A round distributes the tables over `parts` tasks. A task reads the features of its tables as stored
(float16), assigns each row to its nearest centroid (on a GPU if torch has one), and writes the sums
and counts of the clusters. These are added in the order of the parts, so the centroids do not
depend on where tasks ran. With `batch` below 1 each round samples that fraction of the rows anew,
and a centroid is the mean of all rows it has seen so far (mini-batch k-means, Sculley 2010). All
files are in a working folder: a stopped run continues with the missing parts. The sums of a part
take clusters x dim x 4 bytes: 307 MB for 100,000 clusters of 768.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp.curation.kmeans import (
    Floats,
    assign,
    chance_of,
    split_empty,
    write_centroids,
)
from pipelines.errors import PipelineError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.image_text.clusters import features_of, finite_rows, has_gpu, on_device
from pipelines.images.pairs import check_tables, pair_columns, read_table
from pipelines.job import loaded
from pipelines.operators import Filter
from pipelines.pipeline import Pipeline
from pipelines.records import JSON, AssetRecord, Frozen, Module, digest, now
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.open import open_store


class Options(Frozen):
    """The parameters of a clustering; `sample` and `batch` are fractions of the rows."""

    features: str = "l14_img"
    clusters: int
    rounds: int
    sample: float = 1.0
    batch: float = 1.0
    seed: int = 0
    parts: int = 8


class RoundTask(Frozen):
    """One part of one round: sum the rows of some tables by their nearest centroid."""

    uri: str
    tables: tuple[tuple[int, str], ...]  # number in the pool, and name
    work: str
    out: str
    centroids: str | None  # None: choose the initial rows
    options: Options
    number: int
    qualify: tuple[tuple[str, dict[str, JSON]], ...] = ()
    assets: tuple[str, ...] = ()
    modules: tuple[Module, ...] = ()  # a participant's code among the rules


def train_by_rounds(
    pool: Pool,
    out: Path,
    *,
    work: str,
    options: Options,
    qualify: Pipeline | None,
    map_tasks: MapTasks,
) -> AssetRecord:
    """Like `kmeans.train_centroids`, by passes over the pool with a working folder."""
    started = now()
    centroids, spread, counts = train_rounds(
        pool, work, options, qualify=qualify, map_tasks=map_tasks
    )
    parameters: dict[str, JSON] = options.model_dump(mode="json")
    if qualify is not None:
        parameters["qualify"] = [list(rule) for rule in _rules(qualify)]
        if _files(qualify):
            parameters["files"] = _files(qualify)
    return write_centroids(
        pool, out, centroids, parameters=parameters, counts=counts, spread=spread, started=started
    )


def train_rounds(
    pool: Pool, work: str, options: Options, *, qualify: Pipeline | None, map_tasks: MapTasks
) -> tuple[Floats, list[float], dict[str, int]]:
    """Centroids, the mean squared distance before each round, and counts.

    `qualify` is a pipeline of filters that rows pass first, such as a recipe's rules for captions.
    ValueError when there are fewer rows than clusters; PipelineError for a step that is not a
    filter.
    """
    check_tables(pool, [options.features])
    store = open_store(work)
    rules = _rules(qualify)
    folders = tuple(str(folder) for folder in qualify.assets.folders) if qualify else ()
    name = digest(
        [
            *(options.model_dump(mode="json"), pool.record.id, [list(rule) for rule in rules]),
            *([_files(qualify)] if qualify is not None and _files(qualify) else []),
        ]
    )[:16]
    parts = max(1, min(options.parts, len(pool.shards)))

    def tasks(number: int, centroids: str | None) -> list[RoundTask]:
        return [
            RoundTask(
                uri=pool.uri,
                tables=tuple(
                    (at, shard.name) for at, shard in enumerate(pool.shards) if at % parts == part
                ),
                work=store.uri,
                out=f"{name}/{number:03d}-{part:03d}.npz",
                centroids=centroids,
                options=options,
                number=number,
                qualify=rules,
                assets=folders,
                modules=tuple(qualify.modules.values()) if qualify is not None else (),
            )
            for part in range(parts)
        ]

    spread: list[float] = []
    counts: dict[str, int] = {}
    with progress_step("k-means", total=options.rounds, unit="rounds") as bar:
        centroids, counts = _begin(store, map_tasks(run_round, tasks(0, None)), options)
        seen = np.zeros(options.clusters)
        for number in range(1, options.rounds + 1):
            current = f"{name}/centroids-{number:03d}.npy"
            _save(store, current, centroids=centroids)
            sums, totals, distance, num_rows = _added(
                store, map_tasks(run_round, tasks(number, current)), centroids.shape
            )
            spread.append(distance / max(num_rows, 1))
            centroids, seen = _moved(centroids, sums, totals, seen, options, number)
            bar.advance()
            bar.note(f"mean squared distance {spread[-1]:.5g}")
    return centroids, spread, counts


def _rules(qualify: Pipeline | None) -> tuple[tuple[str, dict[str, JSON]], ...]:
    if qualify is None:
        return ()
    for each in qualify.steps:
        if not isinstance(each.operator, Filter):
            raise PipelineError(
                f"{qualify.name}: {each.label} is not a filter: only filters can choose "
                "the rows to cluster"
            )
    return tuple((s.name, s.operator.model_dump(mode="json")) for s in qualify.steps)


def _files(qualify: Pipeline) -> list[list[JSON]]:
    """Names and hashes of the participants' code and the assets that the rules use."""
    own: list[list[JSON]] = [[module.name, module.sha256] for module in qualify.modules.values()]
    names = sorted({name for step in qualify.steps for name in step.operator.assets()})
    return own + [[name, qualify.assets.ref(name).sha256] for name in names]


def run_round(task: RoundTask) -> str:
    """Write the file of one part unless it exists; returns its name."""
    store = open_store(task.work)
    if not store.exists(task.out):
        arrays = _chosen(task) if task.centroids is None else _summed(task, store)
        _save(store, task.out, **arrays)
    return task.out


def _rows(task: RoundTask) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int]]:
    """Per batch: finite features (rows, dim), their row ids, and the number of other rows."""
    from pipelines.assets.catalogue import Assets

    assets = Assets(folders=tuple(Path(folder) for folder in task.assets))
    modules = {module.name: module for module in task.modules}
    rules = [{name: parameters} for name, parameters in task.qualify]
    steps = Pipeline.from_steps(rules, assets=assets, modules=modules).steps
    columns = [task.options.features]
    columns += [
        name for each in steps for name in pair_columns(each.operator) if name not in columns
    ]
    source = open_store(task.uri)
    share = task.options.sample
    for number, name in task.tables:
        for batch in read_table(source, name, columns):
            for each in steps:
                operator = loaded(each, assets)
                assert isinstance(operator, Filter)
                reasons: Any = operator.reject(batch)
                reasons = getattr(reasons, "value", reasons)
                batch = batch.keep(np.asarray(reasons.is_null()))
            rows = batch.rows + (number << 32)
            keep = np.ones(len(rows), bool)
            if share < 1:
                keep &= chance_of(rows, task.options.seed) < share
            if task.number and task.options.batch < 1:
                keep &= chance_of(rows, task.options.seed + task.number) < task.options.batch
            features = features_of(batch.column(task.options.features), task.options.features)[keep]
            good = finite_rows(features)
            yield features[good], rows[keep][good], int((~good).sum())


def _chosen(task: RoundTask) -> dict[str, npt.NDArray[Any]]:
    """The rows with the smallest hashes, one per cluster, and their features."""
    clusters = task.options.clusters
    best: tuple[npt.NDArray[Any], ...] | None = None
    num_rows = num_bad = 0
    for features, rows, bad in _rows(task):
        num_rows, num_bad = num_rows + len(rows), num_bad + bad
        mine: tuple[npt.NDArray[Any], ...]
        mine = (chance_of(rows, ~task.options.seed & 0x7FFFFFFF), rows, features.astype(np.float16))
        if best is not None:
            mine = tuple(np.concatenate(pair) for pair in zip(best, mine, strict=True))
        order = np.lexsort((mine[1], mine[0]))[:clusters]
        best = tuple(values[order] for values in mine)
    counts = np.array([num_rows, num_bad])
    if best is None:
        return {"counts": counts}
    return {"hash": best[0], "row": best[1], "features": best[2], "counts": counts}


def _summed(task: RoundTask, store: Store) -> dict[str, npt.NDArray[Any]]:
    assert task.centroids is not None
    centroids = np.load(io.BytesIO(store.read_bytes(task.centroids)), allow_pickle=False)
    assign_on_gpu = on_device("cuda", _with_lengths(centroids)) if has_gpu() else None
    sums = np.zeros(centroids.shape, np.float32)
    totals = np.zeros(len(centroids), np.int64)
    distance, num_rows = 0.0, 0
    for features, rows, _ in _rows(task):
        if not len(rows):
            continue
        if assign_on_gpu is None:
            cluster, _ = assign(features, centroids)
        else:
            ones = np.ones((len(features), 1), np.float32)
            cluster = assign_on_gpu(np.concatenate([features, ones], axis=1))
        order = np.argsort(cluster, kind="stable")
        numbers, begins = np.unique(cluster[order], return_index=True)
        sums[numbers] += np.add.reduceat(features[order], begins, axis=0)
        totals += np.bincount(cluster, minlength=len(centroids))
        apart = (features - centroids[cluster]).astype(np.float64)
        distance += float(np.einsum("ij,ij->", apart, apart))
        num_rows += len(rows)
    return {"sums": sums, "totals": totals, "figures": np.array([distance, num_rows])}


def _with_lengths(centroids: Floats) -> Floats:
    """Centroids with -|c|^2 / 2 appended: the greatest product with (x, 1) is the nearest one."""
    half = 0.5 * np.einsum("ij,ij->i", centroids, centroids)
    return np.concatenate([centroids, -half[:, None]], axis=1)


def _begin(store: Store, names: Sequence[str], options: Options) -> tuple[Floats, dict[str, int]]:
    parts = [_load(store, name) for name in names]
    counts = np.sum([part["counts"] for part in parts], axis=0)
    chosen = [part for part in parts if "row" in part]
    if int(counts[0]) < options.clusters:
        raise ValueError(
            f"there are {int(counts[0])} rows of {options.features} at a sample of "
            f"{options.sample}, fewer than {options.clusters} clusters: take a larger sample, or "
            "fewer clusters"
        )
    hashes, rows = (np.concatenate([part[key] for part in chosen]) for key in ("hash", "row"))
    order = np.lexsort((rows, hashes))[: options.clusters]
    order = order[np.argsort(rows[order])]
    features = np.concatenate([part["features"] for part in chosen])[order]
    out = {"rows": int(counts[0])}
    if counts[1]:
        out["rows_without_numbers"] = int(counts[1])
    return features.astype(np.float32), out


def _added(
    store: Store, names: Sequence[str], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], float, int]:
    """The sums of all parts, one in memory at a time, in their order."""
    sums = np.zeros(shape)
    totals = np.zeros(shape[0], np.int64)
    figures = np.zeros(2)
    for name in names:
        part = _load(store, name)
        sums += part["sums"]
        totals += part["totals"]
        figures += part["figures"]
    return sums, totals, float(figures[0]), int(figures[1])


def _moved(
    centroids: Floats,
    sums: npt.NDArray[np.float64],
    totals: npt.NDArray[np.int64],
    seen: npt.NDArray[np.float64],
    options: Options,
    number: int,
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """The means of the clusters; in mini-batches, of all rows that each has seen so far."""
    before = seen if options.batch < 1 else np.zeros_like(seen)
    after = before + totals
    filled = after > 0
    moved = centroids.astype(np.float64)
    moved[filled] = (moved[filled] * before[filled, None] + sums[filled]) / after[filled, None]
    rng = np.random.default_rng([options.seed, number])
    return split_empty(moved.astype(np.float32), after, rng), after


def _load(store: Store, name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _save(store: Store, name: str, **arrays: npt.NDArray[Any]) -> None:
    """As .npz, or as .npy where the name says so; complete or not there."""
    buffer = io.BytesIO()
    if name.endswith(".npy"):
        [array] = arrays.values()
        np.save(buffer, array, allow_pickle=False)
    else:
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(store, name, buffer.getvalue())
