"""The stored files that a pass wrote for a shard, by their roles."""

from __future__ import annotations

from pipelines.engine.shard import role
from pipelines.records import (
    File,
)
from pipelines.storage.commits import Done


def written(done: Done, name: str) -> str:
    name_written = role(done, name)
    assert name_written is not None, f"{done.key} wrote no {name}"
    return name_written


def done_file(done: Done, name: str) -> File:
    """The stored file that a shard wrote in a role."""
    return done.files[done.stats["roles"][name]]


def rows_left(done: Done) -> int:
    """How many rows a pass over one shard handed on, as a table or as their numbers."""
    file = done_file(done, "table" if "table" in done.stats["roles"] else "rows")
    return file.num_rows or 0
