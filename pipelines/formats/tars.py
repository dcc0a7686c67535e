"""Read WebDataset tars by their headers, and write them with members' bytes unchanged.

A sample is a run of members whose names are equal up to the first dot of the last part; extensions
are lower-cased, as in webdataset. Members that cannot belong to a sample (hidden files that macOS
adds, names without an extension, links) are skipped and counted. A file may contain several tars,
one after the other. Everything else is an error that names the tar and the member.
"""

from __future__ import annotations

import io
import mmap
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import kernels
from pipelines.formats.lines import HEADS
from pipelines.formats.shards import ShardError
from pipelines.storage.base import Store

BLOCK = 512  # bytes: headers and data of a tar are padded to blocks
MAX_MEMBERS = 4_000_000  # in one tar: bounds memory; shards have some 10,000 samples
FAULTS = {
    1: "the file breaks off",
    2: "a header whose checksum is wrong",
    3: "a header whose size is not an octal number",
    5: f"more than {MAX_MEMBERS} members",
}
"""Messages by the code that `pipelines.kernels.tars.walk` returns."""
_EXTENSION = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
HIDDEN, NO_EXTENSION, LINK = "hidden_file", "name_without_extension", "link_or_device"
"""Kinds of skipped members, as they are counted."""


@dataclass(frozen=True)
class Member:
    """A file in a tar: where its bytes are, what follows the key in its name, its time."""

    key: bytes
    extension: str
    start: int
    size: int


class TarError(ShardError):
    """A tar that is damaged, or has members that no sample can have."""


@contextmanager
def tar_bytes(store: Store, name: str) -> Iterator[memoryview]:
    """The bytes of a tar: mapped if local, else read into memory. ShardError if missing."""
    path = store.local_path(name)
    try:
        if path is None:
            data: Any = store.read_bytes(name)
        elif path.stat().st_size == 0:
            data = b""
        else:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ShardError(f"there is no tar {name} in {store.uri}") from None
    view = memoryview(data)
    try:
        yield view
    finally:
        with suppress(BufferError):  # an array over it may still wait for collection
            view.release()
            if isinstance(data, mmap.mmap):
                data.close()


def is_hidden(name: str) -> bool:
    """Whether a file is not data: `._x`, `.DS_Store`, anything in `__MACOSX`."""
    folder, _, leaf = name.rpartition("/")
    return leaf.startswith(".") or "__MACOSX" in folder.split("/")


def is_tar(name: str) -> bool:
    """Whether a file is a tar of the data; `._0.tar`, which macOS adds, is not."""
    return name.endswith(".tar") and not is_hidden(name)


@dataclass(frozen=True)
class SampleIndex:
    """The samples of a tar as arrays; a `Member` is made for those that are wanted only."""

    data: memoryview
    starts: npt.NDArray[np.int64]
    """Where the bytes of each member begin."""
    sizes: npt.NDArray[np.int64]
    names: npt.NDArray[np.int64]
    """Where the name of each member begins, its first dot, its end: [members, 3]."""
    runs: npt.NDArray[np.int64]
    """The first member of each sample, and the one behind its last: [samples, 2]."""
    jsons: npt.NDArray[np.int64]
    """The member of each sample that is a json, or -1."""
    links: int
    """Links and devices, which belong to no sample."""

    def __len__(self) -> int:
        return len(self.jsons)

    def __getitem__(self, number: int) -> list[Member]:
        """The members of one sample, in the order of the tar."""
        chosen = slice(*self.runs[number].tolist())
        return [
            Member(
                bytes(self.data[name:dot]),
                str(self.data[dot + 1 : end], "ascii").lower(),
                start,
                size,
            )
            for (name, dot, end), start, size in zip(
                self.names[chosen].tolist(),
                self.starts[chosen].tolist(),
                self.sizes[chosen].tolist(),
                strict=True,
            )
        ]

    def take(self, numbers: Sequence[int]) -> SampleIndex:
        """An index of some of the samples."""
        return replace(self, runs=self.runs[numbers], jsons=self.jsons[numbers])

    def longest_extension(self) -> int:
        """Letters of the longest extension."""
        return int((self.names[:, 2] - self.names[:, 1]).max()) - 1

    def json_parts(self) -> list[memoryview | None]:
        """Of each sample the bytes of its json, or None."""
        starts = self.starts[self.jsons].tolist()
        sizes = self.sizes[self.jsons].tolist()
        return [
            self.data[start : start + size] if number >= 0 else None
            for number, start, size in zip(self.jsons.tolist(), starts, sizes, strict=True)
        ]


def sample_index(data: memoryview) -> SampleIndex | None:
    """Every sample of a tar at once, or None for a tar that must be read name by name.

    That is a tar with a fault, with an extension of the format, or with a name that is not plainly
    `KEY.EXTENSION`.
    """
    array = np.frombuffer(data, dtype=np.uint8)
    headers, sizes, _, fault, links = kernels.tars.walk(array, MAX_MEMBERS)
    if fault or not len(headers):
        return None
    plain, dots, ends, firsts, jsons = kernels.tars.group(array, headers)
    if not plain:
        return None
    names = np.stack([headers, dots, ends], axis=1)
    runs = np.stack([firsts, np.append(firsts[1:], len(headers))], axis=1)
    return SampleIndex(data, headers + BLOCK, sizes, names, runs, jsons, links)


def samples(
    data: memoryview,
    where: str,
    passed: Counter[str] | None = None,
    *,
    repeats: bool = False,
) -> Iterator[list[Member]]:
    """The samples of a tar in memory, in order; `passed` counts members of no sample.

    TarError, after all complete samples, for a truncated or damaged tar, for members whose path
    leaves the folder, and for two members of one name; with `repeats`, the second of them begins
    the next sample, as open_clip reads packed shards.
    """
    passed = Counter() if passed is None else passed
    index = sample_index(data)
    if index is not None:
        if index.links:
            passed[LINK] += index.links
        yield from map(index.__getitem__, range(len(index)))
    else:
        yield from samples_by_name(data, where, passed, repeats=repeats)


