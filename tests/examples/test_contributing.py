"""The first change in CONTRIBUTING.md, made as written."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from pipelines.operators import PARTICIPANT
from pipelines.text import heuristics
from tests.pipelines.text import test_heuristics

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_first_change_works_with_what_its_two_files_import() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    rule, test = (textwrap.dedent(block) for block in blocks)
    names: dict[str, Any] = {**vars(heuristics), "__name__": f"{PARTICIPANT}first_change"}
    exec(compile(rule, "heuristics.py", "exec"), names)
    names = {**vars(test_heuristics), "Exclamations": names["Exclamations"]}
    exec(compile(test, "test_heuristics.py", "exec"), names)
    check = names["test_documents_do_not_shout"]
    [mark] = check.pytestmark
    assert len(mark.args[1]) == 3
    for text, reason in mark.args[1]:
        check(text, reason)
