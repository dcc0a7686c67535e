"""Groups of duplicates of a finished run, and what was in their documents, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch import Batch
from pipelines.console import table
from pipelines.engine.run_folder import read_run
from pipelines.execution.progress import short
from pipelines.global_steps.duplicate_record import DUPLICATES, Report
from pipelines.job import loaded
from pipelines.operators import Counted, Dedup, Modifier
from pipelines.pipeline import Step
from pipelines.records import Frozen
from pipelines.reports.pool_rows import pool_rows
from pipelines.reports.why import fates
from pipelines.schema import TEXT, URL, number_of, shard_of
from pipelines.storage.base import Store

MAX_COMPARED_WORDS = 600  # of a text in a diff: it takes time in their product


class Member(Frozen):
    """A unit of a group. `text` is what was there when the step saw it, if it is known."""

    row: int
    unit: int
    shard: int
    number: int
    kept: bool
    url: str | None = None
    text: str | None = None


class DuplicateGroup(Frozen):
    """Units that one step (counted from 1) found to be the same; the first is the one that stays.

    `size` counts all members, `members` holds some. `note` says why texts are missing.
    """

    step: int
    operator: str
    size: int
    members: tuple[Member, ...]
    note: str | None = None


def reports(store: Store) -> list[Report]:
    """The reports of all deduplications of a finished run, in the order of steps."""
    names = [e.name for e in store.list(f"{DUPLICATES}/step-") if e.name.endswith(".json")]
    all_reports = [Report.model_validate(orjson.loads(store.read_bytes(name))) for name in names]
    return sorted(all_reports, key=lambda report: report.step)


def groups_of(store: Store, document: str, *, most: int) -> list[DuplicateGroup]:
    """At most `most` groups of a document (URL, row's id or SHARD:NUMBER), with as many members.

    Of lines and spans, the groups of the document's first few.
    """
    rows = np.array(sorted(set(_rows(store, document))), dtype=np.int64)
    members: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    names = [e.name for e in store.list(f"{DUPLICATES}/") if e.name.endswith(".parquet")]
    for name in names:  # which groups
        step = int(name.split("/")[1].split("-")[0])
        with store.open(name) as file:
            pairs = pq.read_table(file)
        here = pc.or_(
            pc.is_in(pairs["row"], pa.array(rows)), pc.is_in(pairs["kept_row"], pa.array(rows))
        )
        for pair in pairs.filter(here).select(["kept_row", "kept_unit"]).to_pylist():
            members.setdefault((step, pair["kept_row"], pair["kept_unit"]), [])
    for name in names if members else []:  # who is in them
        step = int(name.split("/")[1].split("-")[0])
        keys = [key for key in members if key[0] == step]
        with store.open(name) as file:
            pairs = pq.read_table(file)
        some = pairs.filter(pc.is_in(pairs["kept_row"], pa.array([key[1] for key in keys])))
        for pair in some.to_pylist():
            key = (step, pair["kept_row"], pair["kept_unit"])
            if key in members:
                members[key].append((pair["row"], pair["unit"]))
    return _with_texts(store, dict(sorted(members.items())[:most]), rows.tolist(), most)


def _rows(store: Store, document: str) -> Iterator[int]:
    shard, _, number = document.rpartition(":")
    if number.isdigit() and (not shard or shard.isdigit()):
        yield int(shard or 0) << 32 | int(number)
    else:
        yield from (fate.row for fate in fates(store, document))


def _with_texts(
    store: Store,
    members_of: dict[tuple[int, int, int], list[tuple[int, int]]],
    rows: list[int],
    most: int,
) -> list[DuplicateGroup]:
    pipeline = read_run(store).of_pipeline().pipeline()
    groups = []
    for (number, kept_row, kept_unit), others in members_of.items():
        step = pipeline.steps[number]
        first = [other for other in others if other[0] in rows]
        rest = [other for other in sorted(others) if other[0] not in rows]
        shown = [(kept_row, kept_unit), *[*first, *rest][: most - 1]]
        note = _why_text_is_lost(pipeline.steps[:number])
        texts = {} if note else _texts(store, pipeline.steps[:number], [r for r, _ in shown])
        operator = step.operator
        assert isinstance(operator, Dedup)
        members = []
        for position, (row, unit) in enumerate(shown):
            batch = texts.get(row)
            value = None if batch is None else batch.column(operator.reads()[0])[0].as_py()
            members.append(
                Member(
                    row=row,
                    unit=unit,
                    shard=shard_of(row),
                    number=number_of(row),
                    kept=position == 0,
                    url=batch.strings(URL)[0].as_py() if batch and batch.has(URL) else None,
                    text=None if value is None else operator.excerpt(str(value), unit),
                )
            )
        groups.append(
            DuplicateGroup(
                step=number + 1,
                operator=step.name,
                size=len(others) + 1,
                members=tuple(members),
                note=note,
            )
        )
    return groups


def _why_text_is_lost(before: Sequence[Step]) -> str | None:
    """Why the text that a step saw cannot be had from the pool again, if so."""
    for step in before:
        if step.operator.kind == "splitter":
            return f"the documents were made by {step.label}, so the pool does not hold them"
        if step.operator.kind in ("dedup", "fold") and TEXT in step.operator.writes():
            return f"the texts were changed by {step.label}, which looks at the whole pool"
    return None


def _texts(store: Store, steps: Sequence[Step], rows: list[int]) -> dict[int, Batch]:
    """One row each as the pool has it, behind the modifiers of the steps before."""
    plan, batches = pool_rows(store, rows)
    assets = plan.pipeline().assets
    for row, batch in batches.items():
        for step in steps:
            if isinstance(step.operator, Modifier):
                operator = loaded(step, assets)
                assert isinstance(operator, Modifier)
                columns = operator.modify(batch)
                batch = batch.write(columns.value if isinstance(columns, Counted) else columns)
                batch = batch.drop(operator.drops())
        batches[row] = batch
    return batches


# ---- for people


def report_text(report: Report) -> str:
    """One report as a few short tables."""
    lines = [
        f"step {report.step} ({report.operator}): {report.rejected:,} of {report.rows_in:,} rows "
        f"rejected, {short(sum(report.removed_bytes.values()))}B of text removed"
    ]
    if report.groups is not None:
        groups = report.groups
        lines[0] += f"; {groups.dropped:,} duplicates in {groups.groups:,} groups"
        if groups.pairs is not None:
            lines[0] += f"; {groups.refused:,} of {groups.pairs:,} pairs were not similar enough"
        if groups.sizes:
            rows = list(groups.sizes.items())
            lines += ["", table(rows, header=("group size", "groups"))]
            largest = [
                (g.size, f"{shard_of(g.row)}:{number_of(g.row)}", _line(g.example or ""))
                for g in groups.largest
            ]
            lines += ["", table(largest, header=("size", "kept", "example"))]
    if report.filters:
        states = [
            (
                s.group,
                s.rows,
                s.inserted_ngrams,
                s.expected_ngrams,
                short(s.filter_bytes) + "B",
                round(s.filled_fraction, 4),
                s.false_positive_rate,
            )
            for s in report.filters
        ]
        header = ("group", "rows", "n-grams", "expected", "filter", "filled", "false positives")
        lines += ["", table(states, header=header)]
    if report.removed_bytes:
        by_size = sorted(report.removed_bytes.items(), key=lambda item: (-item[1], item[0]))
        lines += ["", table(by_size[:20], header=("source", "bytes removed"))]
    if report.losses:
        lost = [(x.kind, x.name, x.rows, x.lost, f"{x.fraction:.1%}") for x in report.losses[:20]]
        lines += ["", "ALARM: more than half of these went; look at their pairs first"]
        lines += [table(lost, header=("kind", "name", "documents", "removed", "part"))]
    return "\n".join(lines)


def group_text(group: DuplicateGroup, *, width: int = 120) -> str:
    """A group: its members, then each next to the one that stays, `|` where words differ."""
    rows = [
        (f"{m.shard}:{m.number}", "kept" if m.kept else "dropped", m.url) for m in group.members
    ]
    lines = [
        f"step {group.step} ({group.operator}): a group of {group.size:,}",
        table(rows, header=("row", "fate", "url")),
    ]
    if group.note:
        lines.append(f"no texts: {group.note}")
    kept, *others = group.members
    for other in others:
        if kept.text is not None and other.text is not None:
            title = (f"{kept.shard}:{kept.number} kept", f"{other.shard}:{other.number} dropped")
            lines += ["", side_by_side(kept.text, other.text, title=title, width=width)]
    return "\n".join(lines)


def side_by_side(left: str, right: str, *, title: tuple[str, str], width: int) -> str:
    """Two texts in two columns, equal words on the same lines, `|` between where they differ."""
    column = (width - 3) // 2
    ours, theirs = left.split()[:MAX_COMPARED_WORDS], right.split()[:MAX_COMPARED_WORDS]
    lines = [f"{title[0]:{column}}   {title[1]}", f"{'-' * column}   {'-' * column}"]
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        parts = [textwrap.wrap(" ".join(words), column) for words in (ours[a:b], theirs[c:d])]
        mark = " " if kind == "equal" else "|"
        for number in range(max(map(len, parts))):
            left_line, other = (part[number] if number < len(part) else "" for part in parts)
            lines.append(f"{left_line:{column}} {mark} {other}".rstrip())
    for words, text in ((ours, left), (theirs, right)):
        if len(words) == MAX_COMPARED_WORDS:
            lines.append(f"... of {len(text.split()):,} words")
            break
    return "\n".join(lines)


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else f"{flat[:77]}..."
