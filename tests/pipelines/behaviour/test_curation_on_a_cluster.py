"""What curates a pool leaves the same bytes in this process, in two, and on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.assets.catalogue import Assets
from pipelines.engine.run import run
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.find_text import build, find
from pipelines.scoring.columns import score

SHARDS, ROWS = 3, 80
ITEM = "which of these rivers is the longest one that flows north into the cold sea"

STEPS: dict[str, list[Any]] = {
    "near-duplicates": [{"minhash_dedup": {"preset": "14x8"}}],
    "equal documents, the best stays": [{"exact_dedup": {"keep": "max", "keep_by": "quality"}}],
    "repeated n-grams": [{"ngram_bloom_dedup": {"expected_ngrams": 100_000, "groups": 2}}],
    "repeated spans": [{"substring_dedup": {"length": 20}}],
    "near images": [{"image_hash_dedup": {"max_distance": 3}}],
    "the best tenth": [{"select": {"by": "quality", "fraction": 0.1}}],
    "drawn with repeats": [{"soft_cap": {"by": "quality", "fraction": 0.5}}],
    "similar questions": [{"decontaminate_similar": {"items": "items.parquet"}}],
    "personal data": [{"mask_personal_data": {"phone_form": "international", "ipv6": True}}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool in which each step has something to do: copies, spans, a question, an address."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "pool").mkdir()
    (folder / "assets").mkdir()
    rng = np.random.default_rng(7)
    vocabulary = np.array([f"word{n}" for n in range(400)])
    texts = [" ".join(rng.choice(vocabulary, 60)) for _ in range(SHARDS * ROWS)]
    for row in range(0, len(texts), 10):
        texts[(row + 85) % len(texts)] = texts[row]  # a copy in another shard
    for row in range(3, len(texts), 20):
        texts[row] += f" {texts[0][:200]} {ITEM} call +49 30 901820 at 2a00:1450:4001::65"
    hashes = rng.integers(0, 1 << 48, len(texts)).astype(np.float64)
    hashes[1::2] = hashes[::2]
    quality = np.round(rng.random(len(texts)), 3)
    for shard in range(SHARDS):
        part = slice(shard * ROWS, (shard + 1) * ROWS)
        uids = [f"{row:032x}" for row in range(part.start, part.stop)]
        values = {"text": texts[part], "quality": quality[part], "phash": hashes[part]}
        columns = {"uid": uids, **values}
        pq.write_table(pa.table(columns), folder / "pool" / f"{shard}.parquet")
    items = pa.table({"task": ["rivers"], "item": [0], "text": [ITEM]})
    pq.write_table(items, folder / "assets" / "items.parquet")
    return folder


def curated(folder: Path, steps: list[Any], out: Path, map_tasks: MapTasks) -> tuple[str, int]:
    """The dataset's id, which covers its files, and how many rows it has."""
    pipeline = Pipeline.from_steps(steps, assets=Assets(folders=(folder / "assets",)))
    result = run(pipeline, open_pool(str(folder / "pool")), out=str(out), map_tasks=map_tasks)
    return result.record.id, result.record.counts["rows_out"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_leaves_the_same(
    name: str, folder: Path, ray_cluster: MapTasks, tmp_path: Path
) -> None:
    alone = curated(folder, STEPS[name], tmp_path / "alone", map_here)
    assert curated(folder, STEPS[name], tmp_path / "two", ProcessMap(2)) == alone
    assert curated(folder, STEPS[name], tmp_path / "ray", ray_cluster) == alone
    assert (alone[1] == SHARDS * ROWS) == (name == "personal data")  # the others remove rows


@pytest.mark.ray
@pytest.mark.slow
def test_scores_and_an_index_are_the_same(
    folder: Path, ray_cluster: MapTasks, tmp_path: Path
) -> None:
    pool = str(folder / "pool")
    ids, files = [], []
    for name, map_tasks in (("alone", map_here), ("two", ProcessMap(2)), ("ray", ray_cluster)):
        out = tmp_path / name
        steps = Pipeline.from_steps([{"count_words": {}}], name="words")
        scores = score(
            steps, open_pool(pool), out=f"{out}/scores", columns=None, map_tasks=map_tasks
        )
        ids.append(scores.record.id)
        build(pool, out=f"{out}/index", map_tasks=map_tasks)
        arrays = sorted((out / "index").glob("*.npy"))
        files.append({file.name: file.read_bytes() for file in arrays})
        assert len(find(ITEM, f"{out}/index", most=20)) == 12
    assert ids == [ids[0]] * 3
    assert files == [files[0]] * 3
