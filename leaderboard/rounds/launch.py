"""Where training and evaluation run: this process, this machine's GPUs, a Ray cluster, or Slurm.

One decision for all commands, said in one line before anything starts, and checked against the
memory of the GPUs:

- inside a group that torchrun or `srun` started, this process is one of its processes;
- `--cluster`: processes of Ray Train, one for each of `--gpus` (default: all of the cluster);
- in a Slurm job of several nodes: `srun` starts a process for each GPU of each node;
- else one process for each GPU of this machine (`--gpus N`: only so many), or without any GPU
  `--processes` on its processors.

Models are trained one after another, each over all GPUs; questions of an evaluation are spread over
them. A GPU never has two tasks: see `pipelines.execution.gpus`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

from leaderboard.benchmark import RecipeLike, Stages
from leaderboard.rounds.mirror import working_folder
from leaderboard.rounds.training import TrainTask
from pipelines.errors import FailedError, PipelineError, PlanError
from pipelines.execution.executors import MapTasks, Needs, Placed
from pipelines.execution.gpus import Gpu, GpuMap, gpus_here
from pipelines.execution.progress import say
from pipelines.records import Frozen

Train = Callable[[TrainTask], str]


class Launch(Frozen):
    """How a command's models are trained and evaluated."""

    how: Literal["here", "group", "machine", "ray", "slurm"]
    num_processes: int = 1
    gpus: tuple[str, ...] = ()  # of this machine, as CUDA_VISIBLE_DEVICES names them
    on_gpus: bool = False
    memory_bytes: int = 0  # of the smallest GPU, 0: unknown
    address: str | None = None  # of Ray
    line: str = ""

    @property
    def side_by_side(self) -> bool:
        """Whether models are trained next to each other, a process each."""
        return self.how == "here" and not self.on_gpus

    def spread(self, map_tasks: MapTasks) -> MapTasks:
        """The executor for the parts of an evaluation."""
        if self.how in ("here", "machine", "slurm") and self.gpus:
            return GpuMap(self.gpus)
        if self.how == "ray" and self.on_gpus and isinstance(map_tasks, Placed):
            return map_tasks.with_needs(Needs(num_gpus=1))
        return map_tasks


def choose(
    *, cluster: str | None = None, gpus: int | None = None, processes: int | None = None
) -> Launch:
    """The place that these options and this machine give. PlanError says what does not fit."""
    if gpus and processes:
        raise PipelineError("give --gpus N or --processes N (without GPUs), not both")
    if _is_in_group():
        if gpus or processes or cluster:
            raise PipelineError(
                "torchrun or srun has started this process and decides how many there are; leave "
                "out --gpus, --processes and --cluster"
            )
        return Launch(how="group", on_gpus=bool(gpus_here()))
    if cluster is not None:
        return _on_ray(cluster, gpus, processes)
    if int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1:
        return _on_slurm(gpus)
    there = gpus_here()
    if processes or gpus == 0 or not there:
        if gpus:
            raise PlanError(
                f"--gpus {gpus}, but this machine has no GPU; leave the option out to use its "
                "processors, or name a cluster: --cluster ADDRESS"
            )
        count = processes or 1
        note = "no GPU on this machine: " if not there else ""
        line = f"{note}training on its processors, {count} process{'es' * (count > 1)} a model"
        return Launch(how="machine" if count > 1 else "here", num_processes=count, line=line)
    if gpus is not None and gpus > len(there):
        raise PlanError(f"--gpus {gpus}, but this machine has {len(there)}; give a smaller number")
    return _on_machine(there, gpus)


