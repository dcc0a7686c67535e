"""Samplers that restore images from measurements with any denoiser as the prior: a solver.

A solver is a sampler with its parameters, for one or for all kinds of measurement:

    name: my_dps
    sampler: dps                      # or mine.py:restore, a function of a Problem
    parameters: {zeta: 0.8}
    of: {block means: {zeta: 0.3}}    # other parameters for one kind

Samplers here: `dps` and `a_dps` (`evals.images.posterior`); `projection`, which sets the estimate
to what was measured at every level (Wang et al. 2023, "DDNM"); and two that show what a solver has
to beat, `adjoint` without a prior and `prior` without measurements. A sampler may evaluate the
denoiser `EVALUATIONS_A_STEP` times as often as the task has steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, ValidationError
from torch import Tensor

from evals.images import posterior
from evals.images.sampling import Denoiser, schedule
from evals.models import ImageGenerator, ModelError
from evals.tasks import EVALUATIONS_A_STEP, EvalError
from pipelines.errors import PipelineError
from pipelines.participant_code import load_module, module_of
from pipelines.records import Frozen, Module
from pipelines.yaml_text import load_plain

LOW, HIGH = 0.01, 20.0  # noise levels of guided samplers; pixels are within [-1, 1]

Measured = Literal["fourier lines", "pixels", "block means"]


@dataclass
class Problem:
    """One sample of each row is asked for: images (rows, *shape) whose measurements are `y`.

    `start` is noise of level 1, the only random numbers there are. `denoise(x, sigma, mask)`
    estimates clean images at one level a row; it may be differentiated, and counts its calls.
    """

    model: Denoiser
    operator: posterior.Operator
    y: Tensor
    start: Tensor
    steps: int
    masked: bool = False
    calls: int = field(default=0, init=False)

    def denoise(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """E[x0 | x]. ModelError beyond the budget."""
        self.calls += len(x)
        most = EVALUATIONS_A_STEP * self.steps
        if self.calls > most * len(self.start):
            raise ModelError(f"the solver evaluates the model more than {most} times for a sample")
        return self.model(x, sigma, mask)

    def sigmas(self) -> Tensor:
        """Falling noise levels, the last 0."""
        return schedule(self.steps, low=LOW, high=HIGH)


def dps(problem: Problem, *, zeta: float = 1.0) -> Tensor:
    """Diffusion posterior sampling (Chung et al. 2023)."""
    return _guided(problem, zeta, None)


def a_dps(problem: Problem, *, zeta: float = 1.0, hidden: float = 0.25, seed: int = 0) -> Tensor:
    """The same for a model of masked images, which sees all but a `hidden` part of the pixels."""
    if not problem.masked:
        raise ModelError("a_dps needs a model that was trained on masked images; use dps")
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 1, *problem.start.shape[2:])
    kept = torch.rand(shape, generator=generator, dtype=torch.float64) >= hidden
    return _guided(problem, zeta, kept.to(problem.start.dtype).expand_as(problem.start))


def _guided(problem: Problem, zeta: float, mask: Tensor | None) -> Tensor:
    sigmas = problem.sigmas()
    start = problem.start * sigmas[0]
    return posterior.sample(
        problem.denoise, problem.operator, problem.y, start, sigmas, zeta=zeta, mask=mask
    )


@torch.no_grad()
def projection(problem: Problem, *, strength: float = 1.0) -> Tensor:
    """At every level, move the estimate to the measurements by their adjoint, of norm at most 1."""
    sigmas = problem.sigmas()
    x = problem.start * sigmas[0]
    for here, after in itertools.pairwise(sigmas):
        estimate = problem.denoise(x, here.to(x.dtype).expand(len(x)))
        gap = problem.operator.adjoint(problem.y - problem.operator(estimate))
        estimate = estimate + strength * gap
        x = x + (after - here).to(x.dtype) * (x - estimate) / here.to(x.dtype)
    return x


def adjoint(problem: Problem) -> Tensor:
    """The zero-filled image: measurements without a prior."""
    return problem.operator.adjoint(problem.y)


def prior(problem: Problem) -> Tensor:
    """An image of the model that knows nothing of the measurements."""
    return projection(problem, strength=0.0)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function for function in (dps, a_dps, projection, adjoint, prior)
}


class Solver(Frozen):
    """A sampler by name, or a function of an embedded file, and its parameters."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)
    sampler: str
    parameters: dict[str, float] = Field(default_factory=dict)
    of: dict[Measured, dict[str, float]] = Field(default_factory=dict)
    module: Module | None = None

    def function(self) -> Callable[..., Tensor]:
        """EvalError for a sampler that there is not."""
        if self.module is None:
            if self.sampler not in SAMPLERS:
                known = ", ".join(SAMPLERS)
                raise EvalError(
                    f"solver {self.name}: there is no sampler {self.sampler!r}; choose one of "
                    f"{known}, or name a function as mine.py:restore"
                )
            return SAMPLERS[self.sampler]
        name = self.sampler.partition(":")[2]
        function: Any = getattr(load_module(self.module), name, None)
        if not callable(function):
            raise EvalError(f"solver {self.name}: {self.module.name} has no function {name!r}")
        return function  # type: ignore[no-any-return]

    def __call__(self, problem: Problem, measured: Measured) -> Tensor:
        """One sample of each row. ModelError for what are no finite images of their shape."""
        parameters = self.parameters | self.of.get(measured, {})
        try:
            samples = self.function()(problem, **parameters)
        except TypeError as error:
            raise ModelError(f"solver {self.name}, {measured}: {error}") from None
        if not isinstance(samples, Tensor) or samples.shape != problem.start.shape:
            shape = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
            raise ModelError(
                f"solver {self.name}, {measured}: it returned {shape}, expected a tensor of "
                f"{tuple(problem.start.shape)}"
            )
        return samples.detach().to(problem.start.dtype)


