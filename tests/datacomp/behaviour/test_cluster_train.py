"""Ray Train starts the same CLIP training."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.rounds.commands import command_line
from leaderboard.rounds.train_folder import metric_lines
from pipelines.console import main

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


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
