"""One document through a pipeline: what each step saw, measured, changed and decided.

Global steps (dedup, select, fold) look at the whole pool, so they decide nothing here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
from pydantic import Field

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.engine.evidence import Evidence, evidence_of
from pipelines.engine.row_steps import line_of
from pipelines.errors import PipelineError
from pipelines.formats.readers import read_shard
from pipelines.job import loaded
from pipelines.operators import (
    GLOBAL_KINDS,
    Counted,
    Filter,
    Fold,
    Modifier,
    SpanDedup,
    Splitter,
    choose,
)
from pipelines.pipeline import Step
from pipelines.records import JSON, Frozen, RecordError
from pipelines.reports.pool_rows import pool_rows
from pipelines.schema import EXTRA, TEXT, URL
from pipelines.storage.base import Store

CONTEXT_LINES = 1  # of a diff
MAX_LINE = 160  # characters of a line in a terminal


class StepTrace(Frozen):
    """What one step (counted from 1) made of a document."""

    step: int
    operator: str
    kind: str
    outcome: str  # kept, rejected, changed, split, or "looks at the whole pool"
    reason: str | None = None
    evidence: Evidence | None = None
    columns: dict[str, JSON] = Field(default_factory=dict)  # that were set, but for the text
    before: str | None = None  # the text, where the step changed it
    after: str | None = None


def trace(
    steps: Sequence[Step],
    batch: Batch,
    assets: Assets,
    *,
    modules: Mapping[str, Any] = MappingProxyType({}),
) -> list[StepTrace]:
    """Each step on a document (a batch of one row), until one drops it or makes several of it.

    PipelineError for one that fails, with the line of a participant's file among `modules`.
    """
    traces: list[StepTrace] = []
    for step in steps:
        try:
            step_trace, batch_after = _step(step, batch, assets)
        except PipelineError:
            raise
        except Exception as error:
            if ":" not in step.name and not isinstance(error, ValueError):
                raise  # a fault of ours
            name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise PipelineError(
                f"{step.label} fails on this document: {name}{error}{line_of(error, modules)}"
            ) from error
        traces.append(step_trace)
        if batch_after is None:
            break
        batch = batch_after
    return traces


def _step(step: Step, batch: Batch, assets: Assets) -> tuple[StepTrace, Batch | None]:
    operator = step.operator
    common: dict[str, Any] = {
        "step": step.number + 1,
        "operator": step.name,
        "kind": operator.kind,
    }
    if operator.kind in GLOBAL_KINDS:
        return StepTrace(**common, outcome="looks at the whole pool"), batch
    operator = loaded(step, assets)
    if isinstance(operator, Filter):
        verdict = operator.reject(batch)
        [reason] = (verdict.value if isinstance(verdict, Counted) else verdict).to_pylist()
        if reason is None:
            return StepTrace(**common, outcome="kept"), batch
        evidence = evidence_of(operator, batch, reason)
        return StepTrace(**common, outcome="rejected", reason=reason, evidence=evidence), None
    if isinstance(operator, Splitter):
        parts, _ = operator.split(batch)
        outcome = f"split into {parts.num_rows}"
        return StepTrace(**common, outcome=outcome), None
    assert isinstance(operator, Modifier)
    result = operator.modify(batch)
    columns = result.value if isinstance(result, Counted) else result
    before = batch.text[0].as_py() if batch.has(TEXT) else None
    batch = batch.write(columns).drop(operator.drops())
    shown = {name: values[0].as_py() for name, values in columns.items() if name != TEXT}
    if EXTRA in shown:
        shown[EXTRA] = orjson.loads(shown[EXTRA]) if shown[EXTRA] else None
    common["columns"] = shown
    after = batch.text[0].as_py() if batch.has(TEXT) else None
    if TEXT in columns and after is None:
        emptied = choose([(np.array([True]), operator.reasons[0])])[0].as_py()
        return StepTrace(**common, outcome="rejected", reason=emptied, before=before), None
    if after == before:
        return StepTrace(**common, outcome="changed" if shown else "kept"), batch
    return StepTrace(**common, outcome="changed", before=before, after=after), batch


# ---- rows of the pool of a run


def batch_before(store: Store, steps: Sequence[Step], row: int, assets: Assets) -> Batch | None:
    """A row of the pool (a batch of one) as these steps leave it, made again.

    None where the pool was removed, a step drops or splits the row, or a global step may
    have changed its text: a fold, or a deduplication of lines and spans.
    """
    try:
        batch = pool_rows(store, [row])[1].get(row)
    except RecordError:
        return None
    for step in steps:
        operator = step.operator
        lines = isinstance(operator, SpanDedup) or getattr(operator, "unit", "") == "line"
        if batch is None or isinstance(operator, Fold) or lines:
            return None
        batch = _step(step, batch, assets)[1]
    return batch


def row_by_url(store: Store, names: Sequence[str], url: str) -> Batch | None:
    """The first row of these shards with this URL."""
    for shard, name in enumerate(names):
        for chunk in read_shard(store, name, shard=shard):
            if URL in chunk.table.column_names:
                match = chunk.table.filter(pc.equal(chunk.table[URL], url))
                if match.num_rows:
                    return Batch(match.slice(0, 1))
    return None


def trace_text(traces: Sequence[StepTrace], num_steps: int) -> str:
    """A line for each step, with a diff where it changed the text."""
    lines: list[str] = []
    for step_trace in traces:
        lines.append(_head(step_trace))
        lines += [f"      {name} = {_value(value)}" for name, value in step_trace.columns.items()]
        if step_trace.before is not None and step_trace.after is not None:
            lines += [f"      {line}" for line in diff(step_trace.before, step_trace.after)]
    left = num_steps - len(traces)
    if left:
        lines.append(f"  {left} more steps do not see it")
    return "\n".join(lines)


def _head(step_trace: StepTrace) -> str:
    head = f"{step_trace.step:3}  {step_trace.operator}: {step_trace.outcome}"
    if step_trace.reason is not None:
        head += f", {step_trace.reason}"
    sentence = step_trace.evidence.sentence() if step_trace.evidence is not None else ""
    return f"{head}: {sentence}" if sentence else head


def _value(value: object) -> str:
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}..."


def diff(before: str, after: str) -> Iterator[str]:
    """A unified diff of lines; inside a changed line, changes are marked [-...-]{+...+}."""
    ours, theirs = before.split("\n"), after.split("\n")
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        yield f"@@ line {group[0][1] + 1}"
        for kind, a, b, c, d in group:
            if kind == "equal":
                yield from (f"  {_cut(line)}" for line in ours[a:b])
            elif b - a == d - c == 1:
                yield f"~ {_inside(ours[a], theirs[c])}"
            else:
                yield from (f"- {_cut(line)}" for line in ours[a:b])
                yield from (f"+ {_cut(line)}" for line in theirs[c:d])


def _inside(before: str, after: str) -> str:
    parts = []
    ours, theirs = (re.findall(r"\s+|\S+", line) for line in (before, after))
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            parts += ours[a:b]
            continue
        if b > a:
            parts.append(f"[-{''.join(ours[a:b])}-]")
        if d > c:
            parts.append(f"{{+{''.join(theirs[c:d])}+}}")
    return _cut("".join(parts))


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."
