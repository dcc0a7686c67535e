"""A pipeline: a named, ordered list of operators, written in YAML or as a Python list.

    name: my_pipeline
    steps:
      - exact_dedup                      # an operator with its defaults
      - word_count: {min: 50}            # an operator with parameters
      - my_filters.py:MyFilter: {}       # a participant's own, from a file next to the YAML

It is planned into passes: row-wise operators between two global ones run shard by shard in one go.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pydantic import Field

from pipelines import dclm_yaml
from pipelines.assets.catalogue import Assets
from pipelines.errors import PipelineError, did_you_mean
from pipelines.operators import GLOBAL_KINDS, Operator, Select
from pipelines.participant_code import helpers_of, local_packages, module_of, package_of
from pipelines.records import JSON, Frozen, Module
from pipelines.registry import build, find_operator
from pipelines.schema import ROW, TEXT
from pipelines.yaml_text import load_yaml

FIELDS = ("name", "description", "steps")


class StepSpec(Frozen):
    """One step as it was written: the operator's name and the parameters given."""

    name: str
    parameters: dict[str, JSON] = Field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One operator in its place. `number` counts from 0 over the whole pipeline."""

    number: int
    name: str
    operator: Operator

    @property
    def label(self) -> str:
        """How messages name the step: `step 3 (word_count)`, counted from 1."""
        return f"step {self.number + 1} ({self.name})"

    def spec(self) -> dict[str, JSON]:
        """What a record keeps of it: name, version, every parameter, defaults too."""
        return {
            "operator": self.name,
            "version": self.operator.version,
            "parameters": self.operator.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Pass:
    """Row-wise steps that run together over a shard, and the global step they lead to."""

    number: int
    steps: tuple[Step, ...]
    end: Step | None

    @property
    def writes_columns(self) -> bool:
        """Whether rows leave the pass with other contents than they came with."""
        return any(step.operator.kind in ("modifier", "splitter") for step in self.steps)


def _yaml_of(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        baseline = (
            "" if path.suffix else f"; of a baseline: BENCHMARK baselines {path} > {path}.yaml"
        )
        raise PipelineError(f"there is no pipeline file {path}{baseline}") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text ({error})") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not YAML: {_one_line(error)}") from None


def sources_in(path: Path) -> list[str]:
    """The names of a DCLM file's sources, in order; none of a pipeline of our own."""
    value = _yaml_of(path)
    return dclm_yaml.source_names(value) if dclm_yaml.is_reference(value) else []


