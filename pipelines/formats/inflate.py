"""gzip, zstd, xz and bzip2 files read once from front to back, however they end.

All formats are chains of members (zstd calls them frames). All data before a truncation or damage
is returned, and `fault` then says what was wrong: library readers drop that data, or accept a
truncated file as complete. Memory is one buffer, and reading stops in a file that expands
unreasonably (a decompression bomb).
"""

from __future__ import annotations

import bz2
import io
import lzma
import sys
from typing import Any, Protocol

from isal import igzip_lib

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

READ_BYTES = 1 << 16  # stored bytes per read
FREE_BYTES = 256 << 20  # plain bytes that any file may expand to, however small
MAX_EXPANSION = 200  # ratio beyond that; pages and their text expand 3 to 20 times

# `zstd --long=31` writes windows of 2 GiB, as in Pushshift's dumps; the default stops at 128 MiB
ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}

MAGIC: dict[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60))),
    "xz": (b"\xfd7zXZ\0", b"]\0\0"),  # and what `lzma` writes
    "bzip2": (b"BZh",),
}
"""How a member begins; for zstd including skippable frames."""

LZMA_BYTES = 1 << 30  # of memory; `xz -9` takes 65 MB

# bz2 raises OSError for data that is not bzip2
ERRORS: tuple[Any, ...] = (
    *(igzip_lib.IsalError, zstd.ZstdError, lzma.LZMAError, EOFError, OSError),
)


class Stream(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes: ...


class Inflated(io.RawIOBase):
    """The plain bytes of a stored file of the given kind.

    Reading ends (as at the end of a file) where the stored bytes cannot be decoded; `fault` says
    why, and is None after a complete file. `members` are the starts of members, as plain and
    stored offsets; `stored_offset` finds the member that contains a plain byte.
    """

    def __init__(self, stream: Stream, *, kind: str) -> None:
        super().__init__()
        self._stream = stream
        self._kind = kind
        self._member: Any = None
        self._raw = b""
        self._num_read = 0  # stored bytes
        self._position = 0  # plain bytes
        self._num_members = 0  # begun
        self.members: list[tuple[int, int]] = [(0, 0)]
        self.fault: str | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        limit = READ_BYTES if size is None or size < 0 else size
        while self.fault is None:
            if self._member is None:
                if not self._raw and not self._fill():
                    return b""
                if self._num_members and self._is_padding():
                    return b""
                self._begin()
                feed = self._take()
            elif not self._member.needs_input:
                feed = b""
            elif self._raw or self._fill():
                feed = self._take()
            else:
                self.fault = f"the file ends inside a {self._kind} member"
                return b""
            try:
                data = self._member.decompress(feed, limit)
            except ERRORS as error:
                self.fault = f"a {self._kind} member is damaged: {error}"
                if self._num_members == 1 and not feed.startswith(MAGIC[self._kind]) and feed:
                    self.fault = f"the file is not {self._kind}: it begins with {feed[:12]!r}"
                return b""
            if self._member.eof:
                self._raw = self._member.unused_data
                self._member = None
            self._position += len(data)
            if self._position > FREE_BYTES and self._position > MAX_EXPANSION * self._num_read:
                self.fault = (
                    f"the file expands more than {MAX_EXPANSION} times (a decompression bomb?): "
                    f"stopped after {self._position} bytes out of {self._num_read}"
                )
            if data:
                return bytes(data)
        return b""

    def stored_offset(self, position: int) -> int:
        """The stored offset of the member that contains the plain byte `position`."""
        for plain, stored in reversed(self.members):
            if plain <= position:
                return stored
        raise AssertionError("positions are not negative")

    def _begin(self) -> None:
        if self._kind == "gzip":
            self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        elif self._kind == "xz":
            self._member = lzma.LZMADecompressor(memlimit=LZMA_BYTES)
        elif self._kind == "bzip2":
            self._member = bz2.BZ2Decompressor()
        else:
            self._member = zstd.ZstdDecompressor(options=ZSTD_OPTIONS)
        self._num_members += 1
        stored = self._num_read - len(self._raw)
        if stored:
            self.members.append((self._position, stored))
            del self.members[:-4096]  # offsets are only asked for shortly after reading

    def _is_padding(self) -> bool:
        """Whether only zeros follow, as tapes and some copies leave; gzip ignores them too."""
        while not (raw := self._raw.lstrip(b"\0")):
            if not self._fill():
                return True
        self._raw = raw
        return False

    def _take(self) -> bytes:
        feed, self._raw = self._raw, b""
        return feed

    def _fill(self) -> bool:
        self._raw = self._stream.read(READ_BYTES)
        self._num_read += len(self._raw)
        return bool(self._raw)
