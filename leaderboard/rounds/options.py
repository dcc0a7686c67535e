"""Options of stage commands: those that all benchmarks share, and a benchmark's own as a model."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from leaderboard.benchmark import StageOptions
from pipelines.console import Cluster
from pipelines.errors import UsageError
from pipelines.option_groups import grouped

if TYPE_CHECKING:
    from leaderboard.rounds.launch import Launch
    from leaderboard.rounds.workspace import Round

Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]
Track = Annotated[
    str | None, typer.Option(help="A track of the rule book, where it has a pool of its own.")
]
Workspace = Annotated[str, typer.Option(help="Folder of pools, datasets, models and submissions.")]
Processes = Annotated[
    int, typer.Option("--workers", min=1, help="Processes on this machine; default: its cores.")
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, help="GPUs for training and evaluation; default: all there are. 0: none."
    ),
]
TrainProcesses = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Train in this many processes, without GPUs."),
]
RecipeFile = Annotated[
    str | None,
    typer.Option("--recipe", help="An experimental recipe file: its results cannot be submitted."),
]
Quarantine = Annotated[
    bool, typer.Option("--quarantine", help="Set bad rows aside instead of stopping.")
]
RUNS = "runs"
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Resources:
    """The workspace of a round, and the machines that work on it."""

    workspace: Workspace = RUNS
    workers: Processes = CORES
    cluster: Cluster = None
    gpus: Gpus = None
    processes: TrainProcesses = None

    def open_round(
        self,
        benchmark: str,
        scale: str,
        *,
        recipe: str | None = None,
        data: str | None = None,
        track: str | None = None,
    ) -> Round:
        """The round of a scale; `recipe` is an experimental recipe's file."""
        from leaderboard.rounds.workspace import open_round
        from pipelines.execution.choose import executor

        return open_round(
            benchmark,
            scale,
            workspace=self.workspace,
            map_tasks=executor(self.workers, cluster=self.cluster),
            recipe=recipe,
            data=data,
            track=track,
        )

    def launch(self, current: Round) -> Launch:
        """Where the round's models are trained; prints it. PlanError where they cannot be."""
        from leaderboard.rounds import launch

        chosen = launch.choose(cluster=self.cluster, gpus=self.gpus, processes=self.processes)
        fixed = self.gpus is not None
        return launch.prepare(chosen, current.stages, current.recipe, fixed=fixed)


@dataclass(frozen=True)
class PlanOptions:
    """The GPUs that a training run is planned on; or, in place of a plan, what a gap takes."""

    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs.")] = None
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, a100-40 or l40s.")] = "h100"
    price: Annotated[float | None, typer.Option(help="Dollars of one GPU for an hour.")] = None
    detect: Annotated[
        float | None, typer.Option(help="Instead: the seeds that a gap of the headline takes.")
    ] = None
    budget: Annotated[
        str | None, typer.Option(help="Instead: the gap that can be seen, as with `3 seeds`.")
    ] = None
    workspace: Workspace = RUNS
    recipe: RecipeFile = None

    def show_power(self, benchmark: str, scale: str, *, json: bool) -> bool:
        """Print what `--detect` or `--budget` asks for; False where neither is given."""
        from leaderboard.rounds.deciding import show_power

        if self.detect is None and self.budget is None:
            return False
        show_power(
            benchmark,
            scale,
            detect=self.detect,
            budget=self.budget,
            json=json,
            workspace=self.workspace,
        )
        return True

    def num_gpus(self) -> int:
        """UsageError where `--gpus` is not given."""
        if self.gpus is None:
            raise UsageError("plan needs --gpus N; or --detect GAP or --budget '3 seeds'")
        return self.gpus


BENCHMARK, OPTIONS = "benchmark", "options"  # parameters of a stage function that `bind` fills


def bind(
    function: Callable[..., None], *, benchmark: str, options: type[StageOptions] | None = None
) -> Callable[..., None]:
    """A command of one benchmark from a stage function that takes `benchmark` (and `options`).

    Groups of options are spelled out (`pipelines.option_groups`), and the fields of the options
    model are in the place of the parameter `options`: typer shows and checks them like any other.
    """
    function = grouped(function)
    signature = inspect.signature(function)
    fields = options.model_fields if options is not None else {}
    parameters = []
    for name, parameter in signature.parameters.items():
        if name == OPTIONS:
            parameters += [_parameter(field, info) for field, info in fields.items()]
        elif name != BENCHMARK:
            parameters.append(parameter)
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    optional = [p for p in parameters if p.default is not inspect.Parameter.empty]

    @wraps(function)
    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in fields}
        if OPTIONS in signature.parameters:
            given[OPTIONS] = None if options is None else options(**own)
        function(benchmark=benchmark, **given)

    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in required + optional]
    )
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


def _parameter(name: str, info: FieldInfo) -> inspect.Parameter:
    """The option of a model's field: its type, bounds, default, description and other `flags`."""
    low = next((m.ge for m in info.metadata if isinstance(m, Ge)), None)
    high = next((m.le for m in info.metadata if isinstance(m, Le)), None)
    flag = f"--{name.replace('_', '-')}"
    bounds: dict[str, Any] = {} if low is None and high is None else {"min": low, "max": high}
    if info.annotation == bool | None:  # neither is a third answer: the benchmark decides
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    more = (
        info.json_schema_extra.get("flags", []) if isinstance(info.json_schema_extra, dict) else []
    )
    option = typer.Option(flag, *cast("list[str]", more), help=info.description, **bounds)
    default = inspect.Parameter.empty if info.default is PydanticUndefined else info.default
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[info.annotation, option],
    )
