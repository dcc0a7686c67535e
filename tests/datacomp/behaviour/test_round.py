"""A whole round of DataComp over a small pool of drawn images, under a recipe of seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from datacomp import recipe as recipes
from datacomp.recipe import load_recipe
from evals.suite import load_suite
from leaderboard.board.describe import verdict
from leaderboard.board.ranking import board
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.show import comparable
from leaderboard.rounds.workspace import open_round
from leaderboard.submissions.submission import check, read_entries
from pipelines.errors import RuleError
from pipelines.execution.executors import map_here
from pipelines.records import ModelRecord, PackedRecord
from tests.datacomp.conftest import SMALL
from tests.datacomp.image_pool import write_workspace
from tests.leaderboard.program import play

pytestmark = pytest.mark.slow
HALF: dict[str, Any] = {
    "name": "half",
    "steps": [{"select": {"by": "clip_l14_similarity_score", "fraction": 0.5}}],
}
SAMPLE = {
    "name": "sample",
    "steps": [{"hash_sample": {"of": "rows", "column": "uid", "same_size_as": "no_filter"}}],
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a pool where the tiny one would be, and an installed recipe of seconds."""
    folder = tmp_path_factory.mktemp("round")
    write_workspace(folder)
    installed = folder / "recipes"
    installed.mkdir()
    (installed / "tiny.yaml").write_text(yaml.safe_dump(SMALL))
    for pipeline in (HALF, SAMPLE):
        (folder / f"{pipeline['name']}.yaml").write_text(yaml.safe_dump(pipeline))
    return folder


@pytest.fixture(autouse=True)
def _small_recipe(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipes, "RECIPES", workspace / "recipes")
    load_recipe.cache_clear()
    yield
    load_recipe.cache_clear()


@pytest.fixture(scope="module")
def played(workspace: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "RECIPES", workspace / "recipes")
        load_recipe.cache_clear()
        current = open_round("datacomp", "tiny", workspace=str(workspace), map_tasks=map_here)
        arms = []
        for name in ("no_filter", str(workspace / "half.yaml"), str(workspace / "sample.yaml")):
            curated = stages.curate(current, stages.find_pipeline(current, name))
            arms.append((curated, stages.pack(current, curated)))
        trained = training.train(current, arms, seeds=[0], recipe="tiny")
        stages.evaluate(current, trained)
        for curated, _ in arms:
            stages.submit(current, curated, seeds=[0], track="filtering")
    return workspace


def test_submissions_have_the_whole_chain_and_keep_every_rule(played: Path) -> None:
    entries = read_entries(played / "submissions")
    assert len(entries) == 3
    benchmark = stages.rules.load_benchmark("datacomp")
    for entry in entries:
        kinds = [record.kind for record in entry.record.chain]
        assert kinds[:3] == ["pool", "dataset", "packed"]
        assert check(entry.record, benchmark) == []
        overlap = entry.bundle.manifest.overlap
        assert overlap is not None
        assert set(overlap) == set(load_suite("datacomp/tiny").tasks)
        assert {len(of_task.found) for of_task in overlap.values()} == {0}


def test_the_board_counts_samples_and_tells_who_is_shown_to_be_ahead(played: Path) -> None:
    rows = board(read_entries(played / "submissions"))
    sizes = {row.method: row.dataset.size for row in rows}
    assert sizes == {"no_filter": 120, "half": 60, "sample": 120}
    assert {row.budget.seen for row in rows} == {12 * 32}
    assert {row.dataset.unit for row in rows} == {"samples"}
    assert [row.rank for row in rows] == [1, 1, 3]  # two have the same score
    [group] = comparable(rows)
    sentence = verdict(group)
    tied = [row.method for row in rows[1:] if row.tied_with_leader]
    assert ("is not distinguishable from" in sentence) == bool(tied)
    assert sentence.startswith(rows[0].method)


def test_a_dataset_of_the_same_size_takes_it_from_the_other(played: Path) -> None:
    names = sorted(path.name.split("-")[0] for path in (played / "datacomp-tiny").iterdir())
    assert names == ["half", "no_filter", "sample"]


def test_a_training_under_other_rules_cannot_be_submitted(played: Path) -> None:
    entry = read_entries(played / "submissions")[0]
    kinds = {record.kind: record for record in entry.record.chain}
    packed, model, recipe = kinds["packed"], kinds["model"], load_recipe("tiny")
    assert recipes.training_faults(packed, model, recipe) == []
    short = ModelRecord.seal(
        work=model.work,
        parents=model.parents,
        results={"samples_seen": 32, "loss": 1.0},
        made_by=model.made_by,
    )
    assert "saw 32 samples, expected 384" in recipes.training_faults(packed, short, recipe)[0]
    work = packed.work.model_copy(update={"parameters": {"shard_size": 7}, "layout": "npy"})
    other = PackedRecord.seal(work=work, parents=packed.parents, made_by=packed.made_by)
    faults = recipes.training_faults(other, model, recipe)
    assert "npy/reshard, expected shards made by" in faults[0]
    assert "has shards of 7 samples, expected 50" in faults[1]


def test_an_unknown_seed_is_refused(played: Path) -> None:
    current = open_round("datacomp", "tiny", workspace=str(played), map_tasks=map_here)
    with pytest.raises(RuleError, match=r"seed 9 is not allowed at scale tiny; allowed: 0, 1, 2"):
        training.check_seeds(current, [9])


def test_the_scorer_is_the_raw_model_and_its_scores_select(played: Path) -> None:
    from datacomp.curation import tiny_clip

    current = open_round("datacomp", "tiny", workspace=str(played), map_tasks=map_here)
    record = tiny_clip.train_scorer(current)
    assert record.counts["scored"] == record.counts["rows"] == 120
    best = {
        "name": "best",
        "steps": [
            {"scores": {"of": "tiny_clip", "column": "s"}},
            {"select": {"by": "s", "fraction": 0.25, "missing": "drop"}},
        ],
    }
    (played / "best.yaml").write_text(yaml.safe_dump(best))
    made = stages.curate(current, stages.find_pipeline(current, str(played / "best.yaml")))
    assert made.record.counts["rows_out"] == 30
    assert [asset.name for asset in made.record.work.assets] == ["tiny_clip/index.json"]


def test_a_program_plays_the_whole_loop(played: Path, tmp_path: Path) -> None:
    """Half of the pool is there already, as for a program that was started again; a quarter not."""
    shutil.copytree(
        played, tmp_path, ignore=shutil.ignore_patterns("submissions"), dirs_exist_ok=True
    )
    quarter = [{"select": {"by": "clip_l14_similarity_score", "fraction": 0.25}}]
    play("datacomp", tmp_path, [("half", HALF["steps"]), ("quarter", quarter)])
