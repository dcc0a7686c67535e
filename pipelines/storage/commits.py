"""The commit protocol: attempts have random names; one `done` file makes an attempt count."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson
from pydantic import Field, ValidationError

from pipelines.errors import FailedError
from pipelines.records import JSON, File, Frozen, canonical_json, now
from pipelines.storage.base import Entry, StorageError, Store
from pipelines.storage.local import LocalStore

DONE = "done"


READERS = 8  # threads that read small files


class DeterminismError(FailedError):
    """Two attempts at the same work produced different bytes."""


def attempt_name(stem: str, suffix: str) -> str:
    """A name for one attempt at a piece of work: `stem.<attempt><suffix>`."""
    return f"{stem}.{secrets.token_hex(4)}{suffix}"


_ATTEMPT = re.compile(r"[0-9a-f]{8}(\.[a-z0-9.]+)?")


def is_attempt(name: str) -> bool:
    """Whether `attempt_name` made this name: others' files in a run's folders have other names."""
    return _ATTEMPT.fullmatch(name.rpartition("/")[2].partition(".")[2]) is not None


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

    Fast when the keys share what is before their first `-`, as those of one step do.
    """
    key_of = {done_name(key): key for key in keys}
    committed = {}
    for prefix in sorted({done_name(key)[: -len(".json")].split("-")[0] for key in keys}):
        names = [entry.name for entry in store.list(prefix) if entry.name in key_of]
        for name, done in zip(names, _read_many(store, names), strict=True):
            committed[key_of[name]] = done
    return committed


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

    Returns the commit that counts. If another attempt was first and wrote the same bytes, this
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
    names = [entry.name for entry in store.list(f"{DONE}/") if entry.name.endswith(".json")]
    yield from _read_many(store, names)


def unreferenced(store: Store, *, folders: tuple[str, ...]) -> list[Entry]:
    """Objects below `folders` that no commit names: what killed attempts left behind."""
    named = {file.name for done in all_done(store) for file in done.files}
    left = [
        entry
        for folder in folders
        for entry in store.list(f"{folder}/")
        if entry.name not in named and is_attempt(entry.name)
    ]
    return [*left, *store.unfinished()]
