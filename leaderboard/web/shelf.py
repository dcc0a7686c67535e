"""Finished pages on disk: what a service made before it stopped is read by the next one.

A page is in a file whose name is a hash over its key, the board's stamp (drawn at each change)
and the program's files, so that a page of another content or program is never found. The files are
a cache: whoever deletes them loses nothing but time.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import secrets
import stat
import tempfile
import zlib
from functools import cache
from pathlib import Path

from leaderboard import rules
from pipelines import installed
from pipelines.storage.base import Store as Files

log = logging.getLogger("leaderboard")
MOST = 512  # pages of one content
PACKAGES = ("leaderboard", "evals", "pipelines")


@cache
def program() -> str:
    """A hash over what pages are made by: names, sizes and times of the program's files."""
    state = hashlib.sha256()
    root = Path(rules.__file__).parents[1]
    folders = [*(root / package for package in PACKAGES)]
    folders += [installed.folder(name) for name in sorted(installed.packages())]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".html", ".xml", ".yaml", ".css", ".js", ".json"):
                entry = path.stat()
                state.update(repr((str(path), entry.st_size, entry.st_mtime_ns)).encode())
    return state.hexdigest()


def folder_for(files: Files, name: str) -> Path | None:
    """Where finished pages are kept: next to the bundles, or here if those are in a bucket.

    A name there is of its content, so services may share a folder. None where another user of this
    machine has a folder of that name: nobody else's pages are shown here.
    """
    home = files.local_path(f"{name}/x")
    if home is not None:
        return home.parent
    folder = Path(tempfile.gettempdir()) / f"leaderboard-{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry = folder.lstat()
    if stat.S_ISDIR(entry.st_mode) and entry.st_uid == os.getuid() and not entry.st_mode & 0o077:
        return folder
    log.warning("%s is not ours alone: finished pages are not kept over a restart", folder)
    return None


class Shelf:
    """A folder of finished pages. Safe to share between threads and processes."""

    def __init__(self, folder: Path, *, most: int = MOST, of: str = "") -> None:
        """`of`: what else the pages depend on, as the service's own address."""
        self.folder = folder
        self.of = of
        self.most = most
        self._mark = ""
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, stamp: str, key: object) -> bytes | None:
        """The compressed page of a key; None where it is not here or not whole."""
        if not stamp:
            return None
        with contextlib.suppress(OSError, EOFError, zlib.error):
            data = self._path(stamp, key).read_bytes()
            gzip.decompress(data)
            return data
        return None

    def put(self, stamp: str, key: object, packed: bytes) -> None:
        """Keep a compressed page. What cannot be written, as on a full disk, is not kept."""
        if not stamp:
            return
        path = self._path(stamp, key)
        self._only(path.name.split("-")[0])
        if self._number >= self.most:
            return
        unfinished = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            unfinished.write_bytes(packed)
            os.replace(unfinished, path)
            self._number += 1
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _path(self, stamp: str, key: object) -> Path:
        mark = hashlib.sha256(repr((program(), stamp, self.of)).encode()).hexdigest()[:16]
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        return self.folder / f"{mark}-{name}.gz"

    def _only(self, mark: str) -> None:
        """Take away the pages of every other content."""
        if mark == self._mark:
            return
        self._mark, self._number = mark, 0
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.startswith(f"{mark}-"):
                    self._number += 1
                else:
                    path.unlink(missing_ok=True)
