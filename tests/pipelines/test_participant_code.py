"""A participant's helpers: files and packages beside an operator, and packages on the path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.errors import PipelineError
from pipelines.execution.executors import ProcessMap
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline

OPERATOR = """
from pipelines.operators import Filter, because
{imports}

class Mine(Filter):
    \"\"\"Reject texts with a digit that a helper names.\"\"\"

    reasons = ("listed",)

    def reject(self, batch):
        return because([{word} in text for text in batch.text.to_pylist()], "listed")
"""


def files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def pool(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    lines = [orjson.dumps({"text": f"document {n}"}) + b"\n" for n in range(10)]
    (folder / "a.jsonl").write_bytes(b"".join(lines))
    return str(folder)


def curate(tmp_path: Path, out: str, **options: Any) -> Result:
    (tmp_path / "code" / "mine.yaml").write_text("steps: [mine.py:Mine]\n")
    pipeline = Pipeline.load(tmp_path / "code" / "mine.yaml")
    source = open_pool(pool(tmp_path / "pool"))
    return run(pipeline, source, out=str(tmp_path / out), **options)


PACKAGE = {
    "helpers/__init__.py": "from .words import WORD\nfrom . import deep\n",
    "helpers/words.py": "from helpers.deep.inner import NUMBER\nWORD = str(NUMBER)\n",
    "helpers/deep/__init__.py": "",
    "helpers/deep/inner.py": "from .. import outer\nNUMBER = outer.NUMBER\n",
    "helpers/outer.py": "NUMBER = 7\n",
}
IMPORTS = [
    ("from helpers import WORD", "WORD"),
    ("import helpers", "helpers.WORD"),
    ("import helpers.words", "helpers.words.WORD"),
    ("import helpers.words as w", "w.WORD"),
    ("from helpers import words", "words.WORD"),
    ("from helpers.words import *", "WORD"),
    ("from helpers.deep.inner import NUMBER", "str(NUMBER)"),
]


@pytest.mark.parametrize(("imports", "word"), IMPORTS)
def test_a_package_beside_the_operator_is_imported_as_python_does(
    imports: str, word: str, tmp_path: Path
) -> None:
    files(tmp_path / "code", PACKAGE | {"mine.py": OPERATOR.format(imports=imports, word=word)})
    result = curate(tmp_path, "out")
    assert result.record.counts["rows_out"] == 9
    assert [module.name for module in result.record.work.modules] == sorted([*PACKAGE, "mine.py"])
    assert "helpers" not in sys.modules


def test_a_changed_module_of_the_package_is_another_dataset_and_the_record_keeps_the_old(
    tmp_path: Path,
) -> None:
    code = tmp_path / "code"
    files(
        code, PACKAGE | {"mine.py": OPERATOR.format(imports="import helpers", word="helpers.WORD")}
    )
    first = curate(tmp_path, "first").record
    (code / "helpers" / "outer.py").write_text("NUMBER = 'document'\n")
    second = curate(tmp_path, "second").record
    assert second.key != first.key
    assert second.counts["rows_out"] == 0
    modules = {module.name: module for module in first.work.modules}
    again = Pipeline.from_steps(["mine.py:Mine"], name="mine", modules=modules)
    source = open_pool(str(tmp_path / "pool"))
    assert run(again, source, out=str(tmp_path / "again")).record.id == first.id


def test_the_package_travels_to_worker_processes(tmp_path: Path) -> None:
    files(
        tmp_path / "code",
        PACKAGE | {"mine.py": OPERATOR.format(imports=IMPORTS[0][0], word="WORD")},
    )
    near = curate(tmp_path, "near").record
    there = curate(tmp_path, "there", map_tasks=ProcessMap(2)).record
    assert there.id == near.id


def test_a_folder_without_an_init_is_a_package_too(tmp_path: Path) -> None:
    code = {"lib/words.py": "WORD = '7'\n"}
    code["mine.py"] = OPERATOR.format(imports="from lib.words import WORD", word="WORD")
    files(tmp_path / "code", code)
    assert curate(tmp_path, "out").record.counts["rows_out"] == 9


def test_a_module_that_the_package_lacks_is_said(tmp_path: Path) -> None:
    code = PACKAGE | {"mine.py": OPERATOR.format(imports="import helpers.nothing", word="'7'")}
    files(tmp_path / "code", code)
    with pytest.raises(PipelineError, match=r"mine\.py cannot be imported: .*helpers\.nothing"):
        curate(tmp_path, "out")


def test_a_package_on_the_path_that_is_not_installed_is_in_the_record(
    tmp_path: Path, monkeypatch: Any
) -> None:
    name = "words_on_the_path"
    files(tmp_path / "path", {f"{name}/__init__.py": "WORD = '7'\n"})
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    code = {"mine.py": OPERATOR.format(imports=f"from {name} import WORD", word="WORD")}
    files(tmp_path / "code", code)
    record = curate(tmp_path, "out").record
    assert [module.name for module in record.work.modules] == ["mine.py", name]
    assert "WORD = '7'" in record.work.modules[1].text


def test_data_that_an_operator_s_installed_package_opens_is_said(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A folder called site-packages, as installed packages are in one."""
    site, name = tmp_path / "site-packages", "package_with_words"
    body = "from pathlib import Path\nWORDS = str(Path(__file__).with_name('words.txt'))"
    word = "open(WORDS).read()"
    files(
        site,
        {
            f"{name}/__init__.py": "",
            f"{name}/words.txt": "7",
            f"{name}/ops.py": OPERATOR.format(imports=body, word=word),
        },
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("pipelines.opened_files.code_folders", lambda: (f"{site}/",))
    pipeline = Pipeline.from_steps([f"{name}.ops:Mine"])
    source = open_pool(pool(tmp_path / "pool"))
    record = run(pipeline, source, out=str(tmp_path / "out")).record
    step = f"step 1 ({name}.ops:Mine)"
    assert record.made_by.figures[f"undeclared_files/{step}"] == 1
    assert record.made_by.locations[f"undeclared/{step}/0"].startswith(f"{site}/{name}/words.txt")


MISTAKEN = """
from pipelines.operators import Modifier
{before}

class Mine(Modifier):
    \"\"\"Copy nothing.\"\"\"

    {method}

    def writes(self):
        return {{}}

    def modify(self, batch):
        return {{}}
"""


@pytest.mark.parametrize(
    ("before", "method", "message"),
    [
        ("", "def reads(self): return 'text'", r"reads\(\) returned the string 'text'; return \("),
        ("", "def optional_reads(self): return 'n'", r"optional_reads\(\) returned the string 'n'"),
        ("", "def drops(self): return 'url'", r"drops\(\) returned the string 'url'"),
        ("", "def drops(self): return ('row',)", r"drops\(\) names 'row', by which rows are known"),
        ("", "def assets(self): return 'words'", r"assets\(\) returned the string 'words'"),
        ("raise SystemExit(3)", "", r"mine\.py cannot be imported: SystemExit: 3"),
        (
            "",
            "def load(self, assets): raise OSError('gone')",
            r"its load\(\) failed: OSError: gone",
        ),
    ],
)
def test_a_mistake_in_a_declaration_is_named_before_rows_are_read(
    tmp_path: Path, before: str, method: str, message: str
) -> None:
    text = MISTAKEN.format(before=before, method=method)
    files(tmp_path, {"code/mine.py": text})
    with pytest.raises(PipelineError, match=message):
        curate(tmp_path, "out")


def test_a_package_that_fails_at_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, {"path/stranger_broken/__init__.py": "import sys\nsys.exit(4)\n"})
    monkeypatch.syspath_prepend(tmp_path / "path")
    with pytest.raises(PipelineError, match="stranger_broken cannot be imported: SystemExit: 4"):
        Pipeline.from_steps(["stranger_broken:Mine"])
