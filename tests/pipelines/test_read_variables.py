"""Environment variables that a participant's code reads are named in the record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.opened_files import code_folders
from pipelines.pipeline import Pipeline
from pipelines.read_variables import read_variables
from pipelines.records import DatasetRecord

CODE = """
import os
from os import environ, getenv
from pathlib import Path
from pipelines.operators import Filter, because
{head}


class Mine(Filter):
    \"\"\"Reject some texts.\"\"\"

    reasons = ("listed",)

    def reject(self, batch):
        word = {word}
        return because([word in text for text in batch.text.to_pylist()], "listed")
"""


def curate(
    folder: Path, *, step: str = "mine.py:Mine", rows: int = 20, **code: str
) -> DatasetRecord:
    """A run over numbered documents; `code`: the bodies of files in the participant's folder."""
    (folder / "pool").mkdir(exist_ok=True)
    lines = [orjson.dumps({"text": f"document {n}"}) + b"\n" for n in range(rows)]
    (folder / "pool/a.jsonl").write_bytes(b"".join(lines))
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "mine.yaml").write_text(f"steps: ['{step}']\n")
    pipeline = Pipeline.load(folder / "mine.yaml")
    return run(pipeline, open_pool(str(folder / "pool")), out=str(folder / "out")).record


def variables_of(record: DatasetRecord, step: str = "mine.py:Mine") -> list[str]:
    """The names in the record; the count in its figures must be theirs."""
    prefix = f"undeclared_variable/step 1 ({step})/"
    names = [v for name, v in record.made_by.locations.items() if name.startswith(prefix)]
    figure = f"undeclared_variables/step 1 ({step})"
    assert record.made_by.figures.get(figure, 0) == len(names)
    return names


@pytest.mark.parametrize(
    "word",
    [
        "os.environ['WORD_OF_MINE']",
        "os.environ.get('WORD_OF_MINE', '7')",
        "environ.get('WORD_OF_MINE')",
        "os.getenv('WORD_OF_MINE')",
        "getenv('WORD_OF_MINE', '7')",
        "os.environb[b'WORD_OF_MINE'].decode()",
        "os.path.expandvars('$WORD_OF_MINE')",
        "'7' if 'WORD_OF_MINE' in os.environ else '8'",
        "os.environ.setdefault('WORD_OF_MINE', '8')",
        "os.environ.pop('WORD_OF_MINE', '7')",
    ],
)
def test_every_way_of_reading_a_variable_is_named(
    tmp_path: Path, word: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORD_OF_MINE", "7")
    before = type(os.environ), type(os.environb)
    record = curate(tmp_path, mine=CODE.format(head="", word=word))
    assert record.counts["rows_out"] == 18
    assert variables_of(record) == ["WORD_OF_MINE"]
    assert "step 1 (mine.py:Mine) reads environment variables (WORD_OF_MINE)" in caplog.text
    assert (type(os.environ), type(os.environb)) == before


def test_a_value_is_never_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "a-password")
    record = curate(tmp_path, mine=CODE.format(head="TOKEN = getenv('TOKEN_OF_MINE')", word="'7'"))
    assert variables_of(record) == ["TOKEN_OF_MINE"]
    assert b"a-password" not in record.to_json()


def test_a_whole_environment_that_is_read_is_counted(tmp_path: Path) -> None:
    record = curate(tmp_path, mine=CODE.format(head="ALL = dict(os.environ)", word="'7'"))
    names = [n for n in record.made_by.locations if n.startswith("undeclared_variable/")]
    assert len(names) == min(20, len(os.environ))
    assert record.made_by.figures["undeclared_variables/step 1 (mine.py:Mine)"] == len(os.environ)


def test_what_code_set_itself_and_what_libraries_read_is_not_the_participant_s(
    tmp_path: Path,
) -> None:
    head = "import tempfile\nos.environ['SET_BY_MINE'] = '7'\nWORD = os.environ['SET_BY_MINE']"
    record = curate(
        tmp_path, mine=CODE.format(head=head, word="WORD or tempfile._get_default_tempdir()")
    )
    assert variables_of(record) == []


@pytest.mark.parametrize("rows", [20, 1])
def test_helpers_packages_and_page_functions_are_seen_at_import_too(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one row no operator is tried, and what was read at import is known all the same."""
    helper = {"helper_of_mine": "import os\nWORD = os.getenv('WORD_OF_HELPER', '7')\n"}
    code = CODE.format(head="from helper_of_mine import WORD", word="WORD")
    (tmp_path / "a").mkdir()
    record = curate(tmp_path / "a", rows=rows, mine=code, **helper)
    assert variables_of(record) == ["WORD_OF_HELPER"]

    name = f"module_that_reads_{rows}"
    site = tmp_path / "b"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    folders = (*code_folders(), f"{site}/")  # as if it were installed
    monkeypatch.setattr("pipelines.read_variables.code_folders", lambda: folders)
    code = CODE.format(head="WORD = getenv('WORD_OF_PACKAGE', '7')", word="WORD")
    record = curate(site, rows=rows, step=f"{name}:Mine", **{name: code})
    assert variables_of(record, f"{name}:Mine") == ["WORD_OF_PACKAGE"]

    function = "import os\nN = os.getenv('N_OF_FUNCTION')\n\ndef few(page):\n    return [page]\n"
    (tmp_path / "c").mkdir()
    record = curate(tmp_path / "c", rows=rows, step="mine.py:few", mine=function)
    assert variables_of(record, "mine.py:few") == ["N_OF_FUNCTION"]


def test_code_that_cannot_be_imported_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    before = type(os.environ)
    with pytest.raises(PipelineError, match="cannot be imported"):
        curate(tmp_path, mine="import os\nos.environ['NO_SUCH_VARIABLE_OF_MINE']\n")
    assert type(os.environ) is before


def test_blocks_inside_each_other(tmp_path: Path) -> None:
    """An outer block has the names of the inner one; this file is nobody's package."""
    with read_variables() as outer:
        with read_variables() as inner:
            value: Any = os.environ.get("A_NAME_OF_THIS_TEST")
        assert (value, inner) == (None, {"A_NAME_OF_THIS_TEST"})
    assert outer == inner
