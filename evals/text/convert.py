"""HellaSwag and MMLU from other layouts into the reference's, for trial.

The texts are the same, but not to the byte (the reference cleaned and joined them in its own way),
so scores on converted files are marked unverified.
"""

from __future__ import annotations

import bz2
import csv
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from pipelines.errors import DataError

LETTERS = ("A", "B", "C", "D")
LINES_PER_ITEM = 6  # of HellaSwag's file: context, gold, four endings


def convert(source: Path, folder: Path) -> Path:
    """Write the reference's file for `source` into `folder`; its name says which one it is.

    `*.txt` or `*.txt.bz2` is HellaSwag in six lines an item (context, index of the right ending,
    four endings); `*.tar*` is MMLU as CSV tables `test/<subject>_test.csv` with a header.
    """
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    if source.name.endswith((".txt", ".txt.bz2")):
        rows, name = hellaswag_rows(source), "language_understanding/hellaswag.jsonl"
    elif ".tar" in source.name:
        rows, name = mmlu_rows(source), "world_knowledge/mmlu.jsonl"
    else:
        raise DataError(f"{source}: expected HellaSwag as .txt(.bz2) or MMLU as .tar(.xz)")
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def hellaswag_rows(source: Path) -> Iterator[dict[str, Any]]:
    """One row for every six lines."""
    data = source.read_bytes()
    text = (bz2.decompress(data) if source.suffix == ".bz2" else data).decode()
    lines = text.splitlines()
    if len(lines) % LINES_PER_ITEM:
        raise DataError(f"{source} has {len(lines)} lines, not a multiple of {LINES_PER_ITEM}")
    for start in range(0, len(lines), LINES_PER_ITEM):
        context, gold, *endings = lines[start : start + LINES_PER_ITEM]
        if gold not in ("0", "1", "2", "3"):
            raise DataError(f"{source}, line {start + 2}: expected an index 0 to 3, found {gold!r}")
        yield {"query": context, "choices": endings, "gold": int(gold)}


def mmlu_rows(source: Path) -> Iterator[dict[str, Any]]:
    """One row for every question of the test tables, subjects sorted by name."""
    with tarfile.open(source) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith("_test.csv"))
        if not names:
            raise DataError(f"{source} holds no tables named <subject>_test.csv")
        for name in names:
            subject = Path(name).name.removesuffix("_test.csv")
            file = archive.extractfile(name)
            assert file is not None, "getnames lists what is in the archive"
            table = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            for number, row in enumerate(table):
                yield _table_row(row, subject, where=f"{source}, {name}, row {number}")


def _table_row(row: dict[str, str], subject: str, *, where: str) -> dict[str, Any]:
    try:
        options = [row[f"choice{number}"] for number in range(4)]
        return mmlu_row(row["question"], options, int(row["answer"]), subject)
    except (KeyError, ValueError) as error:
        raise DataError(f"{where} is not a question with four choices: {error}") from None


def mmlu_row(question: str, options: Sequence[str], gold: int, subject: str) -> dict[str, Any]:
    """A question with its options listed as A to D; the model picks a letter."""
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True))
    query = f"{question}\n{listed}"
    return {"query": query, "choices": list(LETTERS), "gold": gold, "category": subject}
