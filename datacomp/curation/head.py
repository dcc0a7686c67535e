"""Train a head on a pool's features to separate listed pairs from others, at any scale.

Pairs are sampled by a hash of their uid, table by table, on any number of workers; one process then
trains on the sample in memory. Without hidden units the head is a logistic regression; with them, a
network with one hidden layer.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import Field

from pipelines import kernels
from pipelines.errors import DataError
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.formats.uid_lists import Subset, check_sorted, load_subset, look_up, sha256_of
from pipelines.image_text.clusters import features_of
from pipelines.image_text.feature_head import Floats, Head, head_bytes, joined
from pipelines.images.pairs import UID, read_table
from pipelines.records import AssetRecord, AssetRef, AssetWork, Frozen, now
from pipelines.scoring.asset_files import existing_asset, record_asset, remove_samples
from pipelines.scoring.evaluation import evaluate
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store

MIN_PAIRS = 20  # of each label
MARGIN = 1.1  # drawn pairs per used pair: the number that a hash threshold selects varies
L2 = 1e-6  # weight penalty: keeps the solution of a separable problem finite
BATCH, RATE = 256, 1e-3  # batch size and learning rate of Adam, for networks


class HeadOptions(Frozen):
    """How a head is trained."""

    features: tuple[str, ...] = ("l14_img", "l14_txt")
    hidden: int = Field(0, ge=0, description="hidden units; 0: a logistic regression")
    pairs: int = Field(200_000, ge=1, description="maximum pairs per label, by the hash of uids")
    held_out: float = Field(0.1, gt=0, lt=1, description="fraction of pairs held out for testing")
    epochs: int = Field(5, ge=1, description="passes over the pairs, with hidden units")
    seed: int = Field(0, ge=0)


class SampleTask(Frozen):
    """The sampled pairs of one table: features, label, hash."""

    uri: str
    key: str
    pool: str
    table: str
    features: tuple[str, ...]
    positives: str
    negatives: str | None
    shares: tuple[float, float]  # of the negatives, of the positives
    seed: int
    step: int = 0


def train_head(
    pool: Pool,
    positives: str,
    *,
    negatives: str | None = None,
    out: Path,
    options: HeadOptions,
    map_tasks: MapTasks,
    work: str | None = None,
) -> AssetRecord:
    """Write the head as .npz with its record, which has the scores of held-out pairs.

    `positives` and `negatives` are lists of uids; without `negatives` all other pairs of the pool
    are negatives. DataError when the pool has too few pairs of a label.
    """
    started = now()
    listed = _list(positives)
    others = None if negatives is None else _list(negatives)
    inputs = [AssetRef(name="positives", sha256=sha256_of(listed))]
    if others is not None:
        inputs.append(AssetRef(name="negatives", sha256=sha256_of(others)))
    asset_work = AssetWork(
        name=out.name,
        licence="derived from the pool",
        inputs=tuple(inputs),
        parameters=options.model_dump(mode="json"),
    )
    parents = {"pool": pool.record.id}
    key = AssetRecord.key_of(work=asset_work, parents=parents)
    existing = existing_asset(out, key=key)
    if existing is not None:
        return existing
    folder = work or f"{out}.work"
    num_others = len(others) if others is not None else max(_rows(pool) - len(listed), 1)
    shares = tuple(min(1.0, MARGIN * options.pairs / max(n, 1)) for n in (num_others, len(listed)))
    tasks = [
        SampleTask(
            uri=folder,
            key=f"head-{number:06d}-{key[:16]}",
            pool=pool.uri,
            table=shard.name,
            features=options.features,
            positives=positives,
            negatives=negatives,
            shares=(shares[0], shares[1]),
            seed=options.seed,
        )
        for number, shard in enumerate(pool.shards)
    ]
    with progress_step("read features", total=len(tasks), unit="tables") as bar:
        done = map_tasks(run_sample, tasks, on_result=lambda *_: bar.advance())
    rows, label, hashes = _gathered(open_store(folder), done, options)
    tested = (hashes >> np.uint64(20)) % np.uint64(1 << 20) < options.held_out * (1 << 20)
    head = fit(rows[~tested], label[~tested], options)
    evaluation = None
    if 0 < label[tested].sum() < tested.sum():
        names = {"positives": label[tested], "negatives": ~label[tested]}
        evaluation = evaluate(head.scores(rows[tested]), label[tested], None, names)
    write_bytes(LocalStore(out.parent), out.name, head_bytes(head))
    record = record_asset(
        out,
        work=asset_work,
        parents=parents,
        counts={
            "positives": int(label[~tested].sum()),
            "negatives": int((~label[~tested]).sum()),
        },
        evaluation=evaluation,
        started=started,
        locations={"pool": pool.uri, "positives": positives},
    )
    remove_samples(folder)
    return record


def _list(uri: str) -> Subset:
    """A list of uids, sorted. SubsetError when it is another file or not sorted."""
    records = load_subset(uri)
    check_sorted(records, uri)
    return records


def _rows(pool: Pool) -> int:
    """Pairs in all tables, by their footers."""
    store = open_store(pool.uri)
    total = 0
    for shard in pool.shards:
        with store.open(shard.name) as file:
            total += pq.read_metadata(file).num_rows
    return total


@once
def run_sample(task: SampleTask, store: Store) -> Done:
    """Write features (float16, concatenated), label and hash of the drawn pairs of one table."""
    positives = load_subset(task.positives)
    negatives = None if task.negatives is None else load_subset(task.negatives)
    rows: list[Floats] = []
    labels, hashes = [], []
    columns = [UID, *task.features]
    for batch in read_table(open_store(task.pool), task.table, columns):
        if not batch.num_rows:
            continue
        high, low, bad = kernels.uids.parse(batch.column(UID))
        positive = look_up(positives, high, low)[1] > 0
        known = positive | (True if negatives is None else look_up(negatives, high, low)[1] > 0)
        hash_ = kernels.grouping.mixed(high ^ low, np.full(len(high), task.seed, np.uint64))
        share = np.where(positive, task.shares[1], task.shares[0])
        drawn = known & ~bad & (hash_.astype(np.float64) / 2.0**64 < share)
        values = joined(
            [features_of(batch.column(name).filter(drawn), name) for name in task.features]
        )
        good = np.isfinite(values).all(axis=1)
        rows.append(values[good])
        labels.append(positive[drawn][good])
        hashes.append(hash_[drawn][good])
    file = io.BytesIO()
    arrays: dict[str, Any] = {}
    if rows:
        arrays = {
            "rows": np.concatenate(rows).astype(np.float16),
            "label": np.concatenate(labels),
            "hash": np.concatenate(hashes),
        }
    np.savez(file, **arrays)
    written = write_bytes(store, attempt_name(f"work/{task.key}", ".npz"), file.getvalue())
    return Done(key=task.key, files=(written,))


def _gathered(
    store: Store, done: Sequence[Done], options: HeadOptions
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """The first pairs of each label by hash, from all tables. DataError when a label has few."""
    parts = []
    for result in done:
        with np.load(io.BytesIO(store.read_bytes(result.files[0].name))) as arrays:
            if "rows" in arrays.files:
                parts.append((arrays["rows"], arrays["label"], arrays["hash"]))
    if not parts:
        raise DataError("the pool has no pair with finite features")
    rows, label, hashes = (np.concatenate([part[n] for part in parts]) for n in range(3))
    order = np.argsort(hashes, kind="stable")
    chosen = np.concatenate([order[label[order] == kind][: options.pairs] for kind in (1, 0)])
    counts = int(label[chosen].sum()), int((~label[chosen]).sum())
    for name, count in zip(("positive", "negative"), counts, strict=True):
        if count < MIN_PAIRS:
            raise DataError(
                f"the pool has {count} {name} pairs with features, at least {MIN_PAIRS} are "
                "needed: check that the list is of this pool"
            )
    chosen = chosen[np.argsort(hashes[chosen], kind="stable")]
    return rows[chosen].astype(np.float32), label[chosen], hashes[chosen]


def fit(rows: Floats, label: npt.NDArray[np.bool_], options: HeadOptions) -> Head:
    """Train a head on the CPU, both labels with equal weight; deterministic.

    `rows` (pairs, dim), `label` (pairs,). Logistic regression by L-BFGS over all rows; a network by
    Adam over small batches.
    """
    import torch

    torch.manual_seed(options.seed)
    inputs = torch.from_numpy(rows)
    target = torch.from_numpy(label.astype(np.float32))[:, None]
    weight = torch.where(target > 0, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    dim, hidden = rows.shape[1], options.hidden
    if hidden:
        layers: Any = torch.nn.Sequential(
            torch.nn.Linear(dim, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )
        _by_adam(layers, inputs, target, weight, options)
    else:
        layers = torch.nn.Sequential(torch.nn.Linear(dim, 1))
        torch.nn.init.zeros_(layers[0].weight)
        torch.nn.init.zeros_(layers[0].bias)
        _by_lbfgs(layers, inputs, target, weight)
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    return Head(
        options.features,
        tuple(layer.weight.detach().numpy().copy() for layer in linear),
        tuple(layer.bias.detach().numpy().copy() for layer in linear),
    )


def _by_lbfgs(layers: Any, inputs: Any, target: Any, weight: Any) -> None:
    import torch

    optimizer = torch.optim.LBFGS(layers.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            layers(inputs), target, weight=weight
        )
        loss = loss + L2 * (layers[0].weight ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _by_adam(layers: Any, inputs: Any, target: Any, weight: Any, options: HeadOptions) -> None:
    import torch

    optimizer = torch.optim.Adam(layers.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(options.seed)
    for _ in range(options.epochs):
        mixed = torch.randperm(len(inputs), generator=order)
        for part in torch.split(mixed, BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                layers(inputs[part]), target[part], weight=weight[part]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
