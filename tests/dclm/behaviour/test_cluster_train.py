"""Ray Train starts the same training: the same losses, the same errors, and a lost process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import yaml

from dclm.training.train import train
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.train_log import read_metrics
from pipelines.console import main
from pipelines.execution.executors import WorkerLost
from pipelines.execution.ray_train import run_together

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def together(function, item: object, folder: Path, **options: object) -> None:
    settings = {"num_processes": 2, "use_gpu": False, "num_cpus": 1} | options
    run_together(function, item, address="local", folder=str(folder), **settings)


def test_two_processes_of_ray_give_the_losses_of_one(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    recipe = recipe.model_copy(update={"tokens": 15 * 8 * 32})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "one"))
    named = ["--scale", "tiny", "--recipe", str(tmp_path / "recipe.yaml"), "--packed", str(packed)]
    where = ["--out", str(tmp_path / "two"), "--cluster", "local", "--processes", "2"]
    with pytest.raises(SystemExit) as ended:
        main(command_line("dclm"), ["train", *named, *where])
    assert not ended.value.code
    first, second = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(first) == len(second) == 15
    np.testing.assert_allclose(
        [row.loss for row in second], [row.loss for row in first], atol=1e-4, rtol=0
    )
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"checkpoint.safetensors", "record.json", "chain.json"} <= left
    assert not {".ray", "checkpoints"} & left


def test_a_killed_process_starts_all_again_but_an_error_comes_back(tmp_path: Path) -> None:
    def die_then_fail(folder: str) -> None:
        (Path(folder) / f"{dist.get_rank()}-{os.getpid()}").touch()
        dist.barrier()
        if dist.get_rank() == 1:
            if len(list(Path(folder).iterdir())) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("broken on purpose: 7")
        dist.barrier()

    seen = tmp_path / "seen"
    seen.mkdir()
    with pytest.raises(ValueError, match="broken on purpose: 7"):
        together(die_then_fail, str(seen), tmp_path)
    assert sorted(path.name[0] for path in seen.iterdir()) == ["0", "0", "1", "1"]


@dataclass
class DiesOnce:
    """Kills the first worker of Ray Train that unpickles it: that is while it is started."""

    folder: str

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return _arrive, (self.folder,)


def _arrive(folder: str) -> str:
    import ray

    if ray.get_runtime_context().get_assigned_resources().get("CPU"):  # not the driver, nor Train's
        try:
            (Path(folder) / "died").touch(exist_ok=False)
        except FileExistsError:
            return folder
        os.kill(os.getpid(), signal.SIGKILL)
    return folder


def test_processes_that_die_while_they_start_do_not_keep_what_they_reserved(tmp_path: Path) -> None:
    """All of this machine's CPUs are asked for, so a second attempt needs those of the first."""
    seen = tmp_path / "seen"
    seen.mkdir()

    def arrived(folder: str) -> None:
        (Path(folder) / f"rank-{dist.get_rank()}").touch()

    together(arrived, DiesOnce(str(seen)), tmp_path)
    assert {path.name for path in seen.iterdir()} == {"died", "rank-0", "rank-1"}


def test_more_than_this_machine_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"2 processes need 2 GPUs, but this machine has 0"):
        together(print, 1, tmp_path, use_gpu=True)
    with pytest.raises(WorkerLost, match=r"2 processes need 6 CPUs, but this machine has 2"):
        together(print, 1, tmp_path, num_cpus=3)
