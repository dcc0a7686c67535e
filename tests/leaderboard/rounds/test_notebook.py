"""The notebook: every try stays, whatever happens to the process that makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leaderboard.rounds.model_commands import number_of_tries
from leaderboard.rounds.notebook import Notebook, noted
from pipelines.errors import RuleError
from pipelines.records import DatasetRecord, parse_record
from tests.leaderboard.made_up import make_folder


def dataset(folder: Path, **options: object) -> DatasetRecord:
    record = parse_record(
        (make_folder(folder, **options) / "submission.json").read_bytes(), source="made up"
    )
    [actual] = [record for record in record.chain if isinstance(record, DatasetRecord)]
    return actual


def test_tries_are_the_datasets_that_were_trained_on(tmp_path: Path) -> None:
    book = Notebook(str(tmp_path), "dclm", "tiny")
    first = dataset(tmp_path / "a", method="first")
    assert book.tries() == 0
    book.start("first", first, (124,))
    book.start("first", first, (124, 125))  # more seeds of one dataset are one try
    book.start("second", dataset(tmp_path / "b", method="second", chance=1), (124,))
    book.start("no_filter", dataset(tmp_path / "c", method="no_filter", chance=2), (124,))
    assert book.tries() == 2
    assert [line.baseline for line in book.lines()] == [False, False, False, True]
    assert Notebook(str(tmp_path), "dclm", "25m").tries() == 0


def test_a_failed_try_stays(tmp_path: Path) -> None:
    book = Notebook(str(tmp_path), "dclm", "tiny")
    start = book.start("first", dataset(tmp_path / "a", method="first"), (124,))
    with pytest.raises(RuntimeError, match="the loss is not finite"), noted(book, [start]):
        raise RuntimeError("the loss is not finite")
    assert [line.state for line in book.lines()] == ["started", "failed"]
    assert book.lines()[1].text == "RuntimeError: the loss is not finite"
    assert book.tries() == 1


def test_no_line_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    code = (
        "from leaderboard.rounds.notebook import Notebook\n"
        f"book = Notebook({str(tmp_path)!r}, 'dclm', 'tiny')\n"
        "for n in range(100000):\n"
        "    book.write('note', text=str(n))\n"
        "    print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(20):
        last = writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    answer = int((rest or [last])[-1])
    lines = Notebook(str(tmp_path), "dclm", "tiny").lines()
    assert [line.text for line in lines][: answer + 1] == [str(n) for n in range(answer + 1)]


def test_tries_of_a_submission_are_counted_or_said(tmp_path: Path) -> None:
    book = Notebook(str(tmp_path), "dclm", "tiny")
    with pytest.raises(
        RuleError, match=r"--tries auto: the notebook of .* has no try of dclm tiny"
    ):
        number_of_tries("auto", str(tmp_path), "dclm", "tiny")
    for number in range(3):
        actual = dataset(tmp_path / str(number), method=f"try {number}", chance=number)
        book.start(f"try {number}", actual, (124,))
    assert number_of_tries("auto", str(tmp_path), "dclm", "tiny") == 3
    assert number_of_tries("12", str(tmp_path), "dclm", "tiny") == 12
    assert number_of_tries(None, str(tmp_path), "dclm", "tiny") is None
    for wrong in ("0", "-1", "many"):
        with pytest.raises(RuleError, match="expected a number from 1, or auto"):
            number_of_tries(wrong, str(tmp_path), "dclm", "tiny")
