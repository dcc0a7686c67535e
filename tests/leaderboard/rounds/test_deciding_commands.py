"""`noise`, `sweep`, `cross` and the low-rate check, played on the small benchmark."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from leaderboard import rules
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.deciding import power_before
from leaderboard.rounds.experiments import Experiment
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.noise import noise_file, own_noise
from leaderboard.rounds.notebook import Notebook
from leaderboard.rounds.workspace import Curated
from pipelines.errors import PipelineError, RuleError
from pipelines.records import Score, ScoresRecord, ScoresResults

HEADLINE = "bits_per_byte"


@pytest.fixture(scope="module")
def workspace(minibench: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with pipelines; `no_filter` is a baseline of the small benchmark here."""
    baselines = minibench / "minibench" / "baselines"
    baselines.mkdir(exist_ok=True)
    (baselines / "no_filter.yaml").write_text(yaml.safe_dump({"name": "no_filter", "steps": []}))
    rules.baselines.cache_clear()
    folder = tmp_path_factory.mktemp("deciding")
    pipelines = {
        "half": [{"hash_sample": {"fraction": 0.5}}],
        "prose": ["exact_dedup", {"word_count": {"min_words": 5}}, {"stop_words": {}}],
    }
    for name, steps in pipelines.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "steps": steps}))
    yield folder
    (baselines / "no_filter.yaml").unlink()  # other modules have the benchmark without it
    rules.baselines.cache_clear()


def run(command: str, *arguments: str, workspace: Path) -> str:
    return str(invoked(command, *arguments, workspace=workspace).stdout)


def invoked(command: str, *arguments: str, workspace: Path) -> Any:
    common = ["--scale", "mini", "--workspace", str(workspace), "--workers", "1", "--gpus", "0"]
    result = CliRunner().invoke(command_line("mini"), [command, *arguments, *common])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def planted(*, better: str = "", seeds: float = 0.01) -> Callable[..., list[list[ScoresRecord]]]:
    """In place of training: scores by budget, rate, seed and dataset; `better` is ahead by 0.3."""

    def scores(
        chosen: Experiment, datasets: Sequence[Curated], numbers: Sequence[int], _: Launch
    ) -> list[list[ScoresRecord]]:
        recipe: Any = chosen[0].recipe
        base = 3.0 - 0.2 * math.log(recipe.tokens / 5120) + 0.01 * (recipe.data_seed - 124)
        return [
            [
                made_scores(base + seeds * (seed - 124) - 0.3 * (dataset.method == better))
                for seed in numbers
            ]
            for dataset in datasets
        ]

    return scores


def made_scores(value: float) -> ScoresRecord:
    score = Score(metric=HEADLINE, value=value, stderr=0.02, num_items=700, higher_is_better=False)
    results = ScoresResults(tasks=(), aggregates={HEADLINE: score})
    return ScoresRecord.model_construct(results=results)


