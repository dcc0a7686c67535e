"""What a person reads about pipelines and runs: the plan, the operators, the funnel, the state."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import orjson
from pydantic import Field
from pydantic_core import PydanticUndefined

from pipelines.chain import RECORD
from pipelines.commands import table
from pipelines.operators import Operator
from pipelines.pipeline import Pipeline
from pipelines.progress import short
from pipelines.records import JSON, Frozen
from pipelines.run import RUN, RunFailed, RunFile, RunSummary, funnel
from pipelines.storage import Store, all_done


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
                ", ".join(step.operator.reads()),
                ", ".join(step.operator.writes()) or "-",
                _given(step.operator),
            )
            for step in steps
        ]
        if not rows:
            lines.append("  copies the rows that are left")
            continue
        shown = table(rows, header=("step", "operator", "kind", "reads", "writes", "parameters"))
        lines += [f"  {line}" for line in shown.splitlines()]
        if current.end is not None:
            lines.append(f"  then, over the whole pool: {current.end.name}")
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


def _given(operator: Operator) -> str:
    """The parameters that are not at their defaults."""
    values = operator.model_dump(mode="json", exclude_defaults=True)
    text = ", ".join(f"{name}={_short_value(value)}" for name, value in values.items())
    return text or "-"


def _short_value(value: JSON) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def funnel_text(summary: RunSummary) -> str:
    """Rows and bytes in and out of each step, with reasons, as a table."""
    rows = []
    for row in funnel(summary):
        reasons = ", ".join(f"{name} {count:,}" for name, count in row["reasons"].items())
        if row["errors"]:
            reasons += f"{', ' if reasons else ''}set aside {row['errors']:,}"
        if row["split"]:
            reasons += f"{', ' if reasons else ''}split off {row['split']:,}"
        seconds = row["seconds"]
        rate = f"{short(row['bytes_in'] / 1e6 / seconds)} MB/s" if seconds > 0.01 else "-"
        rows.append(
            (
                row["step"] or "-",
                row["operator"],
                row["rows_in"],
                row["rows_out"],
                short(row["words_out"]),
                short(row["bytes_out"]) + "B",
                round(seconds, 2),
                rate,
                reasons,
            )
        )
    header = (
        "step",
        "operator",
        "rows in",
        "rows out",
        "words out",
        "text out",
        "cpu s",
        "rate",
        "reasons",
    )
    return table(rows, header=header)


class Status(Frozen):
    """How far a run is, from its folder alone."""

    uri: str
    pipeline: str
    state: str
    num_shards: int
    passes: dict[str, int] = Field(default_factory=dict)
    num_passes: int
    quarantined: int = 0
    cpu_seconds: float = 0.0
    record_id: str | None = None


def status(store: Store) -> Status:
    """Read the state of a run. RunFailed when the folder holds none."""
    if not store.exists(RUN):
        raise RunFailed(f"{store.uri} holds no run: there is no {RUN} in it")
    run = RunFile.model_validate(orjson.loads(store.read_bytes(RUN)))
    passes: dict[str, int] = {}
    quarantined = 0
    seconds = 0.0
    for done in all_done(store):
        stage = done.key.split("-")[0]
        passes[stage] = passes.get(stage, 0) + 1
        seconds += done.seconds
        if isinstance(done.stats, dict):
            quarantined += sum(step["errors"] for step in done.stats.get("steps", ()))
    record_id = None
    if store.exists(RECORD):
        record_id = orjson.loads(store.read_bytes(RECORD))["id"]
    return Status(
        uri=store.uri,
        pipeline=run.pipeline,
        state="done" if record_id else "not finished",
        num_shards=run.num_shards,
        num_passes=run.num_passes,
        passes=dict(sorted(passes.items())),
        quarantined=quarantined,
        cpu_seconds=round(seconds, 2),
        record_id=record_id,
    )


def status_text(state: Status) -> str:
    lines = [f"{state.pipeline} in {state.uri}: {state.state}"]
    for stage, number in state.passes.items():
        lines.append(f"  {_stage(stage)}: {number:,} of {_of(stage, state)} done")
    lines.append(f"  set aside: {state.quarantined:,} rows; {state.cpu_seconds:,} CPU seconds")
    if state.record_id:
        lines.append(f"  dataset {state.record_id}")
    return "\n".join(lines)


def _stage(stage: str) -> str:
    if stage.startswith("p"):
        return f"pass {int(stage[1:]) + 1}"
    if stage.startswith("f"):
        return f"groups of step {int(stage[1:]) + 1}"
    return stage


def _of(stage: str, state: Status) -> str:
    return f"{state.num_shards:,} shards" if stage.startswith("p") else "its parts"


def problems_text(rows: Iterable[Sequence[str]]) -> str:
    return table(list(rows), header=("operator", "promise", "found"))
