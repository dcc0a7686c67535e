"""A training run whose folder is in a bucket: worked on in a local folder, mirrored as it goes.

Trainers write to a local folder, for checkpoints are written in place and read back in parts. When
`--out` is a prefix of a bucket, that folder is a scratch folder of this machine and a thread of the
first process copies it to the bucket:

    PREFIX/partial/<number>/...     files of the snapshot of this number: checkpoint, metrics
    PREFIX/snapshot.json            the newest whole snapshot: names, sizes, sha256; a file that did
                                    not change stays where an earlier snapshot put it
    PREFIX/model files, record.json the finished model; the record is written last

`snapshot.json` is written when all of its files are there, so a snapshot that a kill cut off is
never seen. A machine that has no scratch folder yet starts from the newest snapshot. Training does
not wait for the copies, apart from the last one.

Scratch folders are below $CURATION_SCRATCH or the user's cache. Several machines that train one
model together need a scratch folder that all of them see.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.errors import PlanError
from pipelines.records import File, Frozen, RecordError, digest, parse_record, sha256_file
from pipelines.storage.base import Store, copy_into, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

SNAPSHOT, PARTIAL, LINKS = "snapshot.json", "partial", ".mirror"
LOOK_SECONDS = 5.0  # between two looks for a new checkpoint
GROWING = (".jsonl", ".txt", ".log")  # appended to; a snapshot is taken for other files

log = logging.getLogger(__name__)


class Snapshot(Frozen):
    """The files of a folder at one moment, as they are in the bucket."""

    number: int
    files: tuple[File, ...]
    earlier: dict[str, int] = Field(
        default_factory=dict, description="files that did not change: the snapshot that stored them"
    )

    def stored_at(self, name: str) -> str:
        """Where in the bucket a file of this snapshot is."""
        return f"{PARTIAL}/{self.earlier.get(name, self.number)}/{name}"


def scratch_folder() -> Path:
    given = os.environ.get("CURATION_SCRATCH")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "curation"


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith("file://")


def working_folder(out: str) -> str:
    """Where a training run for `out` works: `out` itself, or the scratch folder of a prefix."""
    if not is_remote(out):
        return out
    return str(scratch_folder() / "training" / digest(out.rstrip("/"))[:16])


@contextmanager
def mirrored(out: str, *, rank: int) -> Iterator[str]:
    """The folder to train in for `out`; what it holds at the end without an error is uploaded.

    Every process of a group calls this; the one of rank 0 uploads.
    """
    if not is_remote(out):
        yield out
        return
    _check_machines()
    folder, store = Path(working_folder(out)), open_store(out)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of this machine, one after the other
        is_copy = _restore(store, folder)
    if store.exists(RECORD) or rank > 0:
        yield str(folder)
        return
    mirror = _Mirror(folder, store, is_copy=is_copy)
    mirror.start()
    try:
        yield str(folder)
    finally:
        mirror.stop()
    _upload_all(folder, store)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # others may still read the record there
        shutil.rmtree(folder)


def _check_machines() -> None:
    world, here = (int(os.environ.get(n, "1")) for n in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world > here and "CURATION_SCRATCH" not in os.environ:
        raise PlanError(
            "several machines train one model into a bucket: set CURATION_SCRATCH to a folder that "
            "all of them see, for checkpoints are written there by every machine first"
        )


def _restore(store: Store, folder: Path) -> bool:
    """Fill an empty folder from the bucket: a finished model's record, or the newest snapshot.

    Whether the folder is now a copy of that snapshot.
    """
    if store.exists(RECORD):
        (folder / RECORD).write_bytes(store.read_bytes(RECORD))
        return False
    if not store.exists(SNAPSHOT) or any(_files(folder)):
        return False
    snapshot = _read_snapshot(store)
    log.info("%s: continuing from snapshot %d", store.uri, snapshot.number)
    for file in snapshot.files:
        download(store, snapshot.stored_at(file.name), folder / file.name, sha256=file.sha256)
    return True


def _read_snapshot(store: Store) -> Snapshot:
    try:
        return Snapshot.model_validate_json(store.read_bytes(SNAPSHOT))
    except ValidationError as error:
        raise RecordError(f"{store.uri}/{SNAPSHOT} is damaged: {error}") from None


def download(store: Store, name: str, path: Path, *, sha256: str) -> None:
    """A file of a store as a local one, which appears when it is whole. RecordError if changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    with store.open(name) as source, open(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if sha256_file(part) != sha256:
        part.unlink()
        raise RecordError(f"{store.uri}/{name} is not the file that its record names")
    os.replace(part, path)


def _files(folder: Path) -> Iterator[Path]:
    """The whole files of a training folder, in order."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".part", LINKS)) for part in parts):
            yield path


class _Mirror(threading.Thread):
    """Takes a snapshot whenever another checkpoint is in the folder."""

    def __init__(self, folder: Path, store: Store, *, is_copy: bool = False) -> None:
        super().__init__(name=f"mirror {folder.name}", daemon=True)
        self.folder, self.store = folder, store
        self._ended = threading.Event()
        self._seen = self._state() if is_copy else []
        self._number = _read_snapshot(store).number if store.exists(SNAPSHOT) else 0
        self._stored: dict[tuple[str, int, int], tuple[File, int]] = {}  # by name, size, time

    def run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def stop(self) -> None:
        """Take a last snapshot: after SIGTERM the newest checkpoint is in the bucket."""
        self._ended.set()
        self.join()
        if not (self.folder / RECORD).is_file():
            self.look()

    def look(self) -> None:
        state = self._state()
        if state == self._seen or not state:
            return
        try:
            self._upload()
        except FileNotFoundError:
            return  # a newer checkpoint has taken the place of this one: look again
        except Exception as error:  # the next look tries again; training continues meanwhile
            log.warning("%s: the checkpoint could not be copied: %s", self.store.uri, error)
            return
        self._seen = state

    def _state(self) -> list[tuple[str, int, int]]:
        """Names, sizes and times of all files that do not grow."""
        state = []
        for path in _files(self.folder):
            if path.suffix not in GROWING:
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue
                name = str(path.relative_to(self.folder))
                state.append((name, about.st_size, about.st_mtime_ns))
        return state

    def _upload(self) -> None:
        """Copy what is there now; the older snapshot is removed after the new one is whole."""
        links = self.folder / LINKS
        shutil.rmtree(links, ignore_errors=True)
        for path in _files(self.folder):
            link = links / path.relative_to(self.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in GROWING:
                shutil.copyfile(path, link)
            else:
                os.link(path, link)
        number = self._number + 1
        stored = {}
        for link in sorted(links.rglob("*")):
            if link.is_file():
                about, name = link.stat(), str(link.relative_to(links))
                state = (name, about.st_size, about.st_mtime_ns)
                stored[state] = self._stored.get(state) or (
                    _put(self.store, link, name, prefix=f"{PARTIAL}/{number}/"),
                    number,
                )
        earlier = {file.name: at for file, at in stored.values() if at != number}
        files = tuple(file for file, _ in stored.values())
        snapshot = Snapshot(number=number, files=files, earlier=earlier)
        write_bytes(self.store, SNAPSHOT, snapshot.model_dump_json().encode())
        self._number, self._stored = number, stored
        shutil.rmtree(links)
        _remove_partial(self.store, keep={snapshot.stored_at(file.name) for file in files})


def _put(store: Store, path: Path, name: str, *, prefix: str = "") -> File:
    with open(path, "rb") as source, store.create(prefix + name) as writer:
        copy_into(source, writer)
    return writer.file().model_copy(update={"name": name})


def _remove_partial(store: Store, *, keep: Collection[str] = ()) -> None:
    for entry in list(store.list(f"{PARTIAL}/")):
        if entry.name not in keep:
            store.remove(entry.name)


def _upload_all(folder: Path, store: Store) -> None:
    """The finished model, its record last; the snapshots are not needed any more."""
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if name != RECORD:
            _put(store, path, name)
    _put(store, folder / RECORD, RECORD)
    if store.exists(SNAPSHOT):
        store.remove(SNAPSHOT)
    _remove_partial(store)


def local_model(model: str, *, say: Callable[[str], None] = log.info) -> str:
    """A model's folder on this machine: itself, or a copy of a bucket's, kept by its record's id.

    Anything else (the name of a public model) comes back as it is.
    """
    if not is_remote(model):
        return model
    store = open_store(model)
    data = store.read_bytes(RECORD)
    record = parse_record(data, source=f"{store.uri}/{RECORD}")
    folder = scratch_folder() / "models" / record.id
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / RECORD).is_file():
            say(f"copying the model {store.uri} to {folder}")
            for file in record.outputs:
                download(store, file.name, folder / file.name, sha256=file.sha256)
            (folder / RECORD).write_bytes(data)
    return str(folder)
