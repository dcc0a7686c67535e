"""Commands about operators: list them, check a file of them, compile their kernels."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.console import (
    AssetFolders,
    Json,
    fail,
    out,
    show_json,
    table,
)
from pipelines.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from pipelines.operators import Operator


app = typer.Typer()


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="Show one operator in full.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Operators of this Python file.")
    ] = None,
    json: Json = False,
) -> None:
    """List the operators, or show one with all its parameters."""
    from pipelines.registry import registry
    from pipelines.reports import funnel

    known = registry() if source is None else _defined_in(source)
    if name is not None:
        if name not in known:
            own = "" if source is not None else "; one of your own: --from FILE.py"
            raise PipelineError(f"unknown operator {name!r}{did_you_mean(name, known)}{own}")
        known = {name: known[name]}
    if json:
        show_json([funnel.operator_json(operator) for operator in known.values()])
    elif name is not None or source is not None:
        out("\n".join(funnel.operator_page(operator) for operator in known.values()))
    else:
        rows = sorted(funnel.operator_line(operator) for operator in known.values())
        out(table(rows, header=("kind", "name", "what it does")))


def _loaded(file: Path) -> types.ModuleType:
    from pipelines.participant_code import helpers_of, load_module, module_of

    return load_module(module_of(file), helpers_of(file))


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="A Python file with operators, or a pipeline's YAML file.")
    ],
    parameters: Annotated[
        str | None,
        typer.Option(help='Parameters as JSON: {"key": value}, or {"Class": {"key": value}}.'),
    ] = None,
    assets: AssetFolders = None,
    json: Json = False,
) -> None:
    """Try operators on hostile rows: do they keep what every operator promises?

    Of a pipeline its own steps (file.py:Class, file.py:function) are tried with its parameters.
    """
    import orjson

    from pipelines import contract
    from pipelines.assets.catalogue import asset_files
    from pipelines.reports import funnel

    untried: dict[str, str] = {}
    if file.suffix in (".yaml", ".yml"):
        operators = _of_pipeline(file, assets)
    else:
        operators, untried = _of_file(file, orjson.loads(parameters) if parameters else {})
    problems = []
    for operator in operators.values():
        operator.load(asset_files(assets))
        problems += contract.check(operator)
    if json:
        show_json({"operators": list(operators), "untried": untried, "problems": problems})
    else:
        if problems:
            out(funnel.problems_text([(p.operator, p.promise, p.found) for p in problems]))
        else:
            keep = "keeps" if len(operators) == 1 else "keep"
            out(f"{file}: {', '.join(operators)} {keep} all promises")
        for name, reason in untried.items():
            out(f"{name} was not tried: {reason}; give --parameters, or a pipeline's YAML file")
    if problems:
        fail(f"{file} breaks {len(problems)} promise{'' if len(problems) == 1 else 's'}", 3)


def _of_pipeline(file: Path, assets: AssetFolders) -> dict[str, Operator]:
    """The steps of a participant's own code; all, where there are none."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.pipeline import Pipeline

    steps = Pipeline.load(file, assets=asset_files(assets)).steps
    own = [step for step in steps if ":" in step.name] or steps
    if not own:
        raise PipelineError(f"{file} has no steps to try")
    return {
        step.label: type(step.operator).model_validate(step.operator.model_dump()) for step in own
    }


def _defined_in(file: Path) -> dict[str, type[Operator]]:
    """The operators and page functions of a file. PipelineError where there is none."""
    from pipelines.registry import operators_in, page_functions_in

    module = _loaded(file)
    classes: dict[str, type[Operator]] = {**operators_in(module), **page_functions_in(module)}
    if not classes:
        raise PipelineError(
            f"{file} defines no operator; subclass Filter, Modifier or another kind, or write a "
            "function of a page"
        )
    return classes


def _of_file(file: Path, given: dict[str, Any]) -> tuple[dict[str, Operator], dict[str, str]]:
    """The operators of a file, and those that lack parameters, with what they lack.

    A function is one whose first parameter is `page`. PipelineError where none can be built.
    """
    from pipelines.registry import build

    classes = _defined_in(file)
    by_class = bool(given) and set(given) <= set(classes)
    unused = set() if by_class else set(given)
    operators: dict[str, Operator] = {}
    untried: dict[str, str] = {}
    for name, cls in classes.items():
        own = given.get(name, {}) if by_class else given
        if not by_class and len(classes) > 1:
            own = {key: value for key, value in given.items() if key in cls.model_fields}
        unused -= set(own)
        try:
            operators[name] = build(cls, own, where=str(file))
        except PipelineError as error:
            if own:  # what was given is wrong
                raise
            untried[name] = str(error)
    if unused:
        names = ", ".join(sorted(unused))
        raise PipelineError(f"{file}: none of {', '.join(classes)} has the parameter {names}")
    if not operators:
        raise PipelineError("; ".join(untried.values()))
    return operators, untried


@app.command()
def warmup(assets: AssetFolders = None, json: Json = False) -> None:
    """Compile all kernels now; once per kind of processor, before many workers start."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.engine.warmup import warm_up

    warmed = warm_up(asset_files(assets))
    if json:
        show_json(warmed)
        return
    out(f"{len(warmed.operators)} operators ran in {warmed.seconds} s; their kernels are compiled")
    out(f"{len(warmed.left_out)} need parameters, columns or assets (--json says which)")
