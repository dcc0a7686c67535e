"""Plain files instead of shards: CSV tables, JSON arrays, one text file per document.

They are read where a folder has no shards of another format (`shards.shards_of`). A value is
(number, row, problem, raw bytes): a row, or what is wrong and the offending bytes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from pipelines.errors import DataError
from pipelines.formats.json_rows import parse_row
from pipelines.formats.lines import buffered, inflated_of, numbered_lines

Value = tuple[int, dict[str, Any], str | None, bytes]

MAX_FILE_BYTES = 512 << 20  # of a file that must be read whole: a JSON array, a document
MAX_FIELD_BYTES = 128 << 20  # of a CSV field; the same as a line of JSON (`lines`)
BOM = "\ufeff"
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")  # gzip, zstd, xz, bzip2
OTHER_SEPARATOR = re.compile(r"[;\t|]")
SURROGATE = re.compile(
    "[\ud800-\udfff]"
)  # what `surrogateescape` makes of bytes that are not UTF-8


def csv_values(file: BinaryIO, name: str) -> Iterator[Value]:
    """The rows of a table with a header (RFC 4180), all values as text; tabs for `.tsv`.

    CSV has no types, so `007` stays `007`. A row with another number of fields, or that is not
    UTF-8, is a problem; so is the last row of a truncated compressed file. DataError for a bad
    header or invalid CSV.
    """
    delimiter = "\t" if ".tsv" in name.lower().rpartition("/")[2] else ","
    csv.field_size_limit(MAX_FIELD_BYTES)
    inflated = inflated_of(file, name)
    plain = file if inflated is None else buffered(inflated)
    lines = io.TextIOWrapper(plain, encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    last: list[str] | None = None
    number = 0
    try:
        header = _header(next(rows, None))
        for values in filter(None, rows):  # blank lines are skipped
            if last is not None:
                yield _csv_row(number, header, last, delimiter)
                number += 1
            last = values
    except csv.Error as error:
        if inflated is None or inflated.fault is None:
            raise DataError(f"line {rows.line_num} is not valid CSV ({error})") from None
    if inflated is not None and inflated.fault:
        raw = delimiter.join(last or []).encode("utf-8", "surrogateescape")
        yield number, {}, f"the file breaks off here: {inflated.fault}", raw
    elif last is not None:
        yield _csv_row(number, header, last, delimiter)


def _header(names: list[str] | None) -> list[str]:
    """The names of the columns. DataError for none, duplicates, or another encoding."""
    if not names:
        raise DataError("it has no header; its first line should name the columns")
    line = "".join(names)
    if line.encode("utf-8", "surrogateescape").startswith(COMPRESSED):
        raise DataError("it is compressed twice; undo one of them, as with gunzip or unzstd")
    if SURROGATE.search(line) or "\0" in line:
        raise DataError(f"its header is not UTF-8 ({line[:40]!a}); convert it, as with iconv")
    names[0] = names[0].removeprefix(BOM)
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"the header names a column twice, or not at all: {names[:9]}")
    if len(names) == 1 and (sign := OTHER_SEPARATOR.search(line)):
        raise DataError(
            f"its header is one column {line[:40]!r}, as if {sign.group()!r} separated columns; "
            "separate them by commas, or by tabs in a file named .tsv"
        )
    return names


def _csv_row(number: int, header: list[str], values: list[str], delimiter: str) -> Value:
    line = delimiter.join(values)
    raw = line.encode("utf-8", "surrogateescape")
    if SURROGATE.search(line):
        return number, {}, "it is not UTF-8; convert the file, as with iconv", raw
    if len(values) != len(header):
        return number, {}, f"{len(values)} fields, expected {len(header)}", raw
    row = {key: value for key, value in zip(header, values, strict=True) if value != ""}
    return number, row, None, b""


def json_values(file: BinaryIO, name: str) -> Iterator[Value]:
    """The objects of a JSON array, or of JSON lines under the suffix `.json`."""
    head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    file.seek(0)
    if not head.startswith(b"["):
        yield from json_line_values(file, name)
        return
    data = _read_all(file)
    try:
        objects = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise DataError(f"it is not JSON ({error}); write one object a line instead") from None
    for number, value in enumerate(objects):
        raw = orjson.dumps(value)
        row, problem = parse_row(raw)
        yield number, row, problem, raw


def json_line_values(file: BinaryIO, name: str) -> Iterator[Value]:
    """The objects of JSON lines; blank lines are skipped."""
    for number, line, error in numbered_lines(file, name):
        if error is not None:
            yield number, {}, error, line
        elif line.strip():
            row, problem = parse_row(line)
            yield number, row, problem, line


def text_values(file: BinaryIO, name: str) -> Iterator[Value]:
    """A file as one document, whose `id` is the file's name."""
    data = _read_all(file).removeprefix(b"\xef\xbb\xbf")
    try:
        row = {"text": data.decode(), "id": name}
    except UnicodeDecodeError as error:
        yield 0, {}, f"not UTF-8: {error}", data
        return
    yield 0, row, None, data


def _read_all(file: BinaryIO) -> bytes:
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"it has more than {MAX_FILE_BYTES >> 20} MiB, too much to read at once; write it "
            "as JSON lines"
        )
    return data
