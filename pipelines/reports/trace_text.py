"""What happened to one document in each step, for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

import orjson

from pipelines.reports.try_document import StepTrace

CONTEXT_LINES = 1
MAX_LINE = 160


def trace_text(traces: Sequence[StepTrace], num_steps: int) -> str:
    """A line for each step, with a diff where it changed the text."""
    lines: list[str] = []
    for one in traces:
        lines.append(_head(one))
        lines += [f"      {name} = {_value(value)}" for name, value in one.columns.items()]
        if one.before is not None and one.after is not None:
            lines += [f"      {line}" for line in diff(one.before, one.after)]
    left = num_steps - len(traces)
    if left:
        lines.append(f"  {left} more steps do not see it")
    return "\n".join(lines)


def _head(one: StepTrace) -> str:
    head = f"{one.step:3}  {one.operator}: {one.outcome}"
    if one.reason is not None:
        head += f", {one.reason}"
    told = one.evidence.told() if one.evidence is not None else ""
    return f"{head}: {told}" if told else head


def _value(value: object) -> str:
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}..."


def diff(before: str, after: str) -> Iterator[str]:
    """A unified diff of lines; inside one changed line, what went stands in [-...-]{+...+}."""
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
