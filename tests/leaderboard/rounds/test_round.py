"""A whole round of a small benchmark: every stage, the claim, the rules, the pages."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from leaderboard import rules
from leaderboard.board.describe import pipeline_yaml
from leaderboard.board.ranking import board
from leaderboard.rounds import ablate as ablation
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.workspace import open_round
from leaderboard.service.evidence import reproduce
from leaderboard.submissions.submission import Entry, check, read_entries, read_entry
from leaderboard.web.static_site import export_site
from pipelines.errors import PipelineError, RuleError, TrainingError, UnknownName
from pipelines.execution.executors import map_here
from pipelines.records import DatasetRecord, RecordError
from tests.leaderboard.made_up import make_folder

SEEDS = (124, 125)


def play(workspace: Path, name: str, steps: list[Any], **options: Any) -> Entry:
    """One method through all stages."""
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    file = workspace / f"{name}.yaml"
    workspace.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({"name": name, "steps": steps}))
    curated = stages.curate(current, stages.find_pipeline(current, str(file)))
    packed = stages.pack(current, curated)
    trained = training.train(current, [(curated, packed)], seeds=SEEDS, recipe="mini")
    stages.evaluate(current, trained)
    return stages.submit(current, curated, seeds=SEEDS, track="filtering", **options)


@pytest.fixture(scope="module")
def workspace(minibench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round") / "work"
    play(folder, "everything", [])
    play(folder, "prose", [{"url_words": {"words": ["nothing"]}}, {"stop_words": {}}])
    return folder


@pytest.fixture(scope="module")
def entries(workspace: Path) -> list[Entry]:
    return read_entries(workspace / "submissions")


def test_a_third_party_benchmark_is_found_by_its_entry_point(minibench: Path) -> None:
    assert rules.load_benchmark("mini").title == "A benchmark for tests"
    with pytest.raises(UnknownName, match="unknown benchmark 'minny'; did you mean 'mini'"):
        rules.load_benchmark("minny")


def test_better_data_makes_the_better_model(entries: list[Entry]) -> None:
    first, second = board(entries)
    assert (first.method, second.method) == ("prose", "everything")
    assert first.rank == 1
    assert second.behind_leader is not None
    assert second.behind_leader.value > 0
    assert second.dataset.size > first.dataset.size
    assert [seed.seed for seed in first.seeds] == list(SEEDS)
    assert first.headline.stderr > 0


def test_the_chain_goes_back_to_the_pool(entries: list[Entry]) -> None:
    for entry in entries:
        kinds = [record.kind for record in entry.record.chain]
        assert kinds[:3] == ["pool", "dataset", "packed"]
        assert sorted(kinds[3:]) == ["model", "model", "scores", "scores"]


def test_playing_again_changes_nothing(workspace: Path, entries: list[Entry]) -> None:
    again = play(workspace, "everything", [])
    assert again.record.id in [entry.record.id for entry in entries]
    assert len(read_entries(workspace / "submissions")) == 2


def test_the_commands_of_a_submission_s_page_give_the_same_ids_elsewhere(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but what the page shows: its pipeline as a file, and its commands."""
    here = next(e for e in entries if e.record.work.method == "prose")
    dataset = next(r for r in here.record.chain if isinstance(r, DatasetRecord))
    (tmp_path / "prose.yaml").write_text(pipeline_yaml(dataset.work.pipeline))
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True) for line in reproduce(here.record).splitlines()]
    [words] = [words for program, *words in lines if program == "mini"]
    result = CliRunner().invoke(command_line("mini"), words)
    assert result.exit_code == 0, result.output
    [there] = read_entries(tmp_path / "runs" / "submissions")
    assert [r.id for r in there.record.chain] == [r.id for r in here.record.chain]
    # `run` says how many datasets were tried, which is no part of what is made.
    assert there.record.work.model_copy(update={"tries": None}) == here.record.work


def test_an_experimental_recipe_cannot_be_submitted(
    minibench: Path, workspace: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((minibench / "minibench" / "mini.yaml").read_text())
    recipe["learning_rate"] = 0.005
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(recipe))
    current = open_round(
        "mini", "mini", workspace=str(workspace), map_tasks=map_here, recipe=str(file)
    )
    assert not current.official
    curated = stages.curate(current, stages.find_pipeline(current, str(workspace / "prose.yaml")))
    packed = stages.pack(current, curated)
    trained = training.train(current, [(curated, packed)], seeds=SEEDS[:1], recipe=str(file))
    stages.evaluate(current, trained)
    with pytest.raises(RuleError, match=r"work\.recipe\.learning_rate: found 0\.005, expected"):
        stages.submit(current, curated, seeds=SEEDS[:1], track="filtering")


