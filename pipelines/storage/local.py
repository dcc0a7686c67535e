"""A store on the local file system."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.ending import lent
from pipelines.storage.base import Entry, StorageError, Writer


class LocalStore:
    """A folder. Objects appear by an atomic rename after their bytes are synced to disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = str(self.root)

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise StorageError(f"the name {name!r} leaves the folder {self.root}")
        return self.root / name  # a link inside the folder may lead out of it: a cache has such

    def local_path(self, name: str) -> Path | None:
        return self._path(name)

    def read_bytes(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        try:
            return lent(open(path, "rb"))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}") from None

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def stamp(self, name: str) -> str:
        path = self._path(name)
        try:
            return _stamp(path.stat())
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}") from None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        top = self._path(prefix)
        folder = top if prefix.endswith("/") or not prefix else top.parent
        entries = []
        for base, names in _files_below(folder):
            for leaf in names:
                path = Path(base) / leaf
                name = path.relative_to(self.root).as_posix()
                if name.startswith(prefix) and not leaf.startswith(_PART):
                    # removed while the folder was being read, or a link to nothing
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        if not stat.S_ISREG(status.st_mode):
                            continue  # opening a pipe waits for whoever writes into it
                        entries.append(
                            Entry(
                                name=name,
                                num_bytes=status.st_size,
                                stamp=_stamp(status),
                                changed=status.st_mtime,
                            )
                        )
        yield from sorted(entries, key=lambda entry: entry.name)

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


def _stamp(status: os.stat_result) -> str:
    """Size and time of change. No inode: a disk that two machines see may number files twice."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _files_below(folder: Path, again: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of the files in them, links followed; each folder once.

    Further paths of a folder are appended to `again`. StorageError names a folder that may not be
    read: what is in it would be lost in silence.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StorageError(
                error.errno, f"cannot read the folder {error.filename}: {error.strerror}"
            ) from error

    seen: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(base)
        if (status.st_dev, status.st_ino) in seen:  # links in a circle
            folders.clear()
            if again is not None:
                again.append(base)
            continue
        folders.sort()
        seen.add((status.st_dev, status.st_ino))
        yield base, names


def no_files(root: Path) -> dict[str, list[str]]:
    """Names below a folder that are no files and so in no listing, by what they are."""
    names: dict[str, list[str]] = {}
    again: list[str] = []
    for base, leaves in _files_below(root, again):
        for leaf in sorted(leaves):
            path = Path(base) / leaf
            if path.is_file():
                continue
            why = "a link to nothing" if path.is_symlink() else "a pipe, socket or device"
            names.setdefault(why, []).append(path.relative_to(root).as_posix())
    if again:
        linked = [Path(base).relative_to(root).as_posix() for base in again]
        names["a link to a folder that is here already"] = linked
    return names


def names_of_one_file(root: Path, names: Iterable[str]) -> list[list[str]]:
    """Those names below a folder of which several are one file, by symbolic or hard links."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name in names:
        with suppress(FileNotFoundError):  # removed since it was listed
            status = os.stat(root / name)
            groups.setdefault((status.st_dev, status.st_ino), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def is_link(root: Path, name: str) -> bool:
    """Whether a name below a folder leads to its file through a symbolic link."""
    return os.path.realpath(root / name) != os.path.join(os.path.realpath(root), name)


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = (
            "free space or choose another --out, then run the same command again: finished work "
            "is kept"
            if full
            else "choose a folder that can be written"
        )
        raise StorageError(
            error.errno, f"cannot write {path}: {error.strerror}; {remedy}"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
