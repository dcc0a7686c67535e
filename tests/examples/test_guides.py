"""The guide to own operators, run block by block as it is written."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import pipelines.execution.progress  # noqa: F401  its console is the process's, not a test's
from pipelines.participant_code import load_module, module_of
from pipelines.registry import operators_in

GUIDE = Path(__file__).parents[2] / "docs" / "own-operators.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {"filter", "modifier", "splitter", "select", "dedup", "fold"}


def test_every_block_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed, compared = "", 0
    for language, code in BLOCK.findall(GUIDE.read_text()):
        if file := re.match(r"# file: (\S+)\n", code):
            Path(file[1]).write_text(code)
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(code, GUIDE.name, "exec"), names)
            printed = stream.getvalue()
        else:
            assert printed == code
            compared += 1
    assert compared == 3
    kinds = {
        operator.kind for operator in operators_in(load_module(module_of(Path("mine.py")))).values()
    }
    assert kinds == KINDS