def test_a_seed_that_the_recipe_does_not_allow_is_refused(workspace: Path) -> None:
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    with pytest.raises(RuleError, match="seed 7 is not allowed at scale mini; allowed: 124"):
        training.check_seeds(current, [7])


def test_a_training_that_stops_at_its_loss_leaves_the_other_methods(workspace: Path) -> None:
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    arms = []
    for name in ("one", "two"):
        file = workspace / f"{name}.yaml"
        step = {"url_words": {"words": [name]}}
        file.write_text(yaml.safe_dump({"name": name, "steps": [step]}))
        curated = stages.curate(current, stages.find_pipeline(current, str(file)))
        arms.append((curated, stages.pack(current, curated)))

    def train_or_stop(task: training.TrainTask) -> str:
        if task.packed == arms[0][1]:
            raise TrainingError("the loss of step 80 jumped")
        return training.run_training(task)

    failures: dict[str, str] = {}
    given: dict[str, Any] = {"seeds": SEEDS[:1], "recipe": "mini", "run": train_or_stop}
    trained = training.train(current, arms, failures=failures, **given)
    assert failures == {"one": "the loss of step 80 jumped"}
    assert [model.method for model in trained] == ["two"]
    with pytest.raises(TrainingError, match="step 80"):
        training.train(current, arms, **given)


def test_unknown_scales_and_tracks_are_named(workspace: Path, entries: list[Entry]) -> None:
    with pytest.raises(UnknownName, match="mini has no scale 'huge'; scales are mini"):
        open_round("mini", "huge", workspace=str(workspace), map_tasks=map_here)
    work = entries[0].record.work.model_copy(update={"track": "mixing"})
    changed = entries[0].record.model_copy(update={"work": work})
    assert list(map(str, check(changed, rules.load_benchmark("mini")))) == [
        "submission.json: work.track: found 'mixing', expected filtering; correct the options of "
        "`submit` and make the bundle again"
    ]


def test_a_chain_with_a_missing_link_is_refused(entries: list[Entry]) -> None:
    record = entries[0].record
    chain = tuple(record for record in record.chain if record.kind != "packed")
    faults = check(record.model_copy(update={"chain": chain}), rules.load_benchmark("mini"))
    assert any("0 packed records, expected 1" in str(fault) for fault in faults)
    assert any("expected a packed record of the chain" in str(fault) for fault in faults)


