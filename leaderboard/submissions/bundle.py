"""A submission as one file: a zip of JSON and parquet, in which nothing is ever run.

    bundle.json                              what is in the zip, and where data and models are
    submission.json                          the Submission record with its whole chain
    questions/<seed>/<task>/<part>.parquet   one row per question that a model was asked
    checkpoints/<seed>/<step>/scores.json    of a speedrun: the scores of a checkpoint,
    checkpoints/<seed>/<step>/<task>/<part>.parquet   and the questions that it was asked
    dataset/uids.parquet                     for lists of uids: 10,000 of them, chosen by hash

Equal content gives an equal zip. A zip from somebody else is looked at from outside first: only
these names, sizes, two ways of compression, no entry that overlaps another. Everything that is
unpacked is counted while it is unpacked, so a small file cannot become a large one.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson
from pydantic import Field, ValidationError

from leaderboard.submissions.faults import BundleError, Fault, Words, fault
from leaderboard.submissions.uids import SKETCH, UidList
from pipelines.records import Frozen, RecordError, Submission, parse_record

FORMAT = 1  # of bundles; another number is refused
MANIFEST, RECORD, UIDS = "bundle.json", "submission.json", "dataset/uids.parquet"
CHECKPOINTS, SCORES = "checkpoints", "scores.json"
PART = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}/[0-9]{1,6}\.parquet"
NAME = re.compile(
    rf"bundle\.json|submission\.json|dataset/uids\.parquet|questions/[0-9]{{1,19}}/{PART}"
    rf"|{CHECKPOINTS}/(0|[1-9][0-9]{{0,18}})/step-[0-9]{{8}}/(scores\.json|{PART})"
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold: equal content, equal bytes
END = struct.Struct("<4s4H2LH")  # the end of a zip's directory


class Limits(Frozen):
    """What a bundle may be at most."""

    bundle_bytes: int = Field(1 << 30, description="of the zip")
    unpacked_bytes: int = Field(2 << 30, description="of everything in it")
    json_bytes: int = Field(32 << 20, description="of one JSON file")
    parquet_bytes: int = Field(512 << 20, description="of one parquet file")
    members: int = Field(20_000, description="files in the zip")
    directory_bytes: int = Field(4 << 20, description="of the zip's own directory")
    ratio: int = Field(200, description="how often a file may be larger than it is packed")


LIMITS = Limits()


class Packed(Frozen):
    """One file of the bundle."""

    name: str
    sha256: str
    num_bytes: int


class Place(Frozen):
    """The address of something that is too large to send."""

    location: str = Field("", max_length=2000, description="an address; empty: not public")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    num_bytes: int | None = None


class DocumentList(Frozen):
    """What a submission says of its documents (see `documents`)."""

    count: int = Field(ge=0, description="documents that have a key")
    sketch: tuple[int, ...] = Field((), max_length=SKETCH, description="smallest hashes of keys")


LEAST = 1 / 1040
"""zlib packs at most 1,032 bytes into one (its format: 258 bytes in two bits)."""


class Profile(Frozen):
    """What is simple about the documents (see `profile`)."""

    document_words: float = Field(gt=0, le=1e9, allow_inf_nan=False, description="words of one")
    compressed: float = Field(
        ge=LEAST, le=2, allow_inf_nan=False, description="zlib's bytes of a byte of text"
    )
    order: float = Field(
        ge=LEAST,
        le=2,
        allow_inf_nan=False,
        description="`compressed` beside that of shuffled words",
    )
    suite_bits: float | None = Field(
        None, ge=0, le=64, allow_inf_nan=False, description="bits of a word of the questions"
    )


class OverlapOf(Frozen):
    """Which of a task's items occur in the dataset; the scores without them are computed."""

    num_items: int = Field(ge=0)
    num_too_short: int = Field(0, ge=0, description="items that are too short to decide")
    found: tuple[int, ...] = Field((), description="rows of the task's data")


class CurvePoint(Frozen):
    """The headline of a checkpoint on the way, as `evaluate --checkpoint` measured it."""

    checkpoint: str = Field(pattern=r"^step-[0-9]{8}$")
    value: float = Field(allow_inf_nan=False)
    stderr: float | None = Field(None, ge=0, allow_inf_nan=False)

    @property
    def step(self) -> int:
        """Steps of training behind it."""
        return int(self.checkpoint.removeprefix("step-"))


