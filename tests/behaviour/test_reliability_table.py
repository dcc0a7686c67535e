"""docs/reliability.md says where each kind of input is tested: the files are there, with tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
PATH = re.compile(r"`(tests/[\w/]+(?:\.py)?/?|test_\w+\.py)`")
SHORT = re.compile(r"\b([A-Z]) is\s+`((?:tests/[\w/]+/)?(?:test_\w+\.py)?)`")


def sections() -> list[str]:
    return PAGE.read_text(encoding="utf-8").split("\n## ")


def short_names(section: str) -> dict[str, str]:
    """The letters that a section's text gives to files, `D is `tests/...``, in full."""
    names: dict[str, str] = {}
    folder = ""
    for letter, path in SHORT.findall(section.partition("\n| ")[0]):
        names[letter] = path if "/" in path else f"{folder}/{path}"
        folder = folder if "/" not in path else path.rpartition("/")[0]
    return names


def rows() -> list[tuple[str, list[str]]]:
    """Each kind of input with the files that its row names, of every table with such a column."""
    listed = []
    for section in sections():
        names = short_names(section)
        lines = [line for line in section.splitlines() if line.startswith("|")]
        if not lines or lines[0].split("|")[-2].strip() != "tested in":
            continue
        for line in lines[2:]:
            cell = line.split("|")[-2].strip()
            files = PATH.findall(cell)
            folder = next((f.rpartition("/")[0] for f in files if "/" in f), "")
            files = [file if "/" in file else f"{folder}/{file}" for file in files]
            files += [names[letter] for letter in re.findall(r"\b[A-Z]\b", cell) if letter in names]
            listed.append((line.split("|")[1].strip(), files))
    return listed


def has_tests(path: str) -> bool:
    target = ROOT / path
    files = [target] if target.suffix == ".py" else sorted(target.rglob("test_*.py"))
    return any(
        "\ndef test_" in file.read_text(encoding="utf-8") for file in files if file.is_file()
    )


def test_every_kind_of_input_names_a_test_that_is_there() -> None:
    assert len(rows()) > 60  # or the tables are not read
    lacking = [kind for kind, files in rows() if not files or not all(map(has_tests, files))]
    assert lacking == []


def test_the_check_sees_a_row_without_a_test() -> None:
    assert not has_tests("tests/pipelines/formats/test_nothing.py")
    assert not has_tests("docs/reliability.md")
    assert short_names("W is `tests/a/test_w.py`, F is `test_f.py` beside it\n\n| x |") == {
        "W": "tests/a/test_w.py",
        "F": "tests/a/test_f.py",
    }