def test_noise_is_measured_by_training_and_read_by_plan(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert power_before("mini", "mini", workspace=str(workspace)) is None
    options = ["--seeds", "2", "--orders", "2", "--draws", "1"]
    shown = run("noise", *options, workspace=workspace)
    assert "no_filter with 2 seeds in 2 orders of its data" in shown
    assert "For `noise` in the rule book:" in shown
    report = json.loads(run("noise", *options, "--json", workspace=workspace))
    first = report["measured"][0]
    assert first["metric"] == HEADLINE
    assert len({score for row in first["scores"] for score in row}) == 4  # all were trained
    assert [part["name"] for part in first["components"]] == ["seed", "order"]
    known = own_noise("mini", "mini", HEADLINE, str(workspace))
    assert known is not None
    power = power_before("mini", "mini", seeds=3, workspace=str(workspace))
    assert power is not None
    assert power.noise == known
    assert f"{known.seed_sd:.4g} over seeds" in power.line
    of_one_seed = power_before("mini", "mini", seeds=1, workspace=str(workspace))
    assert of_one_seed is not None
    said: list[str] = []
    for module in ("commands", "training"):
        monkeypatch.setattr(f"leaderboard.rounds.{module}.say", said.append)
    run("run", "--pipeline", "no_filter", workspace=workspace)
    assert said.index(of_one_seed.line) < said.index("no_filter: seed 124 trained before")


def test_planted_noise_of_seed_and_order(workspace: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("leaderboard.rounds.noise.scores_of", planted(seeds=0.05))
    half = str(workspace / "half.yaml")
    options = ["--seeds", "3", "--orders", "4", "--draws", "3", "--sample", half, "--json"]
    report = json.loads(run("noise", *options, workspace=workspace))
    [measured] = report["measured"]
    seed, order, drawn = measured["components"]
    assert seed["sd"] == pytest.approx(0.05)  # 0, .05, .10
    assert order["sd"] == pytest.approx(0.01 * (5 / 3) ** 0.5)  # 0, .01, .02, .03
    assert drawn["sd"] == 0  # the planted samples are equal
    assert measured["questions"] == pytest.approx(0.02)
    assert 0.3 < measured["noise"]["draw_fraction"] < 0.7  # about half of 60 rows, as they fell
    noise_file("mini", "mini", str(workspace)).unlink()


def test_a_damaged_table_of_noise_is_named(workspace: Path, tmp_path: Path) -> None:
    path = noise_file("mini", "mini", str(tmp_path))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(RuleError, match=r"noise.json is not a table of noise.*mini noise"):
        own_noise("mini", "mini", HEADLINE, str(tmp_path))


def test_a_sweep_tables_all_points_and_counts_them_as_tries(workspace: Path) -> None:
    prose = str(workspace / "prose.yaml")
    before = Notebook(str(workspace), "mini", "mini").tries()
    shown = run(
        "sweep", prose, "--over", "min_stop_words=2,3", "--over", "word_count.min_words=5",
        "--json", workspace=workspace,
    )  # fmt: skip
    made = json.loads(shown)
    assert sorted(point["values"]["min_stop_words"] for point in made["points"]) == [2, 3]
    assert made["points"][0]["rank"] <= made["points"][1]["rank"]
    assert {point["values"]["word_count.min_words"] for point in made["points"]} == {5}
    assert made["baseline"] is not None
    after = Notebook(str(workspace), "mini", "mini").tries()
    assert after - before == 2


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("min", "expected NAME=VALUE"),
        ("nothing=1", "no step has it"),
        ("min_words=1,1", "twice"),
        ("min_words=x", r"step 2 \(word_count\): min_words=x"),
    ],
)
def test_a_sweep_refuses_what_it_cannot_vary(workspace: Path, over: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        run("sweep", str(workspace / "prose.yaml"), "--over", over, workspace=workspace)


def test_curves_cross_and_are_drawn(workspace: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("leaderboard.rounds.budgets.scores_of", planted(better="prose"))
    plot = workspace / "curves.svg"
    arguments = ["--pipeline", str(workspace / "prose.yaml")]
    options = ["--budgets", "0.25,0.5,1,4", "--repeat", "2", "--plot", str(plot)]
    made = json.loads(run("cross", *arguments, *options, "--json", workspace=workspace))
    assert set(made["points"]) == {"no_filter", "prose"}
    budgets = [point["budget"] for point in made["points"]["prose"]]
    assert budgets[3] == pytest.approx(16 * budgets[0], rel=0.05)
    [verdict] = made["crossings"]
    assert (verdict["first"], verdict["outcome"]) == ("no_filter", "second ahead")
    # 0.3 nats, where a factor e of the budget is worth 0.2: exp(1.5) = 4.5 times the data, which
    # is read between the budgets 1 and 4 on a line, and not at all beyond 4.
    first, second, *rest = made["prices"]["prose"]
    assert first["times"] == pytest.approx(math.exp(1.5), rel=0.1)
    assert second["times"] == pytest.approx(math.exp(1.5), rel=0.1)
    assert [price["times"] for price in rest] == [None, None] or rest[0]["times"] is not None
    root = ET.fromstring(plot.read_text())
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2
    shown = run("cross", *arguments, *options, workspace=workspace)
    assert "prose is ahead from" in shown
    with pytest.raises(RuleError, match="at least four"):
        run("cross", *arguments, "--budgets", "1,2", workspace=workspace)


def test_the_low_rate_check_of_a_round(workspace: Path, monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr("leaderboard.rounds.commands.say", said.append)
    rates: list[float] = []

    def scores(chosen: Experiment, datasets: Any, seeds: Any, _: Any) -> Any:
        recipe: Any = chosen[0].recipe
        rates.append(recipe.learning_rate)
        usual = recipe.learning_rate == rates[0]
        ahead = "prose" if usual else "no_filter"
        return planted(better=ahead, seeds=0.001)(chosen, datasets, seeds, _)

    monkeypatch.setattr("leaderboard.rounds.budgets.scores_of", scores)
    arguments = ["--pipeline", "no_filter", "--pipeline", str(workspace / "prose.yaml")]
    check = ["--recipe-check", "low-rate"]
    with pytest.raises(RuleError, match="--repeat 2"):
        invoked("run", *arguments, *check, workspace=workspace)
    run("run", *arguments, "--repeat", "2", *check, workspace=workspace)
    assert rates[1] == pytest.approx(rates[0] / 10)
    assert "the order of no_filter and prose flips" in said[-1]
    with pytest.raises(RuleError, match="at least two"):
        run("run", *arguments[2:], *check, workspace=workspace)