def _is_in_group() -> bool:
    """Whether torchrun or `srun` started this process together with others."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return True
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _on_machine(there: list[Gpu], gpus: int | None) -> Launch:
    used = there[: gpus or len(there)]
    names = ", ".join(dict.fromkeys(gpu.name for gpu in used))
    which = "all" if len(used) == len(there) else f"{len(used)} of"
    return Launch(
        how="machine",
        num_processes=len(used),
        gpus=tuple(gpu.id for gpu in used),
        on_gpus=True,
        memory_bytes=min(gpu.memory_bytes for gpu in used),
        line=f"using {which} {len(there)} GPU{'s' * (len(there) > 1)} of this machine ({names})",
    )


def _on_ray(address: str, gpus: int | None, processes: int | None) -> Launch:
    from pipelines.execution.ray_executor import RayMap

    if gpus is None and processes is None:
        gpus = RayMap(address).num_gpus_there()
    if not gpus and processes is None:  # models side by side, as tasks of the cluster
        return Launch(how="here", address=address, line=f"training on processors of {address}")
    count = gpus or processes or 1
    what = f"{count} GPUs" if gpus else f"processors, {count} process{'es' * (count > 1)} a model,"
    return Launch(
        how="ray",
        num_processes=count,
        on_gpus=bool(gpus),
        address=address,
        line=f"using {what} of the Ray cluster {address}",
    )


def _on_slurm(gpus: int | None) -> Launch:
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    there = gpus_here()
    each = len(there) or 1
    if gpus is not None and gpus != nodes * each:
        raise PlanError(
            f"--gpus {gpus}, but the Slurm job has {nodes} nodes of {each}; leave the option out"
        )
    return Launch(
        how="slurm",
        num_processes=nodes * each,
        gpus=tuple(gpu.id for gpu in there),
        on_gpus=bool(there),
        memory_bytes=min((gpu.memory_bytes for gpu in there), default=0),
        line=f"training by srun on {nodes} nodes, {each} process{'es' * (each > 1)} each",
    )


def prepare(
    launch: Launch, stages: Stages[RecipeLike], recipe: RecipeLike, *, fixed: bool = False
) -> Launch:
    """Say where training will run and refuse what cannot work, before anything is spent.

    Where the batch does not divide over all GPUs of a machine and none were asked for by number
    (`fixed`), as many are used as divide it. PlanError has the plan's own sentence.
    """
    count = launch.num_processes
    if launch.how == "machine" and launch.gpus and not fixed:
        while count > 1 and not stages.divides(recipe, count):
            count -= 1
        if count < launch.num_processes:
            launch = launch.model_copy(
                update={
                    "num_processes": count,
                    "gpus": launch.gpus[:count],
                    "line": f"{launch.line}: {count} of them divide the batch",
                }
            )
    if launch.line:
        say(launch.line)
    if launch.how != "group":
        stages.check_room(
            recipe,
            num_gpus=launch.num_processes if launch.on_gpus else 0,
            num_processes=launch.num_processes,
            memory_bytes=launch.memory_bytes,
        )
    return launch


def train(launch: Launch, task: TrainTask, *, run: Train) -> str:
    """Train one model where the launch says; returns its folder."""
    if launch.how == "machine":
        from pipelines.execution.together import run_here_together

        run_here_together(
            run,
            task,
            num_processes=launch.num_processes,
            gpus=launch.gpus,
            num_threads=task.num_threads,
        )
        return task.out
    if launch.how == "ray":
        from pipelines.execution.ray_train import run_together

        assert launch.address is not None
        run_together(
            run,
            task,
            address=launch.address,
            num_processes=launch.num_processes,
            use_gpu=launch.on_gpus,
            num_cpus=task.num_threads,
            folder=working_folder(task.out),
        )
        return task.out
    if launch.how == "slurm":
        _by_srun(launch, task)
        return task.out
    return run(task)


def trainer(launch: Launch, run: Train) -> Train:
    """`train` with its place bound: what a bar is drawn around."""
    return partial(_train_task, launch=launch, run=run)


def round_trainer(launch: Launch, run: Train) -> Train | None:
    """`trainer` for the models of a round; None where they are trained side by side, by tasks."""
    return None if launch.side_by_side else trainer(launch, run)


def _train_task(task: TrainTask, *, launch: Launch, run: Train) -> str:
    return train(launch, task, run=run)


def _by_srun(launch: Launch, task: TrainTask) -> None:
    """One process for each GPU of each node, as deploy/slurm-train.sh starts them."""
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    each = launch.num_processes // nodes
    names = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    hosts = subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()
    environment = os.environ | {
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000),
        "WORLD_SIZE": str(launch.num_processes),
        "LOCAL_WORLD_SIZE": str(each),
        "OMP_NUM_THREADS": str(task.num_threads),
    }
    command = [
        *("srun", "--kill-on-bad-exit=1", f"--nodes={nodes}", f"--ntasks-per-node={each}"),
        *(sys.executable, "-m", "leaderboard.rounds.launch", task.model_dump_json()),
    ]
    ended = subprocess.run(command, env=environment)
    if ended.returncode:
        raise FailedError(
            f"srun ended with {ended.returncode} while training into {task.out}; its lines are "
            "above. What was written is kept: run the same command again"
        )


def main() -> None:
    """One process of `srun`: take the rank that Slurm gave and train its part."""
    from leaderboard.rounds.training import run_training

    os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
    os.environ.setdefault("LOCAL_RANK", os.environ["SLURM_LOCALID"])
    run_training(TrainTask.model_validate_json(sys.argv[1]))


if __name__ == "__main__":
    main()