def read_solver(path: Path) -> Solver:
    """A solver's YAML file; the code that it names is embedded. EvalError names what is wrong."""
    try:
        values: Any = load_plain(path.read_text(encoding="utf-8"))
        sampler = str(values["sampler"]) if isinstance(values, dict) else ""
        file, _, function = sampler.partition(":")
        if function:
            values = values | {"module": module_of(path.parent / file)}
        solver = Solver.model_validate(values)
    except FileNotFoundError:
        raise EvalError(f"there is no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, PipelineError) as error:
        raise EvalError(f"{path}: {error}") from None
    except KeyError as error:
        raise EvalError(f"{path}: {error} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvalError(f"{path}: {where}: {first['msg']}") from None
    solver.function()
    return solver


def named_solver(name: str) -> Solver:
    """A solver's .yaml file, or a sampler of this module with its own parameters."""
    if name.endswith((".yaml", ".yml")):
        return read_solver(Path(name))
    solver = Solver(name=name, sampler=name)
    solver.function()
    return solver


class Solved:
    """An image generator whose images are restored by a solver in place of the task's own."""

    def __init__(self, model: ImageGenerator, solver: Solver) -> None:
        self.model, self.solver = model, solver
        self.id, self.shape, self.denoiser = model.id, model.shape, model.denoiser
        self.settings = {**model.settings, "solver": solver.model_dump(mode="json")}

    def __hash__(self) -> int:
        return hash((self.id, self.solver.model_dump_json()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Solved) and hash(self) == hash(other)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.model, name)


def as_recorded(model: Any, settings: Any, *, run_code: bool = False) -> Any:
    """The model with the solver that a record's settings name, if they do.

    EvalError for one with code of its own, unless `run_code`.
    """
    named = settings.get("solver") if isinstance(settings, dict) else None
    if named is None:
        return model
    solver = Solver.model_validate(named)
    if solver.module is not None and not run_code:
        raise EvalError(
            f"solver {solver.name} is code of the participant ({solver.module.name}); read it, "
            "then run again with --run-code"
        )
    return Solved(model, solver)
