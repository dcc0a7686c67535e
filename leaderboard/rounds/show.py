"""What stage commands print: a pool, a stage's record, a board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.console import out, show_json, table
from pipelines.execution.progress import say

if TYPE_CHECKING:
    from leaderboard.board.ranking import Row
    from pipelines.formats.pool import Pool


def show_pool(opened: Pool, *, json: bool) -> None:
    """Print what a pool holds, and which of its sources are not the pinned ones."""
    if json:
        show_json(opened.record)
        return
    counts = opened.record.counts
    shown = ", ".join(f"{key} {value:,}" for key, value in counts.items())
    out(f"pool {opened.record.id} in {opened.uri}: {shown}")
    for source in opened.record.work.sources:
        if source.status != "pinned":
            say(f"source {source.name} is {source.status}: this is another pool than others'")


def show_record(folder: str, *, json: bool) -> None:
    """Print the record that a stage left in a folder."""
    from pipelines.storage.chain import read_chain
    from pipelines.storage.open import open_store

    record = read_chain(open_store(folder))[-1]
    if json:
        show_json(record)
        return
    counts = ", ".join(f"{key} {value:,}" for key, value in record.counts.items())
    out(f"{record.kind} {record.id} in {folder}: {counts}")


def show_board(submissions: Path, *, json: bool, only: list[str] | None = None) -> None:
    from leaderboard.board.describe import verdict
    from leaderboard.board.formats import board_table
    from leaderboard.board.ranking import board
    from leaderboard.submissions.submission import read_entries

    rows = board(read_entries(submissions))
    if only is not None:
        keys = {(r.scale, r.track, r.pool_id) for r in rows if r.submission_id in only}
        rows = [row for row in rows if (row.scale, row.track, row.pool_id) in keys]
    if json:
        show_json(rows)
        return
    groups = comparable(rows)
    for number, group in enumerate(groups):
        if len(groups) > 1:
            first = group[0]
            heading = f"{first.benchmark} at {first.scale}, {first.track} track"
            out(f"{chr(10) * bool(number)}{heading}, pool {first.pool_id[:8]}")
        header, cells = board_table(group)
        out(table(cells, header=header))
        out(f"\n{verdict(group)}")


def comparable(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups that may be compared, in the order of their first rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.benchmark, row.scale, row.track, row.pool_id, row.suite_version)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def absolute(address: str) -> str:
    """A path that means the same in another process; URIs stay as they are."""
    return address if "://" in address else str(Path(address).absolute())
