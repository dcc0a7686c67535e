"""Repeated spans of the whole pool, found by hash and compared byte by byte before they go.

Six rounds of tasks, by parts of keys or by shards; what passes between them is a file per task:

    shard   anchors (in the pass before: the operator's `keys`)
    part    anchors whose key occurs more than once             -> to their shards
    shard   windows of those anchors, with keys                 -> to parts, by anchor
    part    windows equal to an earlier one, joined into runs   -> to their shards
    shard   runs joined further: which spans of other shards to fetch
    shard   those spans' text                                   -> to the shards that asked
    shard   every run compared with the text it repeats         -> the verdict

A task holds one part of the keys (up to `PART_KEYS`, or all windows of the most frequent anchor),
or the runs of one shard and the text that these repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.global_steps.duplicate_record import (
    DUPLICATES,
    Duplicates,
    Groups,
    groups_of_sizes,
    merge_groups,
    write_duplicates,
)
from pipelines.global_steps.group_keys import (
    VERDICT_SCHEMA,
    GroupTask,
    KeyWriter,
    read_groups,
    verdict_of,
)
from pipelines.global_steps.merged_files import Merger
from pipelines.job import Held, Plan, loaded
from pipelines.operators import SpanDedup
from pipelines.records import File, Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.sources import held_rows
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_part, read_parts, write_by
from pipelines.verdict import Verdict

PART_KEYS = 4_000_000  # bounds the memory of the task that groups a part
CHUNK_UNITS = 4_000_000  # units whose text is compared at a time
Ints = npt.NDArray[np.int64]

RUNS = pa.schema(  # `windows` neighbouring windows from unit `begin` equal those of `other`
    [
        ("row", pa.int64()),
        ("begin", pa.int64()),
        ("windows", pa.int64()),
        ("other", pa.int64()),
        ("other_begin", pa.int64()),
    ]
)
REQUESTS = pa.schema(
    [("row", pa.int64()), ("begin", pa.int64()), ("end", pa.int64()), ("shard", pa.int64())]
)
QUOTES = pa.schema(
    [
        ("row", pa.int64()),
        ("begin", pa.int64()),
        ("end", pa.int64()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("text", pa.large_binary()),
    ]
)
PAIRS = pa.schema(  # spans of bytes, begin << 32 | end
    [("row", pa.int64()), ("span", pa.int64()), ("other", pa.int64()), ("other_span", pa.int64())]
)


class SpanTask(Frozen):
    """One shard in one of the rounds."""

    plan: Plan
    step: int
    key: str
    shard: int
    input: Held
    files: tuple[str, ...]
    quotes: tuple[str, ...] = ()
    num_partitions: int = 1

    @property
    def uri(self) -> str:
        return self.plan.output_uri

    def operator(self) -> SpanDedup:
        pipeline = self.plan.pipeline()
        operator = loaded(pipeline.steps[self.step], pipeline.assets)
        assert isinstance(operator, SpanDedup)
        return operator


class RepeatTask(GroupTask):
    """Windows of one part: how long they are, and whether the first of equal ones stays."""

    window: int
    keep_first: bool


def find_spans(
    store: Store,
    *,
    plan: Plan,
    step: int,
    state: str,
    files: Sequence[str],
    inputs: Sequence[Held],
    map_tasks: MapTasks,
) -> tuple[Verdict, Groups]:
    """Spans of bytes that go, and the groups of equal spans (the first, and its repeats)."""
    operator = plan.pipeline().steps[step].operator
    assert isinstance(operator, SpanDedup)
    name = digest([state, plan.num_partitions])[:16]
    shards = range(len(inputs))
    merge = Merger(store, step, state, map_tasks)

    def for_shards(what: str, done: Sequence[Done], number: int = 0) -> list[str]:
        return merge(what, _names(done, number), readers=len(shards))

    def by_shard(kind: str, names: Sequence[str], **options: Any) -> list[SpanTask]:
        return [
            SpanTask(
                plan=plan,
                step=step,
                key=f"{kind}{step}-{shard:05d}-{name}",
                shard=shard,
                input=inputs[shard],
                files=tuple(names),
                **options,
            )
            for shard in shards
        ]

    anchor_tasks = GroupTask.of_parts(
        store,
        "anchors",
        step=step,
        state=state,
        num_partitions=plan.num_partitions,
        rank="uint8",
        files=merge("keys", files, readers=plan.num_partitions),
    )
    marked = map_tasks(run_anchors, anchor_tasks)
    anchors = sum(result.counts["anchors"] for result in marked)
    windows_at_most = anchors * (operator.window_units() + 1) // 2
    num_parts = max(plan.num_partitions, -(-windows_at_most // PART_KEYS))
    marks = for_shards("anchors", marked)
    windows = map_tasks(run_windows, by_shard("windows", marks, num_partitions=num_parts))
    repeats = RepeatTask.of_parts(
        store,
        "repeats",
        step=step,
        state=state,
        num_partitions=num_parts,
        rank="uint8",
        files=merge("windows", _names(windows), readers=num_parts),
        window=operator.window_units(),
        keep_first=operator.keep_first(),
    )
    repeated = map_tasks(run_repeats, repeats)
    runs = map_tasks(run_requests, by_shard("requests", for_shards("repeats", repeated)))
    quotes = map_tasks(run_quotes, by_shard("quotes", for_shards("requests", runs, 1)))
    quoted = tuple(for_shards("quotes", quotes))
    compared = [
        task.model_copy(update={"files": (runs[task.shard].files[0].name,)})
        for task in by_shard("spans", (), quotes=quoted)
    ]
    verified = map_tasks(run_compare, compared)
    grouped = map_tasks(run_groups, by_shard("spangroups", for_shards("pairs", verified, 1)))
    groups = merge_groups([result.stats for result in grouped])
    units = sum(result.counts["spans"] for result in verified)
    verdict = verdict_of(verified, merge, shards=len(shards))
    return verdict, groups.model_copy(update={"units": units})


def _names(done: Sequence[Done], number: int = 0) -> list[str]:
    return [result.files[number].name for result in done if result.files[number].num_rows]


@once
def run_anchors(task: GroupTask, store: Store) -> Done:
    """Anchors of one part whose key occurs more than once, for their shards."""
    groups = read_groups(store, task)
    many = np.repeat(groups.sizes > 1, groups.sizes)
    row, unit = groups.row[many], groups.unit[many].astype(np.int64)
    file = _by_shard(store, f"work/anchors-{task.part:04d}", VERDICT_SCHEMA, row, [row, unit])
    return Done(key=task.key, files=(file,), counts={"anchors": len(row)})


@once
def run_windows(task: SpanTask, store: Store) -> Done:
    """The windows of one shard's anchors, for the parts of their anchors."""
    row, unit = _sorted(read_parts(store, task.files, task.shard, VERDICT_SCHEMA))
    name = attempt_name(f"work/windows-{task.shard:05d}", ".parts")
    writer = KeyWriter(store, name, task.num_partitions)
    operator = task.operator()
    try:
        for batch in _rows_among(task, store, row):
            begin = np.searchsorted(row, batch.rows)
            end = np.searchsorted(row, batch.rows, side="right")
            marked = [unit[a:b] for a, b in zip(begin, end, strict=True)]
            writer.add(operator.windows(batch, marked), batch.rows)
    except BaseException:
        writer.abandon()
        raise
    return Done(key=task.key, files=(writer.close(),))


