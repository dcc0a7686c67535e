"""Finished work of one run for another: passes that two pipelines begin with run once.

A piece of work is named by all that it depends on (pool, shard, the steps so far), so a commit of
one run under the same name is the other's too. Files between passes are removed at the end of a
run, unless it keeps them for this.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from pipelines.records import File, sha256_file
from pipelines.storage.base import StorageError, Store
from pipelines.storage.commits import Done, commit, find_done_many


def adopt(source: Store, target: Store, keys: Sequence[str]) -> dict[str, Done]:
    """Copy those pieces of work that `source` has whole; returns their commits by key."""
    adopted = {}
    for key, done in find_done_many(source, keys).items():
        if all(source.exists(file.name) for file in done.files):
            for file in done.files:
                _copy(source, target, file)
            adopted[key] = commit(target, done)
    return adopted


def _copy(source: Store, target: Store, file: File) -> None:
    """One file under its own name; on one disk a second name of the same bytes."""
    path, into = source.local_path(file.name), target.local_path(file.name)
    if path is not None and into is not None:
        _check(sha256_file(path), source, file)
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, into)
        except OSError:  # another disk, or one without such names: copy
            pass
        else:
            return
    with source.open(file.name) as reader, target.create(file.name) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)  # type: ignore[arg-type]
    _check(writer.file().sha256, source, file)


def _check(sha256: str | None, source: Store, file: File) -> None:
    if sha256 != file.sha256:
        raise StorageError(
            f"{source.uri}/{file.name} is not what its commit says; remove that folder and run "
            "again"
        )
