"""The best mixture from proxy runs, by the command; no model is trained here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import yaml

from dclm.curation import swarm
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.workspace import open_round
from pipelines.console import main
from pipelines.engine.run import run
from pipelines.execution.executors import map_here
from pipelines.formats.mix_shares import count_sources, units_of
from pipelines.formats.mixture import load_mixture
from pipelines.formats.pool import open_pool
from pipelines.mixing.swarm import read_runs, write_runs
from pipelines.pipeline import Pipeline

NAMES = ["web/bad", "web/fair", "web/good"]
BEST = np.array([0.2, 0.5, 0.3])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three topics of 400, 400 and 200 tokens; the target is 1,000 tokens, at most once each."""
    folder = tmp_path_factory.mktemp("swarm")
    (folder / "pool").mkdir()
    topics = ["bad"] * 4 + ["fair"] * 4 + ["good"] * 2
    lines = [orjson.dumps({"text": "0123456789" * 40, "topic": topic}) for topic in topics]
    (folder / "pool" / "0.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    run(Pipeline.from_steps([], name="all"), open_pool(str(folder / "pool")), out=str(folder / "s"))
    source = {"dataset": str(folder / "s"), "name": "web", "by": "topic"}
    content = {"sources": [source], "total_tokens": 1000, "temperature": 1.0, "max_repeat": 1.0}
    content |= {"bytes_per_token": 4.0}
    (folder / "mixture.yaml").write_text(yaml.safe_dump(content))
    return folder / "mixture.yaml"


def losses_of(shares: np.ndarray) -> np.ndarray:
    return 2 + ((shares - BEST) ** 2).sum(axis=1)


def test_the_planted_optimum_is_written_within_its_bounds(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = np.random.default_rng(3).dirichlet(np.ones(3), 30)
    write_runs(tmp_path / "runs.csv", NAMES, shares, "loss", losses_of(shares))
    best = tmp_path / "best.yaml"
    arguments = ["mix-fit", str(config), "--runs", str(tmp_path / "runs.csv"), "--out", str(best)]
    with pytest.raises(SystemExit) as ended:
        main(command_line("dclm"), arguments)
    assert ended.value.code in (0, None)
    assert "quadratic fit of 30 runs" in capsys.readouterr().out
    made = load_mixture(best)
    assert made.shares is not None
    # bounds .4, .4 and .2: the second is cut by .1, the third by .1, and the first takes both
    assert [made.shares[name] for name in NAMES] == pytest.approx([0.4, 0.4, 0.2], abs=1e-6)


def test_every_proxy_is_mixed_trained_and_measured(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in trainer's loss is that of the shares in the packed dataset's record."""
    arms = []

    def evaluate(current: object, trained: list[np.ndarray], **_: object) -> list[float]:
        return [float(losses_of(shares[None])[0]) for shares in trained]

    def train(_: object, packed: list[tuple[object, str]], **__: object) -> list[np.ndarray]:
        for curated, _ in packed:
            rows = curated.record.work.pipeline["mix"]["sources"]  # type: ignore[attr-defined]
            taken = np.array([row["repeat"] for row in rows]) * [400, 400, 200]
            arms.append(taken / taken.sum())
        return arms

    def opened(value: float) -> SimpleNamespace:
        results = SimpleNamespace(aggregates={"bits_per_byte": SimpleNamespace(value=value)})
        return SimpleNamespace(record=SimpleNamespace(results=results))

    monkeypatch.setattr(swarm.stages, "pack", lambda current, curated: curated.dataset)
    monkeypatch.setattr(swarm.training, "train", train)
    monkeypatch.setattr(swarm.stages, "evaluate", evaluate)
    monkeypatch.setattr(swarm, "open_run", opened)
    current = open_round("dclm", "tiny", workspace=str(tmp_path / "runs"), map_tasks=map_here)
    mixture = load_mixture(config)
    counted = count_sources(mixture)
    made = swarm.run_swarm(
        current,
        mixture,
        counted,
        units_of(mixture, counted),
        name="m",
        num_runs=6,
        seed=0,
        out=tmp_path / "runs.csv",
        where_to_train=Launch(how="here"),
    )
    assert made.metric == "bits_per_byte"
    assert np.allclose(np.array(made.shares), np.array(arms), atol=1e-4)
    assert made.shares[0] == pytest.approx((0.4, 0.4, 0.2))  # as it is, by temperature 1
    runs = read_runs(tmp_path / "runs.csv", NAMES, None)
    assert np.allclose(runs.losses, losses_of(np.array(arms)))