@once
def run_repeats(task: RepeatTask, store: Store) -> Done:
    """Windows of one part that repeat another one, joined into runs, for their shards.

    The other is the first of the equal windows; a window that begins inside the first one of its
    own document is not a repeat. Where all go, the other is the last, if only that is clear of it.
    """
    groups = read_groups(store, task)
    row, unit = groups.row, groups.unit.astype(np.int64)
    other = groups.leader
    clear = (row != row[other]) | (unit >= unit[other] + task.window)
    if not task.keep_first:
        last = np.repeat(groups.begins + groups.sizes - 1, groups.sizes)
        other = np.where(clear, other, last)
        clear |= (row != row[last]) | (unit + task.window <= unit[last])
    here = np.flatnonzero(clear)
    runs = _joined(
        [row[here], unit[here], np.ones(len(here), np.int64), row[other][here], unit[other][here]]
    )
    file = _by_shard(store, f"work/runs-{task.part:04d}", RUNS, runs[0], runs)
    return Done(key=task.key, files=(file,))


def _joined(runs: Sequence[Ints]) -> list[Ints]:
    """Runs sorted by place, neighbours joined where what they equal are neighbours too."""
    order = np.lexsort((runs[1], runs[0]))
    row, begin, windows, other, other_begin = (values[order] for values in runs)
    new = np.ones(len(row), dtype=bool)
    new[1:] = (
        (row[1:] != row[:-1])
        | (begin[1:] != begin[:-1] + windows[:-1])
        | (other[1:] != other[:-1])
        | (other_begin[1:] != other_begin[:-1] + windows[:-1])
    )
    heads = np.flatnonzero(new)
    sums = np.add.reduceat(windows, heads) if len(heads) else windows
    return [row[heads], begin[heads], sums, other[heads], other_begin[heads]]


