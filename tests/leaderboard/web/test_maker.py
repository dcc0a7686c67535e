"""What the process that makes pages prepares between jobs: large boards ordered by every metric."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from leaderboard.board.boards import BoardKey, Library, View
from leaderboard.database.store import Store
from leaderboard.published.literature import put_references
from leaderboard.web.shelf import Shelf

ROOT = Path(__file__).parents[3]
# Boards of a few rows count as large ones here.
PROGRAM = """
import leaderboard.board.boards as boards

boards.KEPT_FROM = 2
from leaderboard.web.maker import main

main()
"""


class Noted(Shelf):
    """A shelf that notes what was asked for and was there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.there: list[object] = []

    def get(self, stamp: str, key: object) -> bytes | None:
        data = super().get(stamp, key)
        if data is not None:
            self.there.append(key)
        return data

    def put(self, stamp: str, key: object, data: bytes) -> None:
        """Nothing: what is there was put by somebody else."""


def orders_there(store: Store, folder: Path, board: BoardKey, metrics: Sequence[str]) -> int:
    """How many of a board's metrics have their order on the shelf."""
    shelf = Noted(folder)
    library = Library(store, keeper=shelf)
    for metric in metrics:
        library.page(*board, View(metric=metric, limit=1))
    return sum(any(metric in str(key) for key in shelf.there) for metric in metrics)


@pytest.mark.slow
def test_a_copy_orders_large_boards_by_their_other_metrics(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/board.db")
    put_references(store)
    board = max(Library(store).boards(), key=lambda each: each.number)
    key = (board.benchmark, board.scale, board.track)
    metrics = Library(store).page(*key, View(limit=1)).metrics
    assert len(metrics) > 1
    maker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "files"), ""],
        env={**os.environ, "LEADERBOARD_DATABASE": store.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        standings = tmp_path / "files" / "standings"
        until = time.monotonic() + 300
        while orders_there(store, standings, key, metrics) < len(metrics):
            assert maker.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        assert maker.stdin is not None
        maker.stdin.close()
        assert maker.wait(timeout=300) == 0  # its input closed: it ends, and its copy with it
    store.close()
