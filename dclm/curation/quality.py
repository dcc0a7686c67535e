"""Train the tiny scale's quality classifier: the pool's good prose against its other documents.

The result is an asset with a record next to it, and the areas under its ROC curve on labelled
documents, when there are some, are printed next to those of document length alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import xxhash

from dclm.pool import pool as pools
from pipelines.execution.executors import MapTasks
from pipelines.formats.pool import Pool
from pipelines.records import (
    AssetRecord,
    AssetRef,
    AssetWork,
    File,
    Frozen,
    made_by,
    now,
    parse_record,
    sha256_file,
)
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store
from pipelines.text.language import LanguageId
from pipelines.text.quality import (
    OTHER,
    ClassifierRecipe,
    load_fasttext,
    one_line,
    train_classifier,
)

NAME = "tiny-quality.bin"
NUM_NEGATIVES = 1500
MIN_CHARACTERS = 200
RECIPE = ClassifierRecipe()


class LabelledAuc(Frozen):
    """How well a score orders documents that people labelled good or bad."""

    name: str
    num_documents: int
    classifier: float
    length: float


def train_quality(*, workspace: str, map_tasks: MapTasks) -> AssetRecord:
    """Train on the tiny pool's positives against a hash sample of its English documents."""
    started = now()
    pool = pools.open_scale("tiny", workspace=workspace, map_tasks=map_tasks)
    positives = pools.positives(workspace=workspace)
    assets = pools.assets("tiny", workspace=workspace)
    out = Path(workspace) / "assets" / NAME
    beside = out.with_name(f"{NAME}.record.json")
    work = AssetWork(
        name=NAME,
        licence="derived from the tiny pool's sources",
        inputs=(
            AssetRef(name=positives.name, sha256=sha256_file(positives)),
            assets.ref("lid.176.ftz"),
        ),
        parameters={
            "recipe": RECIPE.model_dump(mode="json"),
            "negatives": NUM_NEGATIVES,
            "min_characters": MIN_CHARACTERS,
        },
    )
    parents = {"pool": pool.record.id}
    if beside.is_file() and out.is_file():
        known = parse_record(beside.read_bytes(), source=str(beside))
        same = known.key == AssetRecord.key_of(work=work, parents=parents)
        if same and [file.sha256 for file in known.outputs] == [sha256_file(out)]:
            return known  # type: ignore[no-any-return]
    language = LanguageId()
    language.load(assets)
    good = [row["text"] for row in read_rows(positives)]
    other = sample_english(pool, language, number=NUM_NEGATIVES)
    train_classifier(good, other, recipe=RECIPE, out=out)
    record = AssetRecord.seal(
        work=work,
        parents=parents,
        outputs=[File(name=NAME, sha256=sha256_file(out), num_bytes=out.stat().st_size)],
        counts={"positives": len(good), "negatives": len(other)},
        made_by=made_by(started),
    )
    write_bytes(LocalStore(out.parent), beside.name, record.to_json())
    return record


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a jsonl.gz file."""
    with gzip.open(path) as file:
        for line in file:
            yield orjson.loads(line)


def sample_english(pool: Pool, language: LanguageId, *, number: int) -> list[str]:
    """The `number` English documents of the pool whose text hashes lowest."""
    from pipelines.batch import Batch

    hashed: list[tuple[int, str]] = []
    store = open_store(pool.uri)
    for shard in pool.shards:
        with store.open(shard.name) as file:
            table = pq.read_table(file, columns=["text"])
        columns = language.modify(Batch(table))
        for text, code in zip(
            table.column("text").to_pylist(), columns["language"].to_pylist(), strict=True
        ):
            if code == "en" and len(text) >= MIN_CHARACTERS:
                hashed.append((xxhash.xxh3_64_intdigest(text.encode()), text))
    hashed.sort()
    return [text for _, text in hashed[:number]]


def labelled_auc(path: Path, *, workspace: str) -> LabelledAuc:
    """The classifier's area under the ROC curve on rows {"text", "label": 0 or 1}."""
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    model = load_fasttext(Path(workspace) / "assets" / NAME)
    scores = []
    for row in rows:
        [(probability, label)] = model.predict(one_line(row["text"]) + "\n", 1, 0.0, "strict")
        scores.append(1.0 - probability if label == OTHER else probability)
    labels = np.array([row["label"] for row in rows]) == 1
    lengths = [len(row["text"]) for row in rows]
    return LabelledAuc(
        name=path.stem,
        num_documents=len(rows),
        classifier=area_under_roc(scores, labels),
        length=area_under_roc(lengths, labels),
    )


def area_under_roc(scores: Sequence[float], labels: np.ndarray) -> float:
    """The chance that a random good document scores above a random bad one; ties count half."""
    values = np.asarray(scores, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    good = int(labels.sum())
    bad = len(labels) - good
    if not good or not bad:
        raise ValueError("an area under the ROC curve needs documents of both labels")
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad))
