"""The contract of a benchmark, over all that are installed; and entry points that break it."""

from __future__ import annotations

import inspect

import orjson
import pytest
import typer

from leaderboard import benchmark as module
from leaderboard import rules
from leaderboard.benchmark import RecipeLike, StageOptions, Stages, load_stages
from leaderboard.rounds.commands import STAGES, command_line
from leaderboard.rounds.data_commands import baselines_command
from leaderboard.rounds.options import bind
from pipelines import installed
from pipelines.errors import PipelineError, RuleError

NAMES = sorted(installed.packages())


@pytest.mark.parametrize("name", NAMES)
def test_an_installed_benchmark_keeps_the_contract(name: str) -> None:
    stages = load_stages(name)
    assert isinstance(stages, Stages)
    assert stages.name == name
    assert (stages.package / "benchmark.yaml").is_file()
    for method, own in inspect.getmembers(type(stages), inspect.isfunction):
        promised = getattr(Stages, method, None)
        if promised is not None:
            assert list(inspect.signature(own).parameters) == list(
                inspect.signature(promised).parameters
            ), method
    assert issubclass(stages.pack_options, StageOptions)
    assert issubclass(stages.train_options, StageOptions)


@pytest.mark.parametrize("name", NAMES)
def test_every_scale_has_a_recipe_with_seeds_steps_and_a_budget(name: str) -> None:
    stages = load_stages(name)
    for scale in rules.load_benchmark(name).scales:
        recipe = stages.recipe(scale.recipe)
        assert recipe.seeds, scale.name
        assert stages.num_steps(recipe) > 0
        assert stages.budget(recipe) > 0
        position = stages.folder(scale.name, workspace="s3://b/w/")
        built = scale.name in stages.built_scales  # from packages, so always on this machine
        assert position.startswith("runs/" if built else "s3://b/w/pools/")


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_a_command(name: str) -> None:
    commands = {command.name for command in command_line(name).registered_commands}
    assert set(STAGES) <= commands


def test_an_entry_point_that_is_not_a_benchmark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load_stages.cache_clear()
    monkeypatch.setattr(module.installed, "load", lambda name: dict)
    with pytest.raises(RuleError, match="expected a class that inherits"):
        load_stages("anything")
    load_stages.cache_clear()


def test_a_field_of_the_options_model_is_an_option_with_its_bounds() -> None:
    from pydantic import Field
    from typer.testing import CliRunner

    class Options(StageOptions):
        """One bounded number."""

        most: int = Field(3, ge=1, description="how many at most")

    seen: list[object] = []

    def stage(*, benchmark: str, options: StageOptions | None, name: str = "n") -> None:
        seen.append((benchmark, options, name))

    app = typer.Typer()
    app.command()(bind(stage, benchmark="b", options=Options))
    assert CliRunner().invoke(app, ["--most", "5"]).exit_code == 0
    assert seen == [("b", Options(most=5), "n")]
    assert CliRunner().invoke(app, ["--most", "0"]).exit_code == 2
    assert "how many at most" in CliRunner().invoke(app, ["--help"]).output


def test_a_recipe_is_read_by_scale_and_seeds_alone() -> None:
    recipe: RecipeLike = load_stages(NAMES[0]).recipe("tiny")
    assert recipe.scale == "tiny"


@pytest.mark.parametrize("name", NAMES)
def test_baselines_are_listed_and_printed_as_they_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((load_stages(name).package / "baselines").glob("*.yaml"))
    for words in (None, ["list"]):
        baselines_command(benchmark=name, words=words)
        listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
        assert listed == [path.stem for path in files]
    for path in files:
        for words in ([path.stem], ["show", path.stem]):
            baselines_command(benchmark=name, words=words)
            assert capsys.readouterr().out.strip() == path.read_text(encoding="utf-8").strip()
        baselines_command(benchmark=name, words=[path.stem], json=True)
        assert orjson.loads(capsys.readouterr().out)["yaml"] == path.read_text("utf-8").strip()


def test_an_unknown_baseline_is_an_error_that_lists_them() -> None:
    with pytest.raises(PipelineError, match=r"no baseline .nope.; there are: .*no_filter"):
        baselines_command(benchmark="dclm", words=["nope"])
    for words in (["show"], ["show", "a", "b"], ["a", "b"]):
        with pytest.raises(PipelineError, match="expected list, show NAME or NAME"):
            baselines_command(benchmark="dclm", words=words)
