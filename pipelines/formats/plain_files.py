"""Files that people have rather than pools: CSV tables, JSON arrays, a text file per document.

They are read where a folder holds no shards of another format (`readers.shards_of`). A value comes
as (number, row, problem, raw bytes): a row, or what is wrong and the bytes it was found in.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from pipelines.errors import DataError
from pipelines.formats.json_rows import parse_row
from pipelines.formats.lines import inflated_lines, numbered_lines

Value = tuple[int, dict[str, Any], str | None, bytes]

MAX_FILE_BYTES = 512 << 20  # of what must be read whole: an array of JSON, a document
MAX_FIELD_BYTES = 128 << 20  # of a CSV field, as of a line of JSON
BOM = "\ufeff"


def csv_values(file: BinaryIO, name: str) -> Iterator[Value]:
    """The rows of a table with a header (RFC 4180), all values as text; tabs for `.tsv`.

    CSV has no types, so `007` stays what it is. A row of another number of fields is a problem.
    """
    delimiter = "\t" if ".tsv" in name.lower() else ","
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines = io.TextIOWrapper(inflated_lines(file, name), encoding="utf-8", newline="")
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(rows, None)
        if not header:
            raise DataError("it has no header; its first line should name the columns")
        header[0] = header[0].removeprefix(BOM)
        if len(set(header)) < len(header) or not all(header):
            raise DataError(f"the header names a column twice, or not at all: {header[:9]}")
        number = 0
        for values in rows:
            if not values:
                continue
            if len(values) == len(header):
                row = {key: value for key, value in zip(header, values, strict=True) if value != ""}
                yield number, row, None, b""
            else:
                raw = delimiter.join(values).encode()
                yield number, {}, f"{len(values)} fields, expected {len(header)}", raw
            number += 1
    except UnicodeDecodeError as error:
        raise DataError(f"it is not UTF-8 ({error}); convert it, as with iconv") from None
    except csv.Error as error:
        raise DataError(f"line {rows.line_num} is not valid CSV ({error})") from None


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
    """The objects of JSON lines; a blank line is nothing."""
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
            f"it has more than {MAX_FILE_BYTES >> 20} MiB, which would be held whole; write it as "
            "JSON lines"
        )
    return data
