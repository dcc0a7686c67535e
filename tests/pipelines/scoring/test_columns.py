"""Scores as columns: computed once, joined by row, read alone, and refused for another pool."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.assets.catalogue import Assets
from pipelines.engine.run import run
from pipelines.errors import PipelineError, UsageError
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.scoring.columns import score
from pipelines.text.quality import ClassifierRecipe, train_classifier

SHARDS = 3
MODELS = {"first": "first.bin", "second": "second.bin"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small classifiers, and a pool of three shards of documents, one of them empty."""
    good, other = ["a calm and careful essay"] * 9, ["buy cheap pills now"] * 9
    for seed, name in enumerate(MODELS.values()):
        recipe = ClassifierRecipe(dim=4, buckets=50, min_count=1, epochs=20, seed=seed)
        train_classifier(good, other, recipe=recipe, out=tmp_path / "assets" / name)
    rng = np.random.default_rng(0)
    words = np.array(["a", "calm", "and", "careful", "essay", "buy", "cheap", "pills", "now"])
    (tmp_path / "pool").mkdir()
    for shard in range(SHARDS):
        lines = [
            orjson.dumps({"text": " ".join(rng.choice(words, 300)), "n": n}) for n in range(60)
        ]
        if shard == 1:
            lines = []
        (tmp_path / "pool" / f"{shard}.jsonl").write_bytes(b"".join(x + b"\n" for x in lines))
    return tmp_path


def assets_of(folder: Path) -> Assets:
    return Assets(folders=(folder / "assets", folder))


def scored(folder: Path, out: str, map_tasks: MapTasks = map_here) -> str:
    steps = [{"quality_scores": {"models": MODELS}}]
    pipeline = Pipeline.from_steps(steps, name="two", assets=assets_of(folder))
    pool = open_pool(str(folder / "pool"))
    return score(pipeline, pool, out=f"{folder}/{out}", columns=None, map_tasks=map_tasks).record.id


def texts(run_folder: Path) -> list[str]:
    files = sorted((run_folder / "data").iterdir())
    return [text for file in files for text in pq.read_table(file)["text"].to_pylist()]


CUT = [
    {"select": {"by": "first", "fraction": 0.25}},
    {"threshold": {"by": "second", "min_score": 0.2}},
]


def test_a_filter_over_scores_leaves_what_the_whole_pipeline_leaves(folder: Path) -> None:
    """And needs neither the pool nor the models: both are away while it runs."""
    scored(folder, "scores")
    whole = Pipeline.from_steps(
        [{"quality_scores": {"models": MODELS}}, *CUT], assets=assets_of(folder)
    )
    run(whole, open_pool(str(folder / "pool")), out=str(folder / "whole"))
    (folder / "pool").rename(folder / "away")
    shutil.rmtree(folder / "assets")
    run(Pipeline.from_steps(CUT), open_pool(f"{folder}/scores"), out=str(folder / "choice"))
    (folder / "away").rename(folder / "pool")
    chosen = Pipeline.from_steps([{"chosen_rows": {"of": "choice"}}], assets=assets_of(folder))
    run(chosen, open_pool(str(folder / "pool")), out=str(folder / "chosen"))
    assert texts(folder / "chosen") == texts(folder / "whole")
    assert 0 < len(texts(folder / "chosen")) <= 30


def test_a_filter_over_scores_reads_a_twentieth_of_real_pages(data: Path, folder: Path) -> None:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        pages = file.readlines()
    for shard, part in enumerate(np.array_split(np.arange(len(pages)), SHARDS)):
        lines = [pages[n] for n in part.tolist()]
        with gzip.open(folder / "pool" / f"{shard}.jsonl.gz", "wb") as out:
            out.write(b"".join(lines))
        (folder / "pool" / f"{shard}.jsonl").unlink()
    scored(folder, "scores")
    read = sum(shard.num_bytes for shard in open_pool(f"{folder}/scores").shards)
    assert read <= 0.05 * open_pool(str(folder / "pool")).num_bytes


def test_columns_come_back_by_row(folder: Path) -> None:
    scored(folder, "scores")
    steps = [
        {"quality_scores": {"models": {"again": "second.bin"}}},
        {"score_columns": {"of": "scores", "columns": {"second": "double"}}},
    ]
    pipeline = Pipeline.from_steps(steps, assets=assets_of(folder))
    run(pipeline, open_pool(str(folder / "pool")), out=str(folder / "joined"))
    tables = [pq.read_table(file) for file in sorted((folder / "joined" / "data").iterdir())]
    joined = pa.concat_tables(tables, promote_options="default")
    assert joined["second"].to_pylist() == joined["again"].to_pylist()
    assert len(joined) == 120


def test_processes_write_the_same_scores(folder: Path) -> None:
    assert scored(folder, "here") == scored(folder, "there", ProcessMap(2))


def test_scores_of_another_pool_are_refused(folder: Path) -> None:
    scored(folder, "scores")
    (folder / "pool" / "0.jsonl").write_bytes(orjson.dumps({"text": "another"}) + b"\n")
    chosen = Pipeline.from_steps([{"chosen_rows": {"of": "scores"}}], assets=assets_of(folder))
    with pytest.raises(PipelineError, match="are of the pool"):
        run(chosen, open_pool(str(folder / "pool")), out=str(folder / "chosen"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["word_count"], "is a filter; scores are columns"),
        (["remove_urls"], "no step writes a column"),
    ],
)
def test_what_adds_no_column_is_refused(folder: Path, steps: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(
            Pipeline.from_steps(steps),
            open_pool(str(folder / "pool")),
            out=f"{folder}/scores",
            columns=None,
            map_tasks=map_here,
        )
