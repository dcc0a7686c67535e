"""WARC files as records: plain, gzip or zstd bytes in, headers and blocks out.

Header names are case-insensitive (WARC 1.1, 4). Bytes that are not a record become a `Fault` with
their position, and reading continues at the next line that begins a record. A Content-Length that
what follows contradicts is a Fault too, unless it is wrong by a few bytes: then the block ends
where the next record begins. Only where the stored bytes themselves cannot be decoded (a cut or
damaged member, a plain file that ends inside a record) does a fault end the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.formats.inflate import Inflated, Stream

BEGIN = re.compile(rb"(?:^|\n)(WARC/\d+\.\d+[ \t]*\r?\n)")
MAX_HEAD_BYTES = 1 << 20  # longer than any head of a crawler; bounds the search for its end
MAX_SLACK = 64  # bytes by which a Content-Length may be wrong without costing its record
LINE_ENDS = (b"\r\n\r\n", b"\n\n", b"\r\n", b"\n")  # after a block; two of them, or one by mistake
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

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, left in place; fewer where `take` gives fewer."""
        while len(self._buffer) < size and not self._ahead(size) and self.more():
            pass
        return bytes(self._buffer[: min([size, *(n - self.position for n in self._ahead(size))])])

    def put_back(self, data: bytes) -> None:
        """Undo `take`: `data`, the last bytes taken, are in front again."""
        self._buffer[:0] = data
        self.position -= len(data)

    def members_ahead(self) -> list[int]:
        """How far ahead in the buffer the next members begin that begin with a record."""
        return [begin - self.position for begin in self._ahead(len(self._buffer))]

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
    while True:
        _skip_blank(source)
        if not source.front() and not source.more():
            return
        start = source.position
        head, problem = _head(source)
        if head is None:
            _to_next(source)
            yield Fault(problem, start, ends_file=not source.front())
            continue
        headers = _headers(head)
        length = next((v for k, v in headers.items() if k.lower() == "content-length"), None)
        if length is None or not (length.isascii() and length.isdigit() and len(length) < 16):
            _to_next(source)
            yield Fault("the record's headers are incomplete", start, ends_file=not source.front())
            continue
        num_expected = int(length)
        block = source.take(num_expected) if num_expected <= max_block_bytes else None
        num_bytes = source.skip(num_expected) if block is None else len(block)
        if num_bytes < num_expected:
            detail = f"the record ends after {num_bytes} of {length} bytes"
            yield Fault(detail, start, ends_file=not source.at_member())
            if not source.at_member():
                return
            continue
        if not _at_record_end(source, line_end=b"\r\n" if head.endswith(b"\r\n") else b"\n"):
            block, more = _to_record_end(source, block)
            if not -MAX_SLACK <= more <= MAX_SLACK + len(LINE_ENDS[0]):
                contradiction = (
                    f"{more} more come before" if more > 0 else f"{-more} of them are of"
                )
                detail = (
                    f"the record's length is {length} bytes, but {contradiction} the next record"
                )
                yield Fault(detail, start)
                continue
            num_expected = num_expected if block is None else len(block)
        yield Record(headers, block, num_expected, start)


def _at_record_end(source: WarcBytes, *, line_end: bytes) -> bool:
    """Whether two line ends, another record, or the end of the file or member come next.

    Where two line ends do, whatever follows them is not the block's.
    """
    front = source.peek(MAX_SLACK)
    blank = len(front) - len(front.lstrip(b"\r\n"))
    if front.startswith(2 * line_end) or blank == len(front):
        return True
    return b"WARC/".startswith(source.peek(blank + 5)[blank:])


def _to_record_end(source: WarcBytes, block: bytes | None) -> tuple[bytes | None, int]:
    """Skip to the next record; the block up to its line ends, and how many bytes come before it.

    The bytes count from the end of the given block, and are negative where the next record begins
    inside it. A block that would be more than MAX_SLACK bytes longer comes cut; None stays None.
    """
    size = len(block or b"")
    after = source.peek(MAX_SLACK + len(LINE_ENDS[0]))
    source.put_back(block or b"")
    end = _to_next(source)
    if block is None:
        return None, end
    block = (block + after)[:end]
    line_end = next((mark for mark in LINE_ENDS if block.endswith(mark)), b"")
    return block.removesuffix(line_end), end - size


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
            return None, (
                f"{front[:20]!r} where a record should begin (or the length of the record before "
                "is too short)"
            )
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
        ends = source.members_ahead() + ([] if match is None else [match.start(1)])
        if ends:
            return passed + len(source.take(min(ends)))
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
