"""The board as a table for a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.board.formats import board_table
from leaderboard.board.ranking import board
from leaderboard.submissions.submission import read_entry
from tests.leaderboard.made_up import make_folder

pytestmark = pytest.mark.usefixtures("few_draws")


def test_fewer_seeds_of_one_dataset_have_no_rank_and_no_interval(tmp_path: Path) -> None:
    """They are the row with more seeds: beside it there is nothing to compare."""
    made = [
        make_folder(tmp_path, method="mine", chance=1, skill=0.6, seeds=(124, 125, 126)),
        make_folder(tmp_path, method="mine", chance=1, skill=0.6, seeds=(124, 125)),
        make_folder(tmp_path, method="other", chance=2, skill=0.3, seeds=(124, 125, 126)),
    ]
    header, cells = board_table(board([read_entry(folder) for folder in made]))
    at = [header.index(name) for name in ("rank", "method", "behind the leader (95%)", "seeds")]
    shown = sorted([row[n] for n in at] for row in cells)
    assert shown[0] == ["-", "mine", "superseded by more seeds", 2]
    assert shown[1] == ["1", "mine", "leads", 3]
    assert str(shown[2][0]).startswith("2")
