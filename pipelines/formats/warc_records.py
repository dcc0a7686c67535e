"""WARC files as records: plain, gzip or zstd bytes in, headers and blocks out.

Header names are case-insensitive (WARC 1.1, 4). Bytes that are not a record become a `Fault` with
their position, and reading continues at the next line that begins a record. Only where the stored
bytes themselves cannot be decoded (a cut or damaged member, a plain file that ends inside a
record) does a fault end the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.formats.inflate import Inflated, Stream

BEGIN = re.compile(rb"(?:^|\n)(WARC/\d+\.\d+[ \t]*\r?\n)")
MAX_HEAD_BYTES = 1 << 20  # longer than any head of a crawler; bounds the search for its end
MAX_SLACK = 64  # bytes dropped silently after a block whose Content-Length is a little too short
READ_BYTES = 1 << 16  # plain bytes per read
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # head of a .warc.zst with its own dictionary


@dataclass(frozen=True)
class Record:
    """One record: `block` is None if it is longer than the limit and was skipped."""

    headers: dict[str, str]
    block: bytes | None
    num_bytes: int
    position: int  # plain byte at which it begins

    def get(self, name: str) -> str | None:
        """A header by its name in lower case, the first of several."""
        for key, value in self.headers.items():
            if key.lower() == name:
                return value
        return None

    @property
    def type(self) -> str:
        return (self.get("warc-type") or "").lower()


@dataclass(frozen=True)
class Fault:
    """Bytes that are not a record: what is wrong, and where they begin."""

    detail: str
    position: int
    ends_file: bool = False


class WarcBytes:
    """A buffer over the plain bytes of a WARC file, consumed from the front.

    `fault` says what was wrong with the stored bytes; `member_start` and `member_offset` are the
    start of the last member, in plain and in stored bytes. ValueError when the file is not a WARC.
    """

    def __init__(self, stream: Stream) -> None:
        head = stream.read(5)
        self._stream: Stream = _Behind(head, stream)
        self._member: Inflated | None = None
        if head[:2] == GZIP_MAGIC:
            self._member = Inflated(self._stream, kind="gzip")
        elif head[:4] == ZSTD_MAGIC:
            self._member = Inflated(self._stream, kind="zstd")
        elif head[:4] == ZSTD_DICTIONARY:
            raise ValueError(
                "a WARC file compressed with a dictionary of its own; write it again as .warc.gz"
            )
        elif head[:1] != GZIP_MAGIC[:1] and not b"WARC/".startswith(head):
            raise ValueError(
                f"not a WARC file: it begins with {head!r}, not with 'WARC/' or a gzip header; "
                "give a .warc, .warc.gz or .wet.gz file"
            )
        elif head[:1] == GZIP_MAGIC[:1]:  # truncated after its first byte
            self._member = Inflated(self._stream, kind="gzip")
        self._buffer = bytearray()
        self._begins: list[int] = []  # plain positions ahead where a member begins with a record
        self.position = 0  # of the front, in plain bytes

    @property
    def fault(self) -> str | None:
        return None if self._member is None else self._member.fault

    @property
    def member_start(self) -> int:
        return 0 if self._member is None else self._member.members[-1][0]

    @property
    def member_offset(self) -> int:
        return 0 if self._member is None else self._member.members[-1][1]

    def stored_offset(self, position: int) -> int:
        """Where in the file the record at plain byte `position` begins."""
        return position if self._member is None else self._member.stored_offset(position)

    def more(self) -> bool:
        """Read more bytes into the buffer; False at the end of the file."""
        source = self._stream if self._member is None else self._member
        data = source.read(READ_BYTES)
        end = self.position + len(self._buffer)
        if self._member is not None and end == self.member_start and data.startswith(b"WARC/"):
            self._begins.append(end)
        self._buffer += data
        return bool(data)

    def front(self) -> bytes:
        """The bytes in the buffer."""
        return bytes(self._buffer)

    def at_member(self) -> bool:
        """Whether the front is where a member begins with a record."""
        return self.position in self._begins

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end and before the next member with a record."""
        while len(self._buffer) < size and not self._ahead(size) and self.more():
            pass
        data = bytes(self._buffer[: min([size, *(n - self.position for n in self._ahead(size))])])
        del self._buffer[: len(data)]
        self.position += len(data)
        return data

    def _ahead(self, size: int) -> list[int]:
        """Where members with records begin within the next `size` bytes."""
        self._begins = [n for n in self._begins if n > self.position]
        return [n for n in self._begins if n < self.position + size]

    def skip(self, size: int) -> int:
        """Skip `size` bytes in bounded memory; returns how many there were."""
        passed = 0
        while passed < size:
            part = len(self.take(min(size - passed, 1 << 20)))
            if self.at_member() and part:
                return passed + part
            if not part:
                break
            passed += part
        return passed