@dataclass(frozen=True)
class Pipeline:
    """Steps with the participant's modules they need. Build with `load` or `from_steps`."""

    name: str
    steps: tuple[Step, ...]
    modules: Mapping[str, Module] = field(default_factory=dict)
    description: str = ""
    assets: Assets = field(default_factory=Assets)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        assets: str | Path | Assets | None = None,
        source: str | None = None,
    ) -> Pipeline:
        """Read a YAML file, ours or DCLM's; participant files are looked for next to it.

        `source` names the entry of a DCLM file that has several.
        """
        path = Path(path)
        value = _yaml_of(path)
        if dclm_yaml.is_reference(value):
            steps = dclm_yaml.steps_of(value, source=source, where=str(path))
            value = {"name": path.stem, "steps": steps}
        elif source is not None:
            raise PipelineError(f"{path} has no sources: --source is for DCLM's files")
        return cls._from_value(value, where=str(path), folder=path.parent, assets=assets)

    @classmethod
    def from_steps(
        cls,
        steps: Sequence[JSON],
        *,
        name: str = "pipeline",
        assets: str | Path | Assets | None = None,
        folder: Path | None = None,
        modules: Mapping[str, Module] | None = None,
    ) -> Pipeline:
        """Build from a list of steps, each a name or a one-key mapping of name to parameters.

        DCLM's steps, {"func": name, ...}, are taken as well.
        """
        return cls._from_value(
            {"name": name, "steps": list(steps)},
            where=name,
            folder=folder or Path.cwd(),
            assets=assets,
            modules=modules,
        )

    @classmethod
    def _from_value(
        cls,
        value: JSON,
        *,
        where: str,
        folder: Path,
        assets: str | Path | Assets | None,
        modules: Mapping[str, Module] | None = None,
    ) -> Pipeline:
        if not isinstance(value, dict):
            raise PipelineError(f"{where}: expected a mapping with the keys name and steps")
        for key in value:
            if key not in FIELDS:
                hint = did_you_mean(str(key), dict.fromkeys(FIELDS))
                raise PipelineError(f"{where}: unknown key {key!r}{hint}; keys are {FIELDS}")
        if "steps" not in value or not isinstance(value["steps"] or [], list):
            raise PipelineError(
                f"{where}: the key steps should hold a list of operators; a pipeline that changes "
                "nothing says `steps: []`"
            )
        specs = [
            _step_spec(step, where=f"{where}: step {number + 1}")
            for number, step in enumerate(_in_our_form(value.get("steps") or [], where=where))
        ]
        loaded = dict(modules or {})
        for spec in specs:
            file = spec.name.rpartition(":")[0]
            if file.endswith(".py") and file not in loaded:
                beside = folder / file  # DCLM names such files from the working directory
                beside = beside if beside.exists() else _or_here(beside, file)
                loaded[file] = module_of(beside)
                for helper, module in helpers_of(beside).items():
                    loaded.setdefault(str(Path(file).parent / helper), module)
            elif file and not file.endswith(".py") and (package := package_of(file)) is not None:
                if file in loaded and loaded[file].sha256 != package.sha256:
                    raise PipelineError(
                        f"{where}: the code of {spec.name} is another here than where this run "
                        "began; install the same version, or begin another run"
                    )
                loaded[file] = package
        for name, package in local_packages(loaded).items():
            if loaded.setdefault(name, package).sha256 != package.sha256:
                raise PipelineError(
                    f"{where}: the code of the package {name} is another here than where this run "
                    "began; install the same version, or begin another run"
                )
        steps = tuple(
            Step(number, spec.name, _build(spec, loaded, where=f"{where}: step {number + 1}"))
            for number, spec in enumerate(specs)
        )
        name = value.get("name") or Path(where).stem
        if not isinstance(assets, Assets):
            assets = Assets(folders=() if assets is None else (Path(assets),))
        return cls(
            name=str(name),
            steps=steps,
            modules=loaded,
            description=str(value.get("description") or ""),
            assets=assets,
        )

    def spec(self) -> dict[str, JSON]:
        """What a record embeds: every step with its version and all its parameters."""
        return {"name": self.name, "steps": [step.spec() for step in self.steps]}

    def yaml_value(self) -> dict[str, JSON]:
        """The pipeline as its YAML says it: steps with the parameters that are not defaults."""
        steps: list[JSON] = []
        for step in self.steps:
            given = step.operator.model_dump(mode="json", exclude_defaults=True)
            steps.append({step.name: given} if given else step.name)
        value: dict[str, JSON] = {"name": self.name}
        if self.description:
            value["description"] = self.description
        return {**value, "steps": steps}

    def replace(self, number: int, operator: Operator) -> Pipeline:
        """The pipeline with another operator at step `number`."""
        steps = list(self.steps)
        steps[number] = Step(number, steps[number].name, operator)
        return Pipeline(self.name, tuple(steps), self.modules, self.description, self.assets)

    def with_text_from(self, field: str) -> Pipeline:
        """The pipeline behind a first step that makes another field the text."""
        renamed = build(
            find_operator("rename_field", {}),
            {"old": field, "new": TEXT, "existing": "replace"},
            where=self.name,
        )
        steps = [Step(0, "rename_field", renamed)]
        steps += [Step(step.number + 1, step.name, step.operator) for step in self.steps]
        return Pipeline(self.name, tuple(steps), self.modules, self.description, self.assets)

    def without(self, number: int) -> Pipeline:
        """The pipeline without step `number`, under a name that says so."""
        left = [step for step in self.steps if step.number != number]
        steps = tuple(Step(number, step.name, step.operator) for number, step in enumerate(left))
        name = f"{self.name}-without-{number + 1}-{self.steps[number].name}"
        return Pipeline(name, steps, self.modules, self.description, self.assets)

    def passes(self) -> tuple[Pass, ...]:
        """The plan: each global step ends a pass, and so does a splitter. At least one pass."""
        planned: list[Pass] = []
        waiting: list[Step] = []

        def close(end: Step | None) -> None:
            planned.append(Pass(len(planned), tuple(waiting), end))
            waiting.clear()

        for step in self.steps:
            if step.operator.kind in GLOBAL_KINDS:
                close(step)
            else:
                waiting.append(step)
                if step.operator.kind == "splitter":
                    close(None)
        if waiting or not planned or planned[-1].end is not None:
            close(None)
        return tuple(planned)

    def text_door(self) -> int:
        """The step behind which every row has a text; -1 for the reader.

        Rows without a text go there. It is the last step that makes texts before any step reads
        them: a pool may hold its text under another name, or in parts.
        """
        door = -1
        for step in self.steps:
            if TEXT in step.operator.reads():
                break
            if TEXT in step.operator.writes():
                door = step.number
        return door

    def check_ready(self) -> None:
        """PipelineError when a step still waits for a figure from another run."""
        for step in self.steps:
            if not isinstance(step.operator, Select):
                continue
            if why := step.operator.pending():
                raise PipelineError(f"{self.name}: {step.label}: {why}")
            if step.operator.copies() > 1 and step is not self.steps[-1]:
                raise PipelineError(
                    f"{self.name}: {step.label} keeps rows several times, so no step can come "
                    "after it: make it the last"
                )

    def load_operators(self) -> None:
        """Let every operator build its heavy state (once per process)."""
        for step in self.steps:
            step.operator.load(self.assets)

    def check_columns(self, schema: pa.Schema, *, inside: Collection[str] = ()) -> None:
        """PipelineError when a step reads a column that neither the pool nor a step provides.

        `inside` are fields that rows hold in `extra`, as far as they are known.
        """
        there = {*schema.names, ROW, *inside}
        for step in self.steps:
            for column in step.operator.reads():
                if column not in there:
                    hint = did_you_mean(column, dict.fromkeys(there))
                    raise PipelineError(
                        f"{self.name}: {step.label} reads the column {column!r}, which is not "
                        f"there{hint}; columns at this step: {', '.join(sorted(there))}"
                    )
            if step.operator.takes_pages:  # may set any field, which only the run will see
                return
            there |= set(step.operator.writes())
            there -= set(step.operator.drops())

    def missing(self) -> list[str]:
        """Columns that steps read and no earlier step writes: the pool has to have them."""
        there = {TEXT, ROW}
        columns: dict[str, None] = {}
        for step in self.steps:
            columns |= dict.fromkeys(name for name in step.operator.reads() if name not in there)
            if step.operator.takes_pages:
                break
            there |= set(step.operator.writes())
        return list(columns)


