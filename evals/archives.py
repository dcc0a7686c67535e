"""Task data inside archives: GPQA's zip, and tars of token sequences. Nothing is unpacked to disk.

The authors of GPQA (Rein et al. 2023) ask that the questions do not appear in plain text on the
web, where they would be crawled; the password is published so that people, not crawlers, can open
the file. DCLM shuffles the four options of every row with one random stream per file, seed 42.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

PASSWORD = b"deserted-untie-orchid"  # from the README of GPQA's repository
SEED = 42  # of the shuffle of options: gives DCLM's order
ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def read_gpqa(archive: Path, name: str) -> bytes:
    """The rows of `dataset/<name>.csv` in the zip as JSONL bytes, options in DCLM's order.

    ValueError when the zip or the table in it is not as published.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            text = files.read(f"dataset/{name}.csv", pwd=PASSWORD).decode()
    except (KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{archive} is not GPQA's dataset.zip ({error}); get it again") from None
    rng = random.Random(SEED)
    lines = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
        if any(not row.get(column) for column in ("Question", *ANSWERS)):
            raise ValueError(f"{archive}, {name}.csv, row {number} lacks a question or an answer")
        order = [0, 1, 2, 3]
        rng.shuffle(order)
        choices = [row[ANSWERS[index]] for index in order]
        line = {"query": row["Question"], "choices": choices, "gold": order.index(0)}
        lines.append(orjson.dumps(line) + b"\n")
    return b"".join(lines)


def tar_rows(data: bytes) -> Iterator[dict[str, Any]]:
    """A row {"ids": [...]} for every `.json` or `.json.gz` member, in order.

    ValueError for an archive or a member that cannot be read.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is None or not member.name.endswith((".json", ".json.gz")):
                    continue
                content = file.read()
                if member.name.endswith(".gz"):
                    content = gzip.decompress(content)
                yield {"ids": orjson.loads(content)}
    except (tarfile.TarError, OSError, EOFError, zlib.error, orjson.JSONDecodeError) as error:
        raise ValueError(f"the archive is damaged here ({error}); get it again") from None
