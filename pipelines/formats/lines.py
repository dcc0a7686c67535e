"""Lines of JSON-lines files, compressed or not, with their numbers."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.formats.inflate import Inflated
from pipelines.formats.json_rows import parse_row

MAX_LINE_BYTES = 128 << 20  # a longer line is a bad row: parsing it would need gigabytes


COMPRESSIONS = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".bz2": "bzip2",
}


def inflated_of(file: BinaryIO, name: str) -> Inflated | None:
    """The bytes of a file after the compression that its suffix names, None for a plain file."""
    kind = next((k for suffix, k in COMPRESSIONS.items() if name.lower().endswith(suffix)), None)
    return None if kind is None else Inflated(file, kind=kind)


def buffered(inflated: Inflated) -> BinaryIO:
    """The plain bytes, buffered for reading lines; `inflated.fault` says how they ended."""
    return io.BufferedReader(inflated, 1 << 18)  # type: ignore[return-value]


HEADS = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh9": "compressed with bzip2",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "parquet",
    b"\xff\xfe": "UTF-16 (convert it to UTF-8)",
    b"\xfe\xff": "UTF-16 (convert it to UTF-8)",
}
"""First bytes of files that are not JSON lines, whatever their name says."""


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes, str | None]]:
    """Yields (number, line, error); the error is set for too long lines and after damage."""
    inflated = inflated_of(file, name)
    lines = file if inflated is None else buffered(inflated)
    number = 0
    mark = codecs.BOM_UTF8  # Windows tools put it at the head of a file
    while line := lines.readline(MAX_LINE_BYTES):
        if number == 0:
            line = line.removeprefix(mark)
            if kind := next((kind for head, kind in HEADS.items() if line.startswith(head)), None):
                again = "" if inflated is None else " once more"
                yield number, line[:100], f"the file is {kind}{again}, not lines of JSON: rename it"
                return
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            head = line[:1000]
            while line and not line.endswith(b"\n"):
                line = lines.readline(1 << 20)
            yield number, head, f"a line longer than {MAX_LINE_BYTES} bytes"
        elif inflated is not None and inflated.fault and not _is_whole(line):
            yield number, line, f"the file breaks off here: {inflated.fault}"
            return
        else:
            yield number, line, None
        number += 1
    if inflated is not None and inflated.fault:
        yield number, b"", f"the file breaks off here: {inflated.fault}"


def _is_whole(line: bytes) -> bool:
    """Whether the line has its line end, or is a complete record without it."""
    return line.endswith(b"\n") or (line.endswith(b"}") and parse_row(line)[1] is None)
