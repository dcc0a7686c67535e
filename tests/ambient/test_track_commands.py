"""The commands of the tracks `unknown` and `solver`, as a participant types them."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from ambient.training.train import train
from leaderboard.rounds.commands import command_line
from pipelines.errors import RuleError
from tests.ambient.packing.test_pack import packed
from tests.ambient.training.test_train import HALF_NOISY, small


def ambient(*words: object) -> str:
    """What a command prints; its error is raised."""
    result = CliRunner().invoke(command_line("ambient"), [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model of two steps."""
    folder = tmp_path_factory.mktemp("workspace")
    packed(folder, [], HALF_NOISY)
    train(str(folder / "packed"), recipe=small(images=64), seed=0, out=str(folder / "model"))
    return folder


def test_a_solver_is_scored_beside_no_prior(workspace: Path) -> None:
    common = ("--scale", "tiny-solver", "--workspace", workspace, "--json")
    ambient(
        "pool", "--scale", "tiny-solver", "--workspace", workspace
    )  # brings the held-out images
    scores = {}
    for name in ("adjoint", "projection"):
        made = ambient(
            "solve", workspace / "model", "--solver", name, "--out", workspace / name, *common
        )
        record = orjson.loads(made)
        scores[name] = record["results"]["aggregates"]["restoration"]["value"]
        assert record["work"]["parameters"]["model"]["solver"]["sampler"] == name
        assert (workspace / name / "chain.json").is_file()
    assert scores["adjoint"] == pytest.approx(1, abs=1e-3)
    assert scores["projection"] != pytest.approx(1, abs=1e-2)


def test_run_says_which_track_it_cannot_play(workspace: Path) -> None:
    here = ("--workspace", workspace, "--pipeline", "mix", "--gpus", 0)
    with pytest.raises(RuleError, match="run the baseline 'mix' on another track"):
        ambient("run", "--scale", "tiny-solver", "--track", "solver", *here)
    with pytest.raises(RuleError, match="scale tiny has no track 'solver'; its tracks are filter"):
        ambient("run", "--scale", "tiny", "--track", "solver", *here)


def test_levels_are_estimated_used_and_revealed(workspace: Path) -> None:
    here = ("--workspace", workspace)
    shown = ambient("pool", "--scale", "tiny", "--track", "unknown", *here, "--json")
    assert "withheld" in shown
    assert "blur" not in shown
    assert "1,200 images" in ambient("estimate", "--scale", "tiny", "--steps", 1, *here)
    arguments = ("--scale", "tiny", "--track", "unknown", *here, "--workers", 1, "--json")
    made = orjson.loads(ambient("curate", "omni_estimated", *arguments))
    table = workspace / "pools" / "ambient-tiny-unknown.withheld.parquet"
    rows = orjson.loads(ambient("reveal", made["folder"], "--withheld", table, "--json"))
    assert [(row["corruption"], row["level"]) for row in rows] == [
        ("blur", 0.4),
        ("blur", 0.7),
        ("blur", 1.0),
        ("blur", 1.5),
        ("blur", 2.0),
        ("none", 0.0),
    ]
    assert sum(row["in_pool"] for row in rows) == 1200
    assert rows[-1]["kept"] == rows[-1]["in_pool"]  # clean images teach everywhere
