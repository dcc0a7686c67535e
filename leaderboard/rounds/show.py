"""What stage commands print: a pool, a stage's record, a board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.console import out, show_json, table
from pipelines.errors import DataError
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
    """Print each board of a folder of submissions under its heading; `only` those of some ids."""
    from leaderboard.board.describe import verdict
    from leaderboard.board.formats import board_table
    from leaderboard.board.ranking import board, group_of
    from leaderboard.submissions.submission import read_entries

    rows = board(read_entries(submissions))
    if not rows:
        raise DataError(
            f"there is no submission in {submissions}; give the folder that holds submissions' "
            "folders, as WORKSPACE/submissions"
        )
    if only is not None:
        keys = {group_of(row) for row in rows if row.submission_id in only}
        rows = [row for row in rows if group_of(row) in keys]
    if json:
        show_json(rows)
        return
    groups = comparable(rows)
    for number, group in enumerate(groups):
        if len(groups) > 1:
            out(f"{chr(10) * bool(number)}{heading(group[0])}")
        header, cells = board_table(group)
        out(table(cells, header=header))
        out(f"\n{verdict(group)}")


def heading(row: Row) -> str:
    """What the rows of a board have in common; two boards of a folder never have it alike."""
    data = f", evaluation data {row.data_id[:6]}" if row.data_id else ""
    return (
        f"{row.benchmark} at {row.scale}, {row.track} track, pool {row.pool_id[:8]}, "
        f"suite {row.suite} version {row.suite_version}{data}"
    )


def comparable(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups that may be compared, in the order of their first rows."""
    from leaderboard.board.ranking import group_of

    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    return list(groups.values())


def absolute(address: str) -> str:
    """A path that means the same in another process; URIs stay as they are."""
    return address if "://" in address else str(Path(address).absolute())