def samples_by_name(
    data: memoryview, where: str, passed: Counter[str], *, repeats: bool = False
) -> Iterator[list[Member]]:
    """The same for a tar that `sample_index` cannot read, name by name."""
    sample: list[Member] = []
    for member in members(data, where, passed):
        if sample and member.key != sample[0].key:
            yield sample
            sample = []
        if any(member.extension == other.extension for other in sample):
            if not repeats:
                raise TarError(f"{where}: two members {_shown(member)} of one sample")
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def members(data: memoryview, where: str, passed: Counter[str] | None = None) -> Iterator[Member]:
    """The plain files of a tar in memory that may be parts of samples, in order."""
    passed = Counter() if passed is None else passed
    array = np.frombuffer(data, dtype=np.uint8)
    headers, sizes, end, fault, links = kernels.tars.walk(array, MAX_MEMBERS)
    if fault == kernels.tars.EXTENDED:
        yield from _by_library(data, where, passed)
        return
    if links:
        passed[LINK] += links
    for offset, size in zip(headers.tolist(), sizes.tolist(), strict=True):
        member = _member(_name(data, offset), offset + BLOCK, size, where, passed)
        if member is not None:
            yield member
    if fault:
        kind = next(
            (kind for head, kind in HEADS.items() if data[:6].tobytes().startswith(head)), ""
        )
        if kind and end == 0:
            raise TarError(f"{where}: the file is {kind}, not a tar; unpack it")
        raise TarError(f"{where}: at byte {end}: {FAULTS[int(fault)]}")


def _name(data: memoryview, offset: int) -> bytes:
    name = bytes(data[offset : offset + 100]).split(b"\0", 1)[0]
    prefix = bytes(data[offset + 345 : offset + 500]).split(b"\0", 1)[0]
    if prefix and bytes(data[offset + 257 : offset + 262]) == b"ustar":
        return prefix + b"/" + name
    return name


def _member(name: bytes, start: int, size: int, where: str, passed: Counter[str]) -> Member | None:
    """The member, or None if no sample can have its name. TarError for an unsafe path."""
    parts = name.split(b"/")
    if name.startswith(b"/") or b".." in parts:
        raise TarError(f"{where}: the member {name!r} leaves its folder")
    leaf, _, extension = parts[-1].partition(b".")
    if not leaf or b"__MACOSX" in parts:
        passed[HIDDEN] += 1
        return None
    if not extension or not _EXTENSION.issuperset(extension):
        passed[NO_EXTENSION] += 1
        return None
    key = b"/".join([*parts[:-1], leaf])
    return Member(key, extension.decode("ascii").lower(), start, size)


def _by_library(data: memoryview, where: str, passed: Counter[str]) -> Iterator[Member]:
    """The same by `tarfile`, for tars with long names or other extensions of the format."""
    begin, number = 0, 0
    while begin < len(data):
        try:
            with tarfile.open(fileobj=io.BytesIO(data[begin:]), mode="r:") as archive:
                for info in archive:
                    number += 1
                    if number > MAX_MEMBERS:
                        raise TarError(f"{where}: more than {MAX_MEMBERS} members")
                    if info.isdir():
                        continue
                    if not info.isreg():
                        passed[LINK] += 1
                        continue
                    if begin + info.offset_data + info.size > len(data):
                        raise TarError(f"{where}: the file ends inside {info.name!r}")
                    name = info.name.encode("utf-8", "surrogateescape")
                    start = begin + info.offset_data
                    member = _member(name, start, info.size, where, passed)
                    if member is not None:
                        yield member
                end = begin + archive.offset
        except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
            if isinstance(error, TarError):
                raise
            raise TarError(f"{where}: at byte {begin}: {error}") from None
        if end >= len(data):
            raise TarError(f"{where}: at byte {end}: {FAULTS[kernels.tars.CUT]}")
        rest = np.flatnonzero(np.frombuffer(data[end:], np.uint8))
        if not len(rest):
            return
        begin = end + int(rest[0]) // BLOCK * BLOCK  # the next tar in this file, or a fault


def _shown(member: Member) -> str:
    return f"{member.key.decode('utf-8', 'replace')}.{member.extension}"


_OWNER = b"0000444\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_TAIL = b" 0" + b"\0" * 100 + b"ustar\00000" + b"\0" * (BLOCK - 265)
_CONSTANT = sum(_OWNER + _TIME + _TAIL) + 7 * ord(" ")  # a checksum counts itself as eight spaces


def header(name: bytes, size: int) -> bytes:
    """A ustar header of a plain file: mode 444, owner 0, time 0. ValueError for a long name."""
    if len(name) > 100:
        raise ValueError(f"a name of {len(name)} bytes does not fit into a tar header")
    digits = b"%011o" % size
    checksum = b"%06o\0" % (_CONSTANT + sum(name) + sum(digits))
    return b"".join((name.ljust(100, b"\0"), _OWNER, digits, b"\0", _TIME, checksum, _TAIL))


PADDING = [b"\0" * (-size % BLOCK) for size in range(BLOCK)]
END = b"\0" * (2 * BLOCK)


def padding(size: int) -> bytes:
    """The zeros after a member of this size."""
    return PADDING[size % BLOCK]


def member(name: bytes, data: bytes) -> bytes:
    """A plain file as a tar member: header, bytes, zeros up to the next block."""
    return b"".join((header(name, len(data)), data, padding(len(data))))
