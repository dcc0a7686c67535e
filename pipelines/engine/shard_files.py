"""The stored files that a pass wrote for a shard, by role (`table`, `rows`, `scores`, `keys`)."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.records import (
    File,
)
from pipelines.stats import StepStats
from pipelines.storage.commits import Done


def steps_of(done: Done) -> Sequence[StepStats]:
    """The statistics of the steps in a shard's commit."""
    return [StepStats.model_validate(step) for step in done.stats["steps"]]


def role(done: Done, name: str) -> str | None:
    """The name of the file that a shard wrote in this role, or None."""
    index = done.stats["roles"].get(name)
    return None if index is None else done.files[index].name


def written(done: Done, name: str) -> str:
    """The name of the file that a shard must have written in this role."""
    name_written = role(done, name)
    assert name_written is not None, f"{done.key} wrote no {name}"
    return name_written


def done_file(done: Done, name: str) -> File:
    """The stored file that a shard wrote in a role."""
    return done.files[done.stats["roles"][name]]


def rows_left(done: Done) -> int:
    """How many rows are left after a pass over one shard."""
    file = done_file(done, "table" if "table" in done.stats["roles"] else "rows")
    return file.num_rows or 0