@once
def run_requests(task: SpanTask, store: Store) -> Done:
    """The runs of one shard, and for each shard the spans that they repeat, each once."""
    runs = _joined(read_parts(store, task.files, task.shard, RUNS))
    _, _, windows, other, other_begin = runs
    end = other_begin + windows + task.operator().window_units() - 1
    quotes = np.unique(np.stack([other, other_begin, end], axis=1), axis=0).T
    columns = [*quotes, np.full(quotes.shape[1], task.shard)]
    with PartsWriter(store, attempt_name(f"work/own-{task.shard:05d}", ".parts"), RUNS) as own:
        own.add(0, runs)
    stem = f"work/requests-{task.shard:05d}"
    requests = _by_shard(store, stem, REQUESTS, columns[0], columns)
    return Done(key=task.key, files=(own.file(), requests))


@once
def run_quotes(task: SpanTask, store: Store) -> Done:
    """The text of one shard's spans that others ask for, for the shards that asked."""
    row, begin, end, asked = _sorted(read_parts(store, task.files, task.shard, REQUESTS))
    operator = task.operator()
    name = attempt_name(f"work/quotes-{task.shard:05d}", ".parts")
    with PartsWriter(store, name, QUOTES) as out:
        for batch, chunks in _chunks(task, store, row, end - begin):
            for here in chunks:
                order = here[np.argsort(asked[here], kind="stable")]
                positions = np.searchsorted(batch.rows, row[order])
                text = operator.quotes(batch, positions, begin[order], end[order])
                first, last = operator.places(batch, positions, begin[order], end[order])
                columns = [row[order], begin[order], end[order], first, last]
                shards, borders = np.unique(asked[order], return_index=True)
                for shard, (a, b) in zip(
                    shards.tolist(), pairwise([*borders.tolist(), len(order)]), strict=True
                ):
                    out.add(shard, [*(values[a:b] for values in columns), text.slice(a, b - a)])
    return Done(key=task.key, files=(out.file(),))


@once
def run_compare(task: SpanTask, store: Store) -> Done:
    """Compare the runs of one shard with what they repeat; what is equal goes.

    Files: the verdict, and pairs of spans by the shard of the other. A run that differs (two texts
    of one hash) is cut down to the windows that are equal.
    """
    operator = task.operator()
    window = operator.window_units()
    row, begin, windows, other, other_begin = read_parts(store, task.files, 0, RUNS)
    quotes = [b for name in task.quotes for b in read_part(store, name, task.shard, QUOTES)]
    table = pa.Table.from_batches(quotes, schema=QUOTES)
    length = windows + window - 1
    quoted = [table.column(number).to_numpy() for number in range(5)]
    where = _find(quoted[:3], [other, other_begin, other_begin + length])
    dropped: list[tuple[Ints, Ints]] = []
    pairs: list[list[Ints]] = []
    refused = 0
    for batch, chunks in _chunks(task, store, row, length):
        units: list[list[Ints]] = []
        for here in chunks:
            positions = np.searchsorted(batch.rows, row[here])
            stop = begin[here] + length[here]
            text = operator.quotes(batch, positions, begin[here], stop)
            theirs = table.column("text").take(pa.array(where[here])).combine_chunks()
            equal = pc.equal(text, theirs).to_numpy(zero_copy_only=False)
            first, last = operator.places(batch, positions, begin[here], stop)
            units.append([positions[equal], begin[here][equal], stop[equal]])
            for number in np.flatnonzero(~equal).tolist():
                kept = _equal_windows(text[number].as_py(), theirs[number].as_py(), window)
                refused += int(windows[here[number]]) - sum(b - a - window + 1 for a, b in kept)
                at = int(begin[here[number]])
                units += [
                    [positions[[number]], np.array([at + a]), np.array([at + b])] for a, b in kept
                ]
            span = (first << 32 | last)[equal]
            at_quote = where[here][equal]
            pairs.append([row[here][equal], span, other[here][equal], _packed(quoted, at_quote)])
        dropped.append(_spans(operator, batch, units))
    verdict_name = attempt_name(f"work/verdict-spans-{task.shard:05d}", ".parts")
    with PartsWriter(store, verdict_name, VERDICT_SCHEMA) as out:
        for spans in dropped:
            out.add(task.shard, spans)
    columns = [np.concatenate([p[i] for p in pairs]) if pairs else row[:0] for i in range(4)]
    file = _by_shard(store, f"work/pairs-{task.shard:05d}", PAIRS, columns[2], columns)
    counts = {"spans": out.num_rows, "refused_windows": refused}
    return Done(key=task.key, files=(out.file(), file), counts=counts)


