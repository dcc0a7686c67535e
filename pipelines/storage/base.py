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
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Protocol, Self, cast
from urllib.parse import urlsplit

import orjson
from pydantic import Field, ValidationError

from pipelines.errors import FailedError
from pipelines.records import JSON, File, Frozen, canonical_json, now

DONE = "done"
READERS = 8  # threads that read small files


class StorageError(FailedError, OSError):
    """Bytes that could not be read or written; the message names the place and what to do."""


class DeterminismError(FailedError):
    """Two attempts at the same work produced different bytes."""


class Entry(Frozen):
    """One stored object, as a listing shows it."""

    name: str
    num_bytes: int


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
        """Delete the object; no error when it is already gone."""
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
        """Nothing: bytes become durable together, at the end."""

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


class LocalStore:
    """A folder. Objects appear by an atomic rename after their bytes are synced to disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = str(self.root)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StorageError(f"the name {name!r} leaves the folder {self.root}")
        return path

    def local_path(self, name: str) -> Path | None:
        return self._path(name)

    def read_bytes(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}") from None

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        top = self._path(prefix)
        folder = top if prefix.endswith("/") or not prefix else top.parent
        found = []
        for base, _, names in os.walk(folder):
            for leaf in names:
                path = Path(base) / leaf
                name = path.relative_to(self.root).as_posix()
                if name.startswith(prefix) and not leaf.startswith(_PART):
                    with suppress(FileNotFoundError):  # removed while the folder was being read
                        found.append(Entry(name=name, num_bytes=path.stat().st_size))
        yield from sorted(found, key=lambda entry: entry.name)

    def create(self, name: str) -> Writer:
        return Writer(name, _LocalSink(self._path(name)))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        temporary = _part_of(path)
        with _no_space_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)  # fails if the name exists: one winner
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return True

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def move(self, name: str, new: str) -> None:
        source, target = self._path(name), self._path(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(source, target)
        except FileNotFoundError:
            if not target.is_file():
                raise FileNotFoundError(f"there is no file {source}") from None
            return
        _sync_folder(target.parent)

    def unfinished(self) -> Iterator[Entry]:
        for path in sorted(self.root.rglob(f"{_PART}*")):
            name = path.relative_to(self.root).as_posix()
            yield Entry(name=name, num_bytes=path.stat().st_size)

    def discard_unfinished(self) -> None:
        for entry in list(self.unfinished()):
            self.remove(entry.name)


_PART = ".part-"


def _part_of(path: Path) -> Path:
    return path.with_name(f"{_PART}{secrets.token_hex(4)}-{path.name}")


class _LocalSink:
    """A file that is written under another name and renamed when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = _part_of(path)
        with _no_space_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.temporary, "xb")  # noqa: SIM115 - closed by finish or abandon

    def write(self, data: bytes | memoryview) -> None:
        with _no_space_named(self.path):
            self.file.write(data)

    def finish(self) -> None:
        try:
            with _no_space_named(self.path):
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.replace(self.temporary, self.path)
                _sync_folder(self.path.parent)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self.file.close()
        self.temporary.unlink(missing_ok=True)