def records(source: WarcBytes, *, max_block_bytes: int) -> Iterator[Record | Fault]:
    """The records of a file in order, and a Fault for bytes between them that are not a record.

    Blocks above `max_block_bytes` are skipped. Nothing follows a Fault with `ends_file`.
    """
    after_block = False
    while True:
        # Only bytes directly after a block may be its end; junk after a line end is reported.
        after_block = after_block and not _at_line_end(source)
        _skip_blank(source)
        if not source.front() and not source.more():
            return
        start = source.position
        head, problem = _head(source)
        if head is None:
            skipped = _to_next(source)
            if not (after_block and skipped <= MAX_SLACK and source.front()):
                whole = bool(source.front())
                yield Fault(problem, start, ends_file=not whole)
            after_block = False
            continue
        headers = _headers(head)
        length = next((v for k, v in headers.items() if k.lower() == "content-length"), None)
        if length is None or not (length.isascii() and length.isdigit() and len(length) < 16):
            _to_next(source)
            yield Fault("the record's headers are incomplete", start, ends_file=not source.front())
            after_block = False
            continue
        num_expected = int(length)
        block = source.take(num_expected) if num_expected <= max_block_bytes else None
        num_bytes = source.skip(num_expected) if block is None else len(block)
        if num_bytes < num_expected:
            detail = f"the record ends after {num_bytes} of {length} bytes"
            yield Fault(detail, start, ends_file=not source.at_member())
            if not source.at_member():
                return
            after_block = False
            continue
        yield Record(headers, block, num_expected, start)
        after_block = True


def _at_line_end(source: WarcBytes) -> bool:
    return bool((source.front() or source.more()) and source.front()[:1] in (b"\r", b"\n"))


def _skip_blank(source: WarcBytes) -> None:
    while True:
        front = source.front()
        blank = len(front) - len(front.lstrip(b"\r\n"))
        source.take(blank)
        if source.front() or not source.more():
            return


def _head(source: WarcBytes) -> tuple[bytes | None, str]:
    """Take the lines from the version to the blank line; None, and why, if no record begins."""
    seen = 0
    while True:
        front = source.front()
        if not b"WARC/".startswith(front[:5]):
            return None, f"{front[:20]!r} where a record should begin"
        ends = [front.find(mark, max(0, seen - 3)) for mark in (b"\n\r\n", b"\n\n")]
        end = min((n for n in ends if n >= 0), default=-1)
        if end >= 0:
            size = end + (3 if front[end + 1 : end + 2] == b"\r" else 2)
            return source.take(size), ""
        seen = len(front)
        if seen > MAX_HEAD_BYTES or not source.more():
            return None, "the record's headers are incomplete"


def _to_next(source: WarcBytes) -> int:
    """Skip to the next line that begins a record, after the front; returns the bytes skipped."""
    passed = 0
    first = True
    while True:
        front = source.front()
        match = BEGIN.search(front, 1 if first else 0)
        if match is not None:
            source.take(match.start(1))
            return passed + match.start(1)
        kept = 64  # a version line may be cut by the end of what was read
        if len(front) > kept:
            source.take(len(front) - kept)
            passed += len(front) - kept
            first = False
        if not source.more():
            return passed + len(source.take(kept))


def _headers(head: bytes) -> dict[str, str]:
    """Values by name, in file order; of a repeated name the last value."""
    headers: dict[str, str] = {}
    name = ""
    for line in head.decode("utf-8", errors="replace").split("\n")[1:]:
        line = line.rstrip("\r")
        if name and line[:1] in (" ", "\t") and line.strip():  # a folded line
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        key, colon, value = line.partition(":")
        if colon:
            name = key.strip()
            headers[name] = value.strip()
    return headers


class _Behind:
    """A stream with the bytes already read from its front put back."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int, /) -> bytes:
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head
        return self._stream.read(size)
