"""The folder of a submission holds its files alone, whatever an earlier command left there."""

from __future__ import annotations

from pathlib import Path

from leaderboard.submissions.submission import _written
from tests.leaderboard.frauds import record_of
from tests.leaderboard.made_up import make_folder


def test_what_a_killed_command_left_half_written_is_removed(tmp_path: Path) -> None:
    whole = make_folder(tmp_path / "whole")
    files = {
        path.relative_to(whole).as_posix(): path.read_bytes()
        for path in whole.rglob("*")
        if path.is_file()
    }
    record = record_of(whole)
    rest = tmp_path / "out" / record.id / "questions" / "124" / "heldout_ending"
    rest.mkdir(parents=True)
    (rest / ".part-0123abcd-000000.parquet").write_bytes(b"half")
    entry = _written(record, files, tmp_path / "out", "a method")
    left = {
        path.relative_to(entry.folder).as_posix()
        for path in entry.folder.rglob("*")
        if path.is_file()
    }
    assert left == set(files)