@contextmanager
def _no_space_named(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one that says what could not be written, and what to do."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError(
            error.errno,
            f"cannot write {path}: {error.strerror}; free space or choose another --out, "
            "then run the same command again: finished work is kept",
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(uri: str | Path) -> Store:
    """The store behind a folder path or a URI.

    `file://` and `s3://bucket/prefix`; `https://host/path` and `hf://datasets/owner/name` to read.
    """
    if isinstance(uri, Path):
        return LocalStore(uri)
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from pipelines.storage.s3 import S3Store

        return S3Store.from_uri(uri)
    if parts.scheme in ("http", "https", "hf"):
        from pipelines.storage.read_only import HfStore, HttpStore

        return HfStore(uri) if parts.scheme == "hf" else HttpStore(uri)
    if parts.scheme == "file":
        return LocalStore(Path(parts.path))
    if parts.scheme and len(parts.scheme) > 1:
        raise ValueError(
            f"cannot open {uri!r}: expected a folder or s3://bucket/prefix, "
            "or to read https:// or hf://datasets/owner/name"
        )
    return LocalStore(Path(uri))


def split_uri(uri: str | Path) -> tuple[Store, str]:
    """The store of the folder that holds `uri`, and the last part of the name."""
    text = str(uri).rstrip("/")
    head, _, leaf = text.rpartition("/")
    return open_store(head if head or "/" not in text else "/"), leaf


def read_uri(uri: str | Path) -> bytes:
    """All bytes of one file, local or not."""
    store, name = split_uri(uri)
    return store.read_bytes(name)


def write_bytes(store: Store, name: str, data: bytes) -> File:
    """Put an object whole, in place of any earlier one."""
    with store.create(name) as writer:
        writer.write(data)
    return writer.file()


def attempt_name(stem: str, suffix: str) -> str:
    """A name for one attempt at a piece of work: `stem.<attempt><suffix>`."""
    return f"{stem}.{secrets.token_hex(4)}{suffix}"


def copy_into(source: IO[bytes], target: Writer, *, chunk_bytes: int = 1 << 20) -> None:
    """Stream all of `source` into an open writer."""
    while chunk := source.read(chunk_bytes):
        target.write(chunk)


def as_file(writer: Writer) -> IO[bytes]:
    """The writer as the file object that pyarrow and tarfile expect."""
    return cast("IO[bytes]", writer)


class Done(Frozen):
    """The commit of one piece of work: what it wrote, what it counted.

    `timings`, `seconds`, `host` and `at` (when) describe the attempt that won, outside the
    comparison.
    """

    key: str
    files: tuple[File, ...]
    counts: dict[str, int] = Field(default_factory=dict)
    stats: JSON = None
    timings: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    host: str = ""
    at: str = Field(default_factory=now)

    def content(self) -> JSON:
        return {
            "key": self.key,
            "files": [file.content() for file in self.files],
            "counts": self.counts,
            "stats": self.stats,
        }


def done_name(key: str) -> str:
    return f"{DONE}/{key}.json"


def find_done(store: Store, key: str) -> Done | None:
    """The commit of this work, or None when it is still to do."""
    if not store.exists(done_name(key)):
        return None
    return read_done(store, done_name(key))


def find_done_many(store: Store, keys: Sequence[str]) -> dict[str, Done]:
    """The commits of these pieces of work that are there, by key; one listing, not one look each.

    Fast when the keys share what stands before their first `-`, as those of one step do.
    """
    wanted = {done_name(key): key for key in keys}
    found = {}
    for prefix in sorted({done_name(key)[: -len(".json")].split("-")[0] for key in keys}):
        names = [entry.name for entry in store.list(prefix) if entry.name in wanted]
        for name, done in zip(names, _read_many(store, names), strict=True):
            found[wanted[name]] = done
    return found


def _read_many(store: Store, names: Sequence[str]) -> list[Done]:
    """Commits by name; several at a time where each costs a request."""
    if isinstance(store, LocalStore):
        return [read_done(store, name) for name in names]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda name: read_done(store, name), names))


def read_done(store: Store, name: str) -> Done:
    data = store.read_bytes(name)
    try:
        return Done.model_validate(orjson.loads(data))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise StorageError(
            f"{store.uri}/{name} is not a commit file ({error}); remove it and run again"
        ) from None


def commit(store: Store, done: Done) -> Done:
    """Make finished work visible; the first of several equal attempts wins.

    Returns the commit that stands. If another attempt was first and wrote the same bytes, this
    attempt's files are removed; if it wrote other bytes, DeterminismError names the work.
    """
    if store.put_if_absent(done_name(done.key), done.model_dump_json().encode()):
        return done
    standing = read_done(store, done_name(done.key))
    if canonical_json(standing.content()) != canonical_json(done.content()):
        raise DeterminismError(
            f"two attempts at {done.key} below {store.uri} wrote different results: "
            f"{[file.name for file in standing.files]} and {[file.name for file in done.files]}; "
            "an operator depends on something outside its input (time, chance, order)"
        )
    kept = {file.name for file in standing.files}
    for file in done.files:
        if file.name not in kept:
            store.remove(file.name)
    return standing


def all_done(store: Store) -> Iterator[Done]:
    """Every commit below the store, by name."""
    yield from _read_many(store, [entry.name for entry in store.list(f"{DONE}/")])


def unreferenced(store: Store, *, folders: tuple[str, ...]) -> list[Entry]:
    """Objects below `folders` that no commit names: what killed attempts left behind."""
    named = {file.name for done in all_done(store) for file in done.files}
    left = [
        entry for folder in folders for entry in store.list(f"{folder}/") if entry.name not in named
    ]
    return [*left, *store.unfinished()]


def buffered(file: BinaryIO, size: int = 1 << 20) -> BinaryIO:
    """A reader that fetches at least `size` bytes at a time."""
    return io.BufferedReader(file, size)  # type: ignore[arg-type, type-var, return-value]
