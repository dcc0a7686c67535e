"""Bits per byte of a model on your own documents: any dataset, or a folder of shards.

Each shard is read, scored and committed separately, so shards may run in any number of workers, and
a stopped run continues with the shards that have no commit. The log has each document's row,
bytes, tokens and loss, not its text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evals.controls import READ_BACK, check_probabilities
from evals.items import Item, TaskData
from evals.models import LanguageModel
from evals.tasks import EvalError, PerplexityTask, parse_task
from evals.text.perplexity import KINDS
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.readers import read_whole
from pipelines.formats.texts import shards_with_text
from pipelines.records import Frozen, digest
from pipelines.storage.base import as_file
from pipelines.storage.commits import Done, attempt_name, commit, find_done
from pipelines.storage.open import open_store

AT_ONCE = 256  # documents whose losses are in memory together
KEPT = ("row", "num_bytes", "num_tokens", "nats")


class Documents(Frozen):
    """One shard to be scored: its location, and the key of its commit."""

    dataset: str
    name: str
    number: int
    key: str


class DocumentPerplexity(Frozen):
    """Bits per byte and perplexity of a model on the documents of a dataset."""

    model: str
    dataset: str
    window: int
    num_documents: int
    num_empty: int
    num_bytes: int
    num_tokens: int
    bits_per_byte: float
    stderr: float | None
    perplexity: float


def measure(
    model: LanguageModel,
    dataset: str,
    out: str,
    *,
    window: int,
    map_tasks: MapTasks = map_here,
) -> DocumentPerplexity:
    """Score every document of a dataset; logs and commits go below `out`, a parquet file per shard.

    A document without text is counted and not scored. EvalError for a dataset without documents;
    ShardError names a shard that cannot be read; ModelError when the model's losses are none, or
    its tokenizer leaves text out (see `evals.controls.check_probabilities`).
    """
    if model.max_length is not None and window > model.max_length:
        raise EvalError(f"--window {window}, but the model reads {model.max_length} tokens at most")
    source = open_store(dataset)
    sizes = {entry.name: entry.num_bytes for entry in source.list()}
    about: Any = [model.id, model.settings, window]
    shards = [
        Documents(
            dataset=dataset,
            name=name,
            number=number,
            key=f"documents-{digest([*about, source.uri, name, sizes.get(name)])}",
        )
        for number, name in enumerate(shards_with_text(source))
    ]
    done = map_tasks(partial(score_shard, model=model, out=out, window=window), shards)
    store = open_store(out)
    logs = [_read(store, result) for result in done]
    log = pa.concat_tables(logs) if logs else pa.table({name: [] for name in KEPT})
    if not log.num_rows:
        raise EvalError(f"{dataset} holds no document with a text; name a folder of shards")
    nats, num_bytes = log["nats"].to_numpy(), log["num_bytes"].to_numpy()
    bits = nats / math.log(2)
    return DocumentPerplexity(
        model=str(model.id),
        dataset=dataset,
        window=window,
        num_documents=log.num_rows,
        num_empty=sum(result.counts["empty"] for result in done),
        num_bytes=int(num_bytes.sum()),
        num_tokens=int(log["num_tokens"].to_numpy().sum()),
        bits_per_byte=float(bits.sum() / num_bytes.sum()),
        stderr=ratio_error(bits, num_bytes),
        perplexity=float(np.exp(nats.sum() / log["num_tokens"].to_numpy().sum())),
    )


def ratio_error(top: np.ndarray[Any, Any], bottom: np.ndarray[Any, Any]) -> float | None:
    """The standard error of sum(top) / sum(bottom) over documents, linearised; None for one."""
    count = len(top)
    if count < 2:
        return None
    apart = top - top.sum() / bottom.sum() * bottom
    return float(math.sqrt(count / (count - 1) * (apart @ apart)) / bottom.sum())


def score_shard(shard: Documents, *, model: LanguageModel, out: str, window: int) -> Done:
    """Score one shard and commit its log, unless that was done before (in a worker)."""
    store = open_store(out)
    done_before = find_done(store, shard.key)
    if done_before is not None:
        return done_before
    source = open_store(shard.dataset)
    logs: list[pa.Table] = []
    num_empty, first = 0, 0
    for table in read_whole(source, shard.name, shard=shard.number):
        texts = table["text"].to_pylist()
        items = [Item(row=first + n, context=text) for n, text in enumerate(texts) if text]
        num_empty += len(texts) - len(items)
        first += len(texts)
        if items and not logs:
            few = TaskData(tuple(items[:READ_BACK]), sha256="", verified=False)
            check_probabilities(_task(), few, model, window=window)
        logs += list(_answers(items, model, window))
    empty = pa.table({name: pa.array([], pa.float64()) for name in KEPT})
    log = pa.concat_tables(logs) if logs else empty
    with store.create(attempt_name(f"documents/{shard.number:06d}", ".parquet")) as writer:
        pq.write_table(log, as_file(writer), compression="zstd")
    files = (writer.file(num_rows=log.num_rows),)
    return commit(store, Done(key=shard.key, files=files, counts={"empty": num_empty}))


def _answers(items: Sequence[Item], model: LanguageModel, window: int) -> Iterator[pa.Table]:
    task, kind = _task(), KINDS["perplexity"]
    for start in range(0, len(items), AT_ONCE):
        chosen = items[start : start + AT_ONCE]
        rows = kind.scored(task, chosen, model, window=window)
        yield rows.select(list(KEPT))


def _task() -> PerplexityTask:
    described = {
        "name": "documents",
        "kind": "perplexity",
        "description": "documents of one's own",
        "category": "documents",
        "metric": "bits_per_byte",
        "file": "documents.jsonl",
        "licence": "unknown",
        "random_baseline": {"v1": 8.0, "v2": 8.0},
    }
    task = parse_task(described, source="documents of one's own")
    assert isinstance(task, PerplexityTask)
    return task


def _read(store: Any, done: Done) -> pa.Table:
    [file] = done.files
    with store.open(file.name) as opened:
        return pq.read_table(opened)
