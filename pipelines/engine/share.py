"""Reuse finished work of another run: passes that two pipelines have in common run once.

The key of a task is a hash of everything that it depends on (pool, shard, the steps so far), so a
commit of another run under the same key is valid for this one. Files between passes are removed at
the end of a run, unless it keeps them for reuse.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from pipelines.records import File, sha256_file
from pipelines.storage.base import StorageError, Store
from pipelines.storage.commits import Done, commit, find_done_many


def adopt(source: Store, target: Store, keys: Sequence[str]) -> dict[str, Done]:
    """Copy the tasks of which `source` has all files; returns their commits by key."""
    adopted = {}
    for key, done in find_done_many(source, keys).items():
        if all(source.exists(file.name) for file in done.files):
            for file in done.files:
                _copy(source, target, file)
            adopted[key] = commit(target, done)
    return adopted


def _copy(source: Store, target: Store, file: File) -> None:
    """Copy one file under the same name; on one file system make a hard link instead."""
    path, into = source.local_path(file.name), target.local_path(file.name)
    if path is not None and into is not None:
        _check(sha256_file(path), source, file)
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, into)
        except OSError:  # another file system, or one without hard links: copy
            pass
        else:
            return
    with source.open(file.name) as reader, target.create(file.name) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)  # type: ignore[arg-type]
    _check(writer.file().sha256, source, file)


def _check(sha256: str | None, source: Store, file: File) -> None:
    if sha256 != file.sha256:
        raise StorageError(
            f"{source.uri}/{file.name} does not match its commit's checksum; remove that folder "
            "and run again"
        )
