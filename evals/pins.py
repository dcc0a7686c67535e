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
        rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        lines = canonical_json(rows)[1:-1]
        if lines.count(b"],[") == len(rows) - 1:  # only between rows: one call wrote all
            state.update(lines.replace(b"],[", b"]\n[") + b"\n")
            continue
        for row in rows:
            state.update(canonical_json(row) + b"\n")
    return state.hexdigest()
