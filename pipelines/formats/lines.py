"""Lines of JSON-lines files, compressed or not, with their numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from pipelines.formats.inflate import Inflated
from pipelines.schema import TEXT

MAX_LINE_BYTES = 128 << 20  # a longer line is set aside: its parse would need gigabytes


def _inflated(file: BinaryIO, name: str) -> Inflated | None:
    """The bytes of a file after the compression that its suffix names, None for a plain file."""
    lower = name.lower()
    if lower.endswith(".gz"):
        return Inflated(file, kind="gzip")
    if lower.endswith((".zst", ".zstd")):
        return Inflated(file, kind="zstd")
    return None


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes, str | None]]:
    """Numbered lines; one that is too long, and what follows a broken place, come with an error."""
    inflated = _inflated(file, name)
    lines: BinaryIO = file if inflated is None else io.BufferedReader(inflated, 1 << 18)  # type: ignore[assignment]
    number = 0
    while line := lines.readline(MAX_LINE_BYTES):
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
    """Whether the line ends, or is a record although its line end is missing."""
    return line.endswith(b"\n") or (line.endswith(b"}") and _parse(line)[1] is None)


def _parse(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return {}, f"not JSON: {error}"
    if not isinstance(value, dict):
        return {}, f"expected a JSON object, found {type(value).__name__}"
    text = value.get(TEXT)
    if TEXT in value and not isinstance(text, str | None):
        return {}, f"the field 'text' is {type(text).__name__}, expected a string"
    return value, None