class Manifest(Frozen):
    """`bundle.json`. Outside the submission's id: addresses may change, what is there may not."""

    format: int = FORMAT
    submission: str
    files: tuple[Packed, ...]
    dataset: Place = Place()
    checkpoints: dict[str, Place] = Field(default_factory=dict, description="by seed")
    uids: UidList | None = None
    documents: DocumentList | None = None
    profile: Profile | None = None
    overlap: dict[str, OverlapOf] | None = Field(None, description="by task; `evals overlap`")
    curves: dict[str, tuple[CurvePoint, ...]] = Field(
        default_factory=dict, description="by seed: scores of checkpoints on the way"
    )


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened: its record and manifest are read, its files can be."""

    where: str
    record: Submission
    manifest: Manifest
    sizes: Mapping[str, int]
    read: Callable[[str], bytes]
    checkpoint: str = ""
    """The weights on the way, as `step-00000045`, whose logs are read; empty: the final ones."""

    def folder(self, seed: int, task: str) -> str:
        """Where the logs of one task of the model trained with this seed are."""
        if self.checkpoint:
            return f"{checkpoint_folder(seed, self.checkpoint)}/{task}"
        return f"questions/{seed}/{task}"

    def parts(self, seed: int, task: str) -> list[str]:
        """The names of the logs of one task of the model trained with this seed, in order."""
        prefix = f"{self.folder(seed, task)}/"
        return sorted(name for name in self.sizes if name.startswith(prefix))

    @cached_property
    def checkpoints(self) -> tuple[tuple[int, str], ...]:
        """The seed and name of each checkpoint that the bundle has a file of, in order."""
        parts = (name.split("/") for name in self.sizes if name.startswith(f"{CHECKPOINTS}/"))
        return tuple(sorted({(int(seed), step) for _, seed, step, *_ in parts}))


def checkpoint_folder(seed: int, checkpoint: str) -> str:
    """Where the scores and logs of a checkpoint are in a bundle."""
    return f"{CHECKPOINTS}/{seed}/{checkpoint}"


def open_bundle(path: Path, *, limits: Limits = LIMITS) -> Bundle:
    """Open a zip or a submission's folder. BundleError lists what keeps it from being read."""
    if path.is_dir():
        return opened(str(path), _folder_sizes(path), lambda name: (path / name).read_bytes())
    if not path.is_file():
        raise FileNotFoundError(f"there is no bundle {path}")
    sizes = look_at(path, limits=limits)

    def read(name: str) -> bytes:
        return _unpack(path, name, sizes[name])

    return opened(path.name, sizes, read)


def _folder_sizes(folder: Path) -> dict[str, int]:
    whole = folder.resolve()
    files = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(whole)
    )
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: named[name].stat().st_size for name in sorted(named) if NAME.fullmatch(name)}


