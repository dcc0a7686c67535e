"""Commands about operators: list them, check a file of them, compile their kernels."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from pipelines.registry import operators_in, registry
    from pipelines.reports import funnel

    known = registry() if source is None else operators_in(_loaded(source))
    if name is not None:
        if name not in known:
            raise PipelineError(f"unknown operator {name!r}{did_you_mean(name, known)}")
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
    file: Annotated[Path, typer.Argument(help="A Python file with operators.")],
    parameters: Annotated[
        str | None, typer.Option(help="Parameters as JSON, for operators that need some.")
    ] = None,
    assets: AssetFolders = None,
    json: Json = False,
) -> None:
    """Try a file's operators on hostile rows: do they keep what every operator promises?"""
    import orjson

    from pipelines import contract
    from pipelines.assets.catalogue import asset_files
    from pipelines.registry import build, operators_in
    from pipelines.reports import funnel

    classes = operators_in(_loaded(file))
    if not classes:
        raise PipelineError(
            f"{file} defines no operator; subclass Filter, Modifier or another kind"
        )
    given = orjson.loads(parameters) if parameters else {}
    problems = []
    for cls in classes.values():
        operator: Operator = build(cls, given, where=str(file))
        operator.load(asset_files(assets))
        problems += contract.check(operator)
    if json:
        show_json({"operators": list(classes), "problems": problems})
    elif problems:
        out(funnel.problems_text([(p.operator, p.promise, p.found) for p in problems]))
    else:
        out(f"{file}: {', '.join(classes)} keep all promises")
    if problems:
        fail(f"{file} breaks {len(problems)} promises", 3)


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
