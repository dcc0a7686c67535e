"""Where training and evaluation run: options, this machine, Slurm; and what is refused at once."""

from __future__ import annotations

import json
import os
import sys

import pytest

from leaderboard.benchmark import load_stages
from leaderboard.rounds import launch
from leaderboard.rounds.training import TrainTask
from pipelines.errors import BatchError, FailedError, PipelineError, PlanError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.execution.gpus import Gpu, GpuMap

H100 = 80 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Says how many GPUs this machine has; no launcher has started this process."""
    for name in ("WORLD_SIZE", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)

    def has(count: int, memory: int = H100) -> None:
        there = [Gpu(str(number), "NVIDIA H100", memory) for number in range(count)]
        monkeypatch.setattr(launch, "gpus_here", lambda: there)

    has(0)
    return has


def test_all_gpus_are_used_and_the_first_line_says_so(machine, monkeypatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(launch, "say", lines.append)
    machine(8)
    placement = launch.choose()
    assert (placement.how, placement.num_processes, placement.gpus) == (
        "machine",
        8,
        tuple("01234567"),
    )
    stages = load_stages("dclm")
    launch.prepare(placement, stages, stages.recipe("400m-1x"))
    assert lines == ["using all 8 GPUs of this machine (NVIDIA H100)"]


def test_a_number_of_gpus_may_be_given(machine) -> None:
    machine(8)
    assert launch.choose(gpus=2).gpus == ("0", "1")
    with pytest.raises(PlanError, match="--gpus 9, but this machine has 8"):
        launch.choose(gpus=9)


def test_without_gpus_models_are_trained_side_by_side(machine) -> None:
    placement = launch.choose()
    assert placement.side_by_side
    assert "no GPU on this machine" in placement.line
    assert placement.spread(map_here) is map_here


def test_processes_train_one_model_together_on_processors(machine) -> None:
    placement = launch.choose(processes=2)
    assert (placement.how, placement.num_processes, placement.on_gpus) == ("machine", 2, False)


def test_gpus_can_be_left_alone(machine) -> None:
    machine(8)
    assert launch.choose(gpus=0).side_by_side


def test_questions_are_spread_over_the_gpus(machine) -> None:
    machine(2)
    spread = launch.choose().spread(ProcessMap(4))
    assert isinstance(spread, GpuMap)
    assert spread.ids == ("0", "1")


def test_a_process_of_torchrun_takes_its_part(machine, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch.choose().how == "group"
    with pytest.raises(PipelineError, match="leave out --gpus"):
        launch.choose(gpus=4)


@pytest.mark.parametrize(("benchmark", "scale"), [("dclm", "400m-1x"), ("datacomp", "medium")])
def test_a_large_scale_on_processors_is_refused_before_anything(machine, benchmark, scale) -> None:
    stages = load_stages(benchmark)
    with pytest.raises(PlanError, match=f"{scale} needs GPUs: on processors .* hours"):
        launch.prepare(launch.choose(), stages, stages.recipe(scale))


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp"])
def test_tiny_trains_on_processors(machine, benchmark: str) -> None:
    stages = load_stages(benchmark)
    launch.prepare(launch.choose(), stages, stages.recipe("tiny"))


def test_too_little_memory_has_the_sentence_of_the_plan(machine) -> None:
    machine(1, memory=24 << 30)
    stages = load_stages("dclm")
    with pytest.raises(PlanError, match=r"7b-1x needs .* GB a GPU for a single sequence on 1 GPUs"):
        launch.prepare(launch.choose(), stages, stages.recipe("7b-1x"))


def test_a_batch_that_does_not_divide(machine) -> None:
    stages = load_stages("datacomp")
    machine(7)  # 4096 samples
    placement = launch.prepare(launch.choose(), stages, stages.recipe("medium"))
    assert placement.gpus == ("0", "1", "2", "3")
    with pytest.raises(BatchError, match="7 GPUs cannot share the batch of 4096"):
        launch.prepare(launch.choose(gpus=7), stages, stages.recipe("medium"), fixed=True)


SRUN = """#!{python}
import json, os, sys
names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
seen = {{"arguments": sys.argv[1:], **{{name: os.environ[name] for name in names}}}}
open({seen!r}, "w").write(json.dumps(seen))
raise SystemExit({code})
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_slurm_job_of_several_nodes_trains_by_srun(machine, monkeypatch, tmp_path, code) -> None:
    machine(8)
    seen = tmp_path / "seen.json"
    programs = {
        "srun": SRUN.format(python=sys.executable, seen=str(seen), code=code),
        "scontrol": "#!/bin/sh\necho node-a\necho node-b\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node-[a-b]")
    monkeypatch.setenv("SLURM_JOB_ID", "1234")
    task = TrainTask(benchmark="dclm", recipe="1b-1x", packed="p", seed=124, out="m")
    placement = launch.choose()
    if code:
        with pytest.raises(FailedError, match="srun ended with 1"):
            launch.train(placement, task, run=_never)
    else:
        assert launch.train(placement, task, run=_never) == "m"
    content = json.loads(seen.read_text())
    assert content["arguments"][:3] == ["--kill-on-bad-exit=1", "--nodes=2", "--ntasks-per-node=8"]
    assert TrainTask.model_validate_json(content["arguments"][-1]) == task
    assert (content["MASTER_ADDR"], content["WORLD_SIZE"], content["LOCAL_WORLD_SIZE"]) == (
        "node-a", "16", "8",
    )  # fmt: skip


def _never(task: TrainTask) -> str:
    raise AssertionError("srun trains")