def _step_spec(step: JSON, *, where: str) -> StepSpec:
    if isinstance(step, str):
        return StepSpec(name=step)
    if isinstance(step, dict) and len(step) == 1:
        [(name, parameters)] = step.items()
        if isinstance(name, str) and isinstance(parameters, dict | None):
            return StepSpec(name=name, parameters=parameters or {})
    raise PipelineError(
        f"{where}: expected an operator's name, or one name with a mapping of parameters, "
        f"got {step!r}"
    )


def _in_our_form(steps: Sequence[JSON], *, where: str) -> Sequence[JSON]:
    if any(isinstance(step, dict) and "func" in step for step in steps):
        return dclm_yaml.our_steps(steps, where=where)
    return steps


def _build(spec: StepSpec, modules: Mapping[str, Module], *, where: str) -> Operator:
    try:
        operator = find_operator(spec.name, modules)
    except PipelineError as error:
        raise PipelineError(f"{where}: {error}") from None
    built = build(operator, spec.parameters, where=where)
    if ":" in spec.name:
        _check_names(built, where=f"{where}: {spec.name}")
    return built


def _check_names(operator: Operator, *, where: str) -> None:
    """PipelineError for a string where names are expected, whose letters would be taken."""
    for method in ("reads", "optional_reads", "drops", "assets"):
        names: Any = getattr(operator, method, tuple)()
        if isinstance(names, str):
            raise PipelineError(
                f"{where}: {method}() returned the string {names!r}; return ({names!r},)"
            )
        if method == "drops" and ROW in names:
            raise PipelineError(f"{where}: drops() names {ROW!r}, by which rows are known")


def _or_here(beside: Path, file: str) -> Path:
    return Path(file) if Path(file).exists() else beside


def _one_line(error: Any) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
