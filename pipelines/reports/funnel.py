"""What a person reads about pipelines and runs: the plan, the operators, the funnel."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from pydantic_core import PydanticUndefined

from pipelines.console import table
from pipelines.engine.run_folder import RunSummary
from pipelines.execution.progress import short
from pipelines.operators import Operator
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON


def operator_line(operator: type[Operator]) -> tuple[str, str, str]:
    """Kind, name and the first sentence of its documentation."""
    doc = inspect.cleandoc(operator.__doc__ or "")
    return operator.kind, operator.name, doc.split("\n", 1)[0]


def operator_page(operator: type[Operator]) -> str:
    """Everything there is to know about one operator: text, parameters, reasons."""
    lines = [f"{operator.name}  ({operator.kind}, version {operator.version})", ""]
    lines += [inspect.cleandoc(operator.__doc__ or ""), ""]
    if operator.reference:
        lines += [f"DCLM's name: {operator.reference}", ""]
    rows = parameter_rows(operator)
    if rows:
        lines += [table(rows, header=("parameter", "type", "default", "meaning")), ""]
    if operator.reasons:
        lines += [f"rejects with: {', '.join(operator.reasons)}", ""]
    return "\n".join(lines)


def parameter_rows(operator: type[Operator]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each parameter."""
    return [
        (name, _type(field.annotation), _default(field), field.description or "")
        for name, field in operator.model_fields.items()
    ]


def operator_json(operator: type[Operator]) -> JSON:
    """The same for a machine, with the JSON schema of its parameters."""
    return {
        "name": operator.name,
        "kind": operator.kind,
        "version": operator.version,
        "documentation": inspect.cleandoc(operator.__doc__ or ""),
        "reference": operator.reference,
        "reasons": list(operator.reasons),
        "parameters": operator.model_json_schema(),
    }


def _type(annotation: object) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _default(field: object) -> str:
    default = getattr(field, "default", PydanticUndefined)
    return "required" if default is PydanticUndefined else repr(default)


def plan_text(pipeline: Pipeline) -> str:
    """The passes of a pipeline: what each step reads and writes, and where it comes from."""
    passes = pipeline.passes()
    lines = [f"{pipeline.name}: {len(pipeline.steps)} steps in {len(passes)} passes"]
    if pipeline.description:
        lines += [pipeline.description]
    for current in passes:
        lines += ["", f"pass {current.number + 1}"]
        steps = [*current.steps, *([current.end] if current.end else [])]
        rows = [
            (
                step.number + 1,
                step.name,
                step.operator.kind,
                source_of(step),
                ", ".join(step.operator.reads()),
                ", ".join(step.operator.writes()) or "-",
                _given(step.operator),
            )
            for step in steps
        ]
        if not rows:
            lines.append("  copies the rows that are left")
            continue
        header = ("step", "operator", "kind", "source", "reads", "writes", "parameters")
        shown = table(rows, header=header)
        lines += [f"  {line}" for line in shown.splitlines()]
        if current.end is not None:
            lines.append(f"  then, over the whole pool: {current.end.name}")
    if missing := pipeline.missing():
        lines += ["", f"the pool has to have: {', '.join(missing)}"]
    return "\n".join(lines)


def plan_json(pipeline: Pipeline) -> JSON:
    return {
        "name": pipeline.name,
        "passes": [
            {
                "steps": [
                    {
                        **step.spec(),
                        "kind": step.operator.kind,
                        "source": source_of(step),
                        "reads": list(step.operator.reads()),
                        "writes": list(step.operator.writes()),
                        "assets": list(step.operator.assets()),
                    }
                    for step in (*current.steps, *([current.end] if current.end else []))
                ]
            }
            for current in pipeline.passes()
        ],
    }


def source_of(step: Step) -> str:
    """Where an operator's code is: the participant's file, else the module."""
    file, _, name = step.name.rpartition(":")
    return file if file and name else type(step.operator).__module__


def _given(operator: Operator) -> str:
    """The parameters that are not at their defaults."""
    values = operator.model_dump(mode="json", exclude_defaults=True)
    text = ", ".join(f"{name}={_short_value(value)}" for name, value in values.items())
    return text or "-"


def _short_value(value: JSON) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def funnel(summary: RunSummary) -> list[Mapping[str, JSON]]:
    """One row per step: rows and bytes in and out, reasons, seconds."""
    return [
        {
            "step": step.number + 1,
            "operator": step.name,
            "kind": step.kind,
            "rows_in": step.rows_in,
            "rows_out": step.rows_out,
            "bytes_in": step.bytes_in,
            "bytes_out": step.bytes_out,
            "words_in": step.words_in,
            "words_out": step.words_out,
            "split": step.split,
            "errors": step.errors,
            "reasons": step.reasons,
            "seconds": summary.seconds.get(str(step.number), 0.0),
        }
        for step in summary.stats.steps
    ]


def funnel_text(summary: RunSummary) -> str:
    """Rows and bytes in and out of each step, with reasons, as a table."""
    header, rows = funnel_cells(summary)
    lines = [table(rows, header=header)]
    for step, by_field in summary.aggregates.items():
        for name, values in by_field.items():
            shown = [f"{key} {short(value)}" for key, value in list(values.items())[:12]]
            lines.append(f"step {step}: {name}: {', '.join(shown)}")
    return "\n".join(lines)


def funnel_cells(summary: RunSummary) -> tuple[list[str], list[list[Any]]]:
    """The funnel as a table for people: header and rows. Pools of pairs count no text."""
    has_text = any(step.bytes_in or step.bytes_out for step in summary.stats.steps)
    text = ["words out", "text out"] if has_text else []
    header = ["step", "operator", "rows in", "rows out", *text, "cpu s", "rate", "reasons"]
    cells = []
    for row in funnel(summary):
        reasons = ", ".join(f"{name} {count:,}" for name, count in row["reasons"].items())
        for count, outcome in ((row["errors"], "set aside"), (row["split"], "split off")):
            if count:
                reasons += f"{', ' if reasons else ''}{outcome} {count:,}"
        seconds = row["seconds"]
        amount, unit = (row["bytes_in"] / 1e6, "MB") if has_text else (row["rows_in"], "rows")
        size = [short(row["words_out"]), short(row["bytes_out"]) + "B"] if has_text else []
        cells.append(
            [
                row["step"] or "-",
                row["operator"],
                row["rows_in"],
                row["rows_out"],
                *size,
                round(seconds, 2),
                f"{short(amount / seconds)} {unit}/s" if seconds > 0.01 else "-",
                reasons,
            ]
        )
    return header, cells


def problems_text(rows: Iterable[Sequence[str]]) -> str:
    return table(list(rows), header=("operator", "promise", "found"))
