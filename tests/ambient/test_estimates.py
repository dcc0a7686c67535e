"""The track whose pool withholds its corruption: estimates, a dataset, what the organiser sees."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ambient import estimates
from ambient.packing.pack import pack_dataset
from ambient.pool import pool
from ambient.pool.pool import Mix
from ambient.recipe import load_recipe
from pipelines.assets.catalogue import Assets
from pipelines.engine.run import run
from pipelines.errors import PackError, PoolError
from pipelines.execution.executors import map_here
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline
from pipelines.records import RecordError
from tests.ambient.pool.test_pool import originals

BLURRED = Mix(clean_share=0.5, kind="blur", levels=(0.5, 2.0))
OMNI = [
    {"scores": {"of": "sigma_min", "column": "estimated"}},
    {"threshold": {"by": "estimated", "max_score": 4.0, "missing": "reject"}},
    {"noise_level": {"kinds": ["unknown"], "column": "estimated"}},
]


def built(folder: Path, mix: Mix = BLURRED, number: int = 80) -> Path:
    """A pool below `folder`; returns the organiser's table."""
    withheld = folder / "withheld.parquet"
    pool.build(
        iter(originals(number)),
        str(folder / "pool"),
        mix=mix,
        name="test",
        shard_rows=30,
        withheld=withheld,
    )
    return withheld


def curated(folder: Path, steps: list[object]) -> str:
    assets = Assets(folders=(folder / "assets",))
    pipeline = Pipeline.from_steps(steps, name="test", assets=assets)
    run(pipeline, open_pairs(str(folder / "pool")), out=str(folder / "data"), format="uids")
    return str(folder / "data")


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unknown")
    built(folder)
    opened = open_pairs(str(folder / "pool"))
    estimates.estimate(opened, out=str(folder / "assets" / "sigma_min"), num_steps=3, seed=0)
    return folder


def test_the_pool_says_of_corrupted_images_only_that_they_are(tmp_path: Path) -> None:
    withheld = built(tmp_path)
    paths = sorted((tmp_path / "pool" / "metadata").iterdir())
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    kinds = {(row["corruption"], row["level"], row["seed"], row["source"] != "") for row in rows}
    assert kinds == {("none", 0.0, 0, True), ("unknown", None, None, False)}
    hidden = {row["uid"]: row for row in pq.read_table(withheld).to_pylist()}
    assert {row["level"] for row in hidden.values()} == {0.0, 0.5, 2.0}
    record = open_pairs(str(tmp_path / "pool")).record
    hash_ = pool.hash_of_rows(pq.read_table(withheld))
    assert record.work.parameters == {"clean_share": 0.5, "withheld": hash_}
    assert not any("blur" in str(value) for value in record.model_dump(mode="json").values())


def test_images_teach_from_the_estimated_level_on(estimated: Path) -> None:
    data = curated(estimated, OMNI)
    packed = str(estimated / "packed")
    pack_dataset(data, recipe=load_recipe("tiny"), out=packed, map_tasks=map_here)
    rows = pq.read_table(estimated / "packed" / "rows.parquet").to_pylist()
    scores: dict[str, float | None] = {}
    for table in sorted((estimated / "pool" / "metadata").iterdir()):
        values = pq.read_table(estimated / "assets" / "sigma_min" / table.name)["score"]
        uids = pq.read_table(table)["uid"]
        scores |= dict(zip(uids.to_pylist(), values.to_pylist(), strict=True))
    kept = {uid: value for uid, value in scores.items() if value is not None and value <= 4.0}
    assert {row["uid"]: row["sigma_min"] for row in rows} == pytest.approx(kept)
    assert {row["sigma_min"] == 0 for row in rows if row["corruption"] == "none"} == {True}
    assert {row["level"] for row in rows} == {0.0}  # from there on all count as clean
    revealed = estimates.reveal(data, estimated / "withheld.parquet")
    names = [(row.corruption, row.level) for row in revealed]
    assert names == [("blur", 0.5), ("blur", 2.0), ("none", 0.0)]
    assert sum(row.kept for row in revealed) == len(rows)
    assert sum(row.in_pool for row in revealed) == 80


def test_without_a_level_an_image_of_unknown_corruption_cannot_be_packed(tmp_path: Path) -> None:
    built(tmp_path)
    data = curated(tmp_path, [])
    with pytest.raises(PackError, match="corruption 'unknown' and no sigma_min"):
        pack_dataset(data, recipe=load_recipe("tiny"), out=str(tmp_path / "p"), map_tasks=map_here)


def test_another_organiser_s_table_is_refused(estimated: Path, tmp_path: Path) -> None:
    other = built(tmp_path, Mix(clean_share=0.5, kind="blur", levels=(0.5, 1.0)))
    with pytest.raises(RecordError, match="is not the table that the pool"):
        estimates.reveal(curated(estimated, OMNI), other)


def test_a_pool_of_few_clean_images_is_not_estimated(tmp_path: Path) -> None:
    built(tmp_path, BLURRED.model_copy(update={"clean_share": 0.05}))
    opened = open_pairs(str(tmp_path / "pool"))
    with pytest.raises(PoolError, match="at least 16 of each"):
        estimates.estimate(opened, out=str(tmp_path / "out"), num_steps=1, seed=0)
