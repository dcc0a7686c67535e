"""Where bytes live: a folder or a bucket behind one small interface, and the commit protocol.

A `Store` is a place with names below it. Data is written under names that carry an attempt, and
becomes visible only when one small file `done/<key>.json` that names it is put, which succeeds for
exactly one writer. Readers look at nothing that a done file does not name, so a process may be
killed at any moment: what it left behind is either named by a done file and whole, or not named and
removed by `clean`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Protocol, Self, cast

from pydantic import Field

from pipelines.errors import FailedError
from pipelines.records import File, Frozen


class StorageError(OSError, FailedError):
    """Bytes that could not be read or written; the message names the place and what to do."""


class Entry(Frozen):
    """One stored object, as a listing shows it."""

    name: str
    num_bytes: int
    # Of the place and the moment, so no part of what keys are made of.
    stamp: str = Field("", exclude=True, description="as `Store.stamp`")
    changed: float = Field(0.0, exclude=True, description="seconds since 1970, where it is known")


class Store(Protocol):
    """A folder or a bucket prefix. Names use `/` and never start with it."""

    uri: str

    def read_bytes(self, name: str) -> bytes:
        """The whole object. FileNotFoundError (naming the place) when there is none."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A seekable reader that fetches ranges as they are asked for."""
        ...

    def exists(self, name: str) -> bool: ...

    def stamp(self, name: str) -> str:
        """What the place says of the bytes and changes with them; empty where it says nothing.

        FileNotFoundError when there is no such object.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names start with `prefix`, sorted by name."""
        ...

    def create(self, name: str) -> Writer:
        """A writer whose object appears, whole, when its `with` block ends without an error."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put a small object unless the name exists. True for exactly one of many writers."""
        ...

    def remove(self, name: str) -> None:
        """Delete the object; no error when there is none."""
        ...

    def move(self, name: str, new: str) -> None:
        """Give an object another name. Done again after a crash, it changes nothing.

        FileNotFoundError when there is neither.
        """
        ...

    def unfinished(self) -> Iterator[Entry]:
        """What writers that were killed left half-written."""
        ...

    def discard_unfinished(self) -> None:
        """Remove it. Only when nobody writes here any more."""
        ...

    def local_path(self, name: str) -> Path | None:
        """The file behind the name, for readers that map memory; None when it is not local."""
        ...


class Writer:
    """A binary file being written; counts and hashes what passes.

    Used with `with`. When the block ends normally the object is whole, on disk and visible, and
    `file` describes it. When it ends with an exception nothing remains.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self._sink = sink
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        self._file: File | None = None

    def write(self, data: bytes | memoryview) -> int:
        self._sink.write(data)
        self._sha256.update(data)
        self._num_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self._num_bytes

    def flush(self) -> None:
        """No-op: data is made durable on close."""

    @property
    def closed(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        """Nothing: the end of the `with` block decides whether the object appears."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def file(self, *, num_rows: int | None = None) -> File:
        """The finished object. Only after the `with` block."""
        assert self._file is not None, "the writer is still open"
        return self._file.model_copy(update={"num_rows": num_rows})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._sink.abandon()
            return
        self._sink.finish()
        self._file = File(
            name=self.name, sha256=self._sha256.hexdigest(), num_bytes=self._num_bytes
        )


class Sink(Protocol):
    """Where a Writer's bytes go: everything is kept by `finish`, nothing by `abandon`."""

    def write(self, data: bytes | memoryview) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def write_bytes(store: Store, name: str, data: bytes) -> File:
    """Put an object whole, in place of any earlier one."""
    with store.create(name) as writer:
        writer.write(data)
    return writer.file()


def copy_into(source: IO[bytes], target: Writer, *, chunk_bytes: int = 1 << 20) -> None:
    """Stream all of `source` into an open writer."""
    while chunk := source.read(chunk_bytes):
        target.write(chunk)


def as_file(writer: Writer) -> IO[bytes]:
    """The writer as the file object that pyarrow and tarfile expect."""
    return cast("IO[bytes]", writer)


def buffered(file: BinaryIO, size: int = 1 << 20) -> BinaryIO:
    """A reader that fetches at least `size` bytes at a time."""
    return io.BufferedReader(file, size)  # type: ignore[arg-type, type-var, return-value]