@once
def run_groups(task: SpanTask, store: Store) -> Done:
    """The groups of equal spans whose first is in this shard."""
    row, span, other, other_span = read_parts(store, task.files, task.shard, PAIRS)
    duplicates = Duplicates(row, span, other, other_span)
    file = write_duplicates(store, f"{DUPLICATES}/{task.step:03d}-{task.shard:05d}", duplicates)
    firsts, sizes = np.unique(np.stack([other, other_span], axis=1), axis=0, return_counts=True)
    groups = groups_of_sizes(sizes + 1, firsts[:, 0], firsts[:, 1], compared=0)
    return Done(key=task.key, files=(file,), stats=groups.model_dump())


# ---- helpers


def _by_shard(
    store: Store, stem: str, schema: pa.Schema, rows: Ints, columns: Sequence[Ints]
) -> File:
    """A file with one part per shard of `rows`."""
    return write_by(store, attempt_name(stem, ".parts"), schema, rows >> ROW_BITS, columns)


def _sorted(columns: Sequence[Ints]) -> list[Ints]:
    order = np.lexsort(tuple(reversed(columns)))
    return [values[order] for values in columns]


def _rows_among(task: SpanTask, store: Store, rows: Ints) -> Iterator[Batch]:
    """The shard's rows that are in `rows` (sorted), in batches."""
    if not len(rows):
        return
    columns = task.operator().reads()
    for batch in held_rows(task.input, store, task.plan, task.shard, columns=columns):
        batch = batch.keep(np.isin(batch.rows, rows))
        if batch.num_rows:
            yield batch


def _chunks(
    task: SpanTask, store: Store, rows: Ints, sizes: Ints
) -> Iterator[tuple[Batch, list[Ints]]]:
    """Batches, each with the places in `rows` (sorted) of its rows, cut by the sum of sizes."""
    for batch in _rows_among(task, store, rows):
        begin = int(np.searchsorted(rows, batch.rows[0]))
        end = int(np.searchsorted(rows, batch.rows[-1], side="right"))
        chunk = np.cumsum(sizes[begin:end]) // CHUNK_UNITS
        borders = np.flatnonzero(np.diff(chunk, prepend=-1)).tolist()
        cuts = pairwise([*borders, end - begin])
        yield batch, [np.arange(begin + a, begin + b) for a, b in cuts]


def _find(table: Sequence[Ints], keys: Sequence[Ints]) -> Ints:
    """For each requested triple its place in the table, which holds them all."""
    both = np.stack([np.concatenate(pair) for pair in zip(table, keys, strict=True)], axis=1)
    _, first, inverse = np.unique(both, axis=0, return_index=True, return_inverse=True)
    matches: Ints = first[inverse.reshape(-1)[len(table[0]) :]]
    assert (matches < len(table[0])).all(), "a quote was asked for and did not come"
    return matches


def _spans(operator: SpanDedup, batch: Batch, units: Sequence[Sequence[Ints]]) -> tuple[Ints, Ints]:
    """Rows and packed byte spans of units begin .. end, those that touch joined."""
    columns = [np.concatenate(values) for values in zip(*units, strict=True)]
    positions, begin, end = (values[np.lexsort((columns[1], columns[0]))] for values in columns)
    merged: list[list[int]] = []
    for p, b, e in zip(positions.tolist(), begin.tolist(), end.tolist(), strict=True):
        if merged and merged[-1][0] == p and b <= merged[-1][2]:
            merged[-1][2] = max(merged[-1][2], e)
        else:
            merged.append([p, b, e])
    joined = np.array(merged, dtype=np.int64).reshape(-1, 3)
    first, last = operator.places(batch, joined[:, 0], joined[:, 1], joined[:, 2])
    some = last > first
    return batch.rows[joined[some, 0]], (first << 32 | last)[some]


def _packed(quoted: Sequence[Ints], at: Ints) -> Ints:
    packed: Ints = quoted[3][at] << 32 | quoted[4][at]
    return packed


def _equal_windows(own: bytes, theirs: bytes, window: int) -> list[tuple[int, int]]:
    """Runs of units (begin, end) of at least a window in which both texts are the same."""
    ours, others = (text.split(b"\xff")[:-1] for text in (own, theirs))
    if len(ours) == 1:  # bytes: one quote as a whole
        ours, others = ([bytes([b]) for b in parts[0]] for parts in (ours, others))
    runs, begin = [], 0
    for number in range(len(ours) + 1):
        if number == len(ours) or ours[number] != others[number]:
            if number - begin >= window:
                runs.append((begin, number))
            begin = number + 1
    return runs