def opened(where: str, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> Bundle:
    """A bundle from its files, by their sizes and a way to read them."""
    absent = [name for name in (MANIFEST, RECORD) if name not in sizes]
    if absent:
        hint = "make the bundle with the benchmark's `submit`"
        raise BundleError(
            [fault(name, "", Words("no such file"), Words("one"), hint) for name in absent]
        )
    try:
        record = parse_record(read(RECORD), source=RECORD)
    except RecordError as error:
        raise BundleError([_unreadable(RECORD, error)]) from None
    if not isinstance(record, Submission):
        raise BundleError([fault(RECORD, "kind", record.kind, "submission")])
    try:
        manifest = Manifest.model_validate(orjson.loads(read(MANIFEST)))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise BundleError([_unreadable(MANIFEST, error)]) from None
    return Bundle(where, record, manifest, sizes, read)


def _unreadable(file: str, error: Exception) -> Fault:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return fault(file, field, first.get("input"), Words(first["msg"]))
    text = str(error).removeprefix(f"{file}: ")
    return fault(file, "", Words(text), Words("a record that was not edited"))


# ---- from outside


def look_at(path: Path, *, limits: Limits = LIMITS) -> dict[str, int]:
    """Sizes by name of the files in a zip, without unpacking any. BundleError lists its faults."""
    _check_end(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, RuntimeError) as error:
        raise BundleError([fault(path.name, "", Words(str(error)), Words("a zip file"))]) from None
    faults = list(_entry_faults(path, entries, limits))
    if faults:
        raise BundleError(faults[:20])
    return {entry.filename: entry.file_size for entry in entries}


def _check_end(path: Path, limits: Limits) -> None:
    """The directory's end, before a library reads a directory of any length into memory."""
    size = path.stat().st_size
    if size > limits.bundle_bytes:
        raise BundleError(
            [fault(path.name, "size", size, Words(f"at most {limits.bundle_bytes:,} bytes"))]
        )
    with open(path, "rb") as file:
        file.seek(max(0, size - END.size - 20))
        tail = file.read()
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\x05\x06":
        raise BundleError(
            [fault(path.name, "", Words("another kind of file"), Words("a zip without a comment"))]
        )
    _, disk, start_disk, here, total, length, begin, comment = END.unpack(tail[-END.size :])
    if tail[: -END.size][-20:-16] == b"PK\x06\x07" or 0xFFFFFFFF in (length, begin):
        raise BundleError([fault(path.name, "", Words("a zip64 file"), Words("a plain zip"))])
    fields = {"comment": comment, "disk": disk, "first disk": start_disk, "entries": total - here}
    faults = [fault(path.name, name, value, 0) for name, value in fields.items() if value]
    if total > limits.members:
        faults.append(fault(path.name, "entries", total, Words(f"at most {limits.members:,}")))
    if length > limits.directory_bytes:
        most = Words(f"at most {limits.directory_bytes:,} bytes")
        faults.append(fault(path.name, "directory", length, most))
    if begin + length + END.size != size:
        faults.append(fault(path.name, "", Words("bytes outside the zip"), Words("none")))
    if faults:
        raise BundleError(faults)


def _entry_faults(path: Path, entries: list[zipfile.ZipInfo], limits: Limits) -> Iterator[Fault]:
    if len(entries) > limits.members:
        yield fault(path.name, "entries", len(entries), Words(f"at most {limits.members:,}"))
        return
    seen: set[str] = set()
    end = 0
    for entry in sorted(entries, key=lambda entry_: entry_.header_offset):
        name = entry.filename
        if entry.orig_filename != name or not NAME.fullmatch(name):
            allowed = Words(
                "bundle.json, submission.json, dataset/uids.parquet, "
                "questions/<seed>/<task>/<part>.parquet or checkpoints/<seed>/<step>/..."
            )
            yield fault(path.name, "name of an entry", entry.orig_filename, allowed)
            continue
        if name in seen:
            yield fault(name, "", Words("two files of this name"), Words("one"))
        seen.add(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            yield fault(name, "file type", oct(kind), Words("a regular file"))
        if entry.flag_bits & 0x1:
            yield fault(name, "", Words("an encrypted file"), Words("a plain one"))
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield fault(name, "compression", entry.compress_type, Words("stored or deflated"))
        most = limits.json_bytes if name.endswith(".json") else limits.parquet_bytes
        if entry.file_size > most:
            yield fault(name, "size", entry.file_size, Words(f"at most {most:,} bytes"))
        if (
            entry.file_size > limits.ratio * max(entry.compress_size, 1)
            and entry.file_size > 1 << 16
        ):
            yield fault(
                name,
                "compression",
                Words(f"{entry.file_size:,} bytes from {entry.compress_size:,}"),
                Words(f"at most {limits.ratio} times"),
            )
        if entry.header_offset < end:
            yield fault(name, "", Words("bytes that another entry has too"), Words("its own"))
        end = entry.header_offset + 30 + len(entry.filename.encode()) + entry.compress_size
    total = sum(entry.file_size for entry in entries)
    if total > limits.unpacked_bytes:
        yield fault(
            path.name, "unpacked size", total, Words(f"at most {limits.unpacked_bytes:,} bytes")
        )


def _unpack(path: Path, name: str, size: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            data = member.read(size + 1)
            rest = member.read(1)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise BundleError([fault(name, "", Words(str(error)), Words("a whole file"))]) from None
    except Exception as error:  # zlib.error has no public base class
        if type(error).__module__ != "zlib":
            raise
        raise BundleError([fault(name, "", Words(str(error)), Words("deflated bytes"))]) from None
    if len(data) != size or rest:
        raise BundleError([fault(name, "size", Words(f"not the {size} bytes it says"), size)])
    return data


# ---- making one


def manifest_of(
    record: Submission,
    files: Iterable[tuple[str, bytes]],
    *,
    dataset: Place = Place(),
    checkpoints: Mapping[str, Place] | None = None,
    uids: UidList | None = None,
    documents: DocumentList | None = None,
    profile: Profile | None = None,
    overlap: Mapping[str, OverlapOf] | None = None,
    curves: Mapping[str, tuple[CurvePoint, ...]] | None = None,
) -> Manifest:
    """The manifest over these files (without itself)."""
    packed = [
        Packed(name=name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
        for name, data in files
    ]
    return Manifest(
        submission=record.id,
        files=tuple(sorted(packed, key=lambda file: file.name)),
        dataset=dataset,
        checkpoints=dict(checkpoints or {}),
        uids=uids,
        documents=documents,
        profile=profile,
        overlap=None if overlap is None else dict(overlap),
        curves=dict(curves or {}),
    )


def write_zip(folder: Path, path: Path) -> Path:
    """Pack a submission's folder into a zip; the same bytes for the same files."""
    names = sorted(_folder_sizes(folder), key=lambda name: (name != MANIFEST, name != RECORD, name))
    whole = path.with_name(path.name + ".part")
    with zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.create_system = 3
            packed = name.endswith(".json")
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(entry, (folder / name).read_bytes())
    whole.replace(path)
    return path
