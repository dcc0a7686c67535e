"""Load a model by its name on the command line, here or in workers, and choose the executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from evals.models import ModelLoader
from evals.nulls import PREFIX, null_model
from evals.remote import remote_model, with_room
from evals.tasks import EvalError
from pipelines import installed
from pipelines.errors import DataError, PlanError
from pipelines.execution.choose import executor
from pipelines.execution.executors import MapTasks, Needs, Placed
from pipelines.execution.gpus import GpuMap, gpus_here
from pipelines.records import ModelRecord, parse_record


def load_model(model: str, *, trust_remote_code: bool, **named: Any) -> Any:
    """A model that implements its protocol: a null, a benchmark's own, or one from Hugging Face.

    `BENCHMARK:FOLDER` lets an installed benchmark open a folder without a record of ours, for
    example `dclm:FOLDER` for a checkpoint of open_lm. EvalError for a benchmark that is not
    installed, DataError for a record that is not a model.
    """
    if model.startswith(PREFIX):
        return null_model(model)
    name, colon, folder = model.partition(":")
    if colon and name in installed.packages():
        return _stages(name).load(folder, **named)
    record_file = Path(model) / "record.json"
    if not record_file.is_file():
        from evals.text import huggingface

        return huggingface.load(model, trust_remote_code=trust_remote_code, **named)
    record = parse_record(record_file.read_bytes(), source=str(record_file))
    if not isinstance(record, ModelRecord):
        raise DataError(f"{model} holds a {record.kind} record, not a model")
    name = record.work.benchmark
    if name not in installed.packages():
        raise EvalError(f"{model} is of the benchmark {name!r}, which is not installed here")
    return _stages(name).load(model, **named)


def _stages(name: str) -> ModelLoader:
    return cast("Callable[[], ModelLoader]", installed.load(name))()


def load_in_worker(
    model: str, trust_remote_code: bool, precision: str, exact: bool, batch_tokens: int | None
) -> Any:
    """The same in a worker, on the GPU assigned to it, if any."""
    return load_model(
        model,
        trust_remote_code=trust_remote_code,
        device=None,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )


def check_precision(precision: str) -> None:
    """EvalError for a precision other than fp32 and bf16."""
    if precision not in ("fp32", "bf16"):
        raise EvalError(f"unknown precision {precision!r}; choose fp32 or bf16")


def open_model(
    model: str,
    *,
    trust_remote_code: bool,
    device: str | None,
    precision: str,
    exact: bool,
    batch_tokens: int | None,
    workers: int,
    cluster: str | None,
    gpus: int | None,
) -> tuple[Any, MapTasks]:
    """A model, and the executor that evaluates it: here, in processes, on GPUs, or on a cluster.

    If GPUs or a cluster hold the weights, this process has only the model's id and limits.
    """
    spread = None if device or model.startswith(PREFIX) else spread_over(cluster, gpus)
    if spread is not None:
        spread = with_room(spread, model)
        arguments = (model, trust_remote_code, precision, exact, batch_tokens)
        return remote_model(load_in_worker, arguments, map_tasks=spread), spread
    loaded = load_model(
        model,
        trust_remote_code=trust_remote_code,
        device=device,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )
    return loaded, executor(workers, cluster=cluster)


def spread_over(cluster: str | None, gpus: int | None) -> MapTasks | None:
    """The executor of a cluster, or of this machine's GPUs; None without either.

    `gpus` None means all. PlanError when a machine has fewer.
    """
    if cluster is not None:
        workers = executor(cluster=cluster)
        if gpus == 0 or not isinstance(workers, Placed):
            return workers
        return workers.with_needs(Needs(num_gpus=1, optional_gpus=not gpus))
    there = gpus_here()
    if gpus is not None and gpus > len(there):
        raise PlanError(f"--gpus {gpus}, but this machine has {len(there)}; give a smaller number")
    ids = [gpu.id for gpu in there][:gpus]
    return GpuMap(ids) if ids else None