def test_an_edited_submission_is_refused(entries: list[Entry], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(entries[0].folder, folder)
    value = orjson.loads((folder / "submission.json").read_bytes())
    for record in value["chain"]:
        if record["kind"] == "scores":
            record["results"]["aggregates"]["bits_per_byte"]["value"] = 0.1
    (folder / "submission.json").write_bytes(orjson.dumps(value))
    with pytest.raises(RecordError, match=r"submission\.json.*the record was edited"):
        read_entry(folder)


def test_unverified_data_cannot_rank(entries: list[Entry]) -> None:
    record = entries[0].record
    chain = []
    for item in record.chain:
        if item.kind == "scores":
            tasks = tuple(t.model_copy(update={"verified": False}) for t in item.work.tasks)
            item = item.model_copy(update={"work": item.work.model_copy(update={"tasks": tasks})})
        chain.append(item)
    changed = record.model_copy(update={"chain": tuple(chain)})
    faults = check(changed, rules.load_benchmark("mini"))
    assert any("heldout_bits_per_byte: found unverified data" in str(fault) for fault in faults)


def test_rows_of_different_pools_are_never_ranked_together(entries: list[Entry]) -> None:
    record = entries[1].record
    chain = tuple(
        record.model_copy(update={"id": "another pool"}) if record.kind == "pool" else record
        for record in record.chain
    )
    other = Entry(record.model_copy(update={"chain": chain}), entries[1].folder)
    rows = board([entries[0], other])
    assert [row.rank for row in rows] == [1, 1]


def test_the_site_shows_what_the_board_says(workspace: Path, tmp_path: Path) -> None:
    page = export_site(workspace / "submissions", tmp_path / "site")
    text = page.read_text()
    board_text = (page.parent / "boards" / "mini-mini-filtering.html").read_text()
    rows = orjson.loads((page.parent / "board.json").read_bytes())
    assert f"{rows[0]['headline']['value']:.4f}" in text
    assert [row["method"] for row in rows] == ["prose", "everything"]
    for row in rows:
        assert {"benchmark", "scale", "track", "pool_id", "suite_version"} <= row.keys()
        assert row["headline"].keys() == {"metric", "value", "stderr", "higher_is_better"}
        assert row["budget"] == {"unit": "tokens", "seen": 5120}
        assert row["dataset"]["unit"] == "tokens"
        assert f"{row['headline']['value']:.4f}" in board_text
        assert row["pool_id"] in board_text
        detail = (page.parent / "submissions" / f"{row['submission_id']}.html").read_text()
        assert row["method"] in detail
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "<script" not in text
    assert (page.parent / "board.csv").read_text().count("\n") == 3


def test_submitted_text_is_escaped_on_the_page(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    make_folder(tmp_path / "submissions", method=script, team='"><img src=x onerror=alert(1)>')
    page = export_site(tmp_path / "submissions", tmp_path / "site")
    for path in [page, *page.parent.glob("*/*.html")]:
        text = path.read_text()
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
    assert "&lt;script&gt;" in page.read_text()


def test_the_evals_command_loads_a_model_by_the_benchmark_that_trained_it(workspace: Path) -> None:
    from evals.loading import load_model

    [folder] = workspace.glob("mini-mini/prose-*/model-recipe-124")
    model = load_model(str(folder), trust_remote_code=False, device="cpu", exact=True)
    assert model.vocab_size == 2048


def test_each_step_taken_out_in_turn(workspace: Path) -> None:
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    pipeline = stages.find_pipeline(current, str(workspace / "prose.yaml"))
    steps = ablation.chosen_steps(pipeline, None)
    before = len(read_entries(workspace / "submissions"))
    ablated = ablation.ablate(current, pipeline, steps=steps, seeds=SEEDS)
    idle, useful = ablated.steps
    assert (idle.operator, useful.operator) == ("url_words", "stop_words")
    assert idle.effect is not None
    assert idle.effect.value == 0  # it drops nothing: the same dataset, the same model
    assert idle.rows == ablated.rows
    assert useful.effect is not None
    assert useful.effect.value > 0
    assert useful.rows is not None
    assert useful.rows > ablated.rows
    assert len(read_entries(workspace / "submissions")) == before
    shown = ablation.ablation_text(ablated)
    assert "stop_words" in shown
    assert f"{useful.effect.value:+.4f}" in shown
    assert "one seed" not in shown
    alone = ablated.model_copy(update={"seeds": ablated.seeds[:1]})
    assert ablation.ablation_text(alone).endswith("holds no variance between training runs")
    known = alone.model_copy(update={"noise_known": True})
    assert ablation.ablation_text(known).endswith("between training runs is the rule book's")


def test_a_step_that_others_need_cannot_be_taken_out(workspace: Path) -> None:
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    steps = ["count_words", {"threshold": {"by": "word_count", "min_score": 1}}]
    file = workspace / "needs.yaml"
    file.write_text(yaml.safe_dump({"name": "needs", "steps": steps}))
    pipeline = stages.find_pipeline(current, str(file))
    [ablation_steps] = ablation.ablate(current, pipeline, steps=[0], seeds=SEEDS[:1]).steps
    assert ablation_steps.effect is None
    assert "word_count" in str(ablation_steps.needed)
    with pytest.raises(PipelineError, match="has steps 1 to 2"):
        ablation.chosen_steps(pipeline, [3])


def test_the_example_of_a_filter_plays_a_whole_round(
    minibench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    path = Path(__file__).parents[3] / "examples" / "own_filter.py"
    main = runpy.run_path(str(path))["main"]
    main(["--benchmark", "mini", "--scale", "mini", "--workspace", str(tmp_path / "runs")])
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 few_digits ")


def test_a_sampled_pipeline_is_drawn_several_times(workspace: Path) -> None:
    """Each draw is a dataset of its own, of equal size; a pipeline without a sample is refused."""
    current = open_round("mini", "mini", workspace=str(workspace), map_tasks=map_here)
    file = workspace / "half.yaml"
    step = {"hash_sample": {"fraction": 0.5, "seed": 7}}
    file.write_text(yaml.safe_dump({"name": "half", "steps": [step]}))
    drawn = stages.draws_of(stages.find_pipeline(current, str(file)), 3)
    assert [pipeline.name for pipeline in drawn] == ["half", "half-draw2", "half-draw3"]
    assert [pipeline.steps[0].operator.seed for pipeline in drawn] == [7, 8, 9]
    records = [stages.curate(current, pipeline).record for pipeline in drawn]
    assert len({record.id for record in records}) == 3
    assert {record.counts["rows_out"] for record in records} == {30}
    whole = stages.find_pipeline(current, str(workspace / "everything.yaml"))
    assert stages.draws_of(whole, 1) == [whole]
    with pytest.raises(PipelineError, match="everything draws no sample"):
        stages.draws_of(whole, 2)
