"""Ray Train starts the same CLIP training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")

from leaderboard.rounds.commands import command_line  # noqa: E402
from leaderboard.rounds.train_folder import metric_lines  # noqa: E402
from pipelines.console import main  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    root = str(Path(__file__).parents[3])
    ray.init(
        address="local",  # and not a cluster that somebody runs on this machine
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def test_two_processes_of_ray_train_one_model(
    packed_images: Path, recipe_file: Path, tmp_path: Path
) -> None:
    named = ["--scale", "tiny", "--recipe", str(recipe_file), "--data", f"{packed_images}/packed"]
    where = ["--out", str(tmp_path / "two"), "--cluster", "local", "--processes", "2"]
    with pytest.raises(SystemExit) as ended:
        main(command_line("datacomp"), ["train", *named, *where])
    assert not ended.value.code
    rows = metric_lines(tmp_path / "two" / "metrics.jsonl")
    assert [row["samples"] for row in rows] == [32 * n for n in range(1, 13)]
    assert rows[-1]["loss"] < rows[0]["loss"]
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"model.safetensors", "record.json", "chain.json"} <= left
    assert not {".ray", "open_clip"} & left
