"""The pinned data of each task: its identity, number of questions, and answers.

`pins.yaml` next to this file lists them, one task per line:

    arc_easy: {identity: <sha256>, rows: 2376, truth: <sha256>}

`identity` is the hash of the task's canonical rows (`evals.tasks.identity_of`, and for images
`ImageData.identity`), so another file format of the same questions is the same data. `truth` is
the hash of the log columns that repeat the data (`truth_of`): from the log alone one can check that
its right answers, byte counts and rows are those of the pinned data.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.records import Frozen, canonical_json
from pipelines.yaml_text import load_plain

PINS = Path(__file__).parent / "pins.yaml"
TRUTH = {
    "multiple_choice": ("row", "category", "gold"),
    "schema": ("row", "category", "gold"),
    "language_modeling": ("row", "category"),
    "generation": ("row", "category"),
    "answer_loss": ("row", "category", "num_bytes"),
    "perplexity": ("row", "category", "num_bytes"),
    "token_loss": ("row", "num_tokens"),
    "image_classification": ("row", "key", "gold", "metadata"),
    "image_retrieval": ("row", "side", "gold"),
    "image_association": ("row", "cue", "candidates", "gold"),
    "image_attributes": ("row", "key", "metadata"),
    "image_generation": ("row",),
    "image_memorisation": ("row",),
    "image_restoration": ("row",),
    "image_sampling": ("row",),
    "image_clip": ("row",),
}
"""The columns of a log that are the data's, by kind of task; a model cannot change them.

Those that each machine rounds in its own way (features of held-out images) have no common hash and
are compared with a tolerance (`leaderboard.submissions.data_numbers`)."""

UNPLAIN = r"[^\x20-\x7e]|[\"\\]"  # characters that JSON may write otherwise than as they are


class Pin(Frozen):
    """The pinned data of one task."""

    identity: str = Field(pattern="^[0-9a-f]{64}$")
    rows: int = Field(gt=0, description="rows of its log")
    truth: str = Field(pattern="^[0-9a-f]{64}$")


@cache
def pins() -> dict[str, Pin]:
    """The pins that come with this version, by task."""
    recorded = load_plain(PINS.read_text(encoding="utf-8")) or {}
    return {name: Pin.model_validate(value) for name, value in recorded.items()}


def pin_of(task: str) -> Pin | None:
    """The pin of a task; None when its data is not pinned."""
    return pins().get(task)


def truth_table(kind: str, log: pa.Table) -> pa.Table:
    """The columns of a log that repeat the data, in order of the rows."""
    columns = [name for name in TRUTH[kind] if name in log.column_names]
    return log.select(columns).take(pc.sort_indices(log["row"]))


def truth_of(kind: str, log: pa.Table) -> str:
    """sha256 over the canonical JSON of each row of `truth_table`, one per line."""
    table = truth_table(kind, log)
    state = hashlib.sha256(canonical_json(table.column_names) + b"\n")
    for batch in table.to_batches(max_chunksize=4096):
        columns = [_written(column) for column in batch.columns]
        written = [column for column in columns if column is not None]
        if len(written) == len(columns):
            state.update(_lines(written))
            continue
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            state.update(canonical_json(row) + b"\n")
    return state.hexdigest()


def _lines(columns: list[pa.Array]) -> memoryview:
    """One JSON list per row, each on a line of its own, from the JSON of its values."""
    rows = pc.binary_join_element_wise(*columns, ",")
    lines = pc.binary_join_element_wise("[", rows, "]\n", "")
    return memoryview(lines.buffers()[2])


def _written(column: pa.Array) -> pa.Array | None:
    """The JSON of each value as a text; None for what is not a plain number, text or list."""
    kind = column.type
    if pa.types.is_null(kind):
        return pa.repeat("null", len(column))
    if pa.types.is_integer(kind):
        return pc.fill_null(column.cast(pa.string()), "null")
    if pa.types.is_string(kind):
        if pc.any(pc.match_substring_regex(column, UNPLAIN)).as_py():
            return None
        return pc.fill_null(pc.binary_join_element_wise('"', column, '"', ""), "null")
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type) and not column.null_count:
        numbers = _written(column.flatten())
        starts = pc.subtract(column.offsets, column.offsets[0])
        lists = pc.binary_join(pa.ListArray.from_arrays(starts, numbers), ",")
        return pc.binary_join_element_wise("[", lists, "]", "")
    return None
