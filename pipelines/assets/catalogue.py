"""Assets: files that operators need (models, word lists), known by name and checked by sha256.

A name is looked up in the folders that were given (`--assets DIR`), then in the user's cache, then
among what installed packages ship. A file in a given folder is taken as it is; its hash goes into
the record. A missing asset is an error that says how to get it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from pipelines.assets.origins import (
    AddressOrigin,
    Origin,
    OriginError,
    file_from,
    installed_file,
)
from pipelines.environment import ASSET_FOLDERS
from pipelines.errors import PlatformError, UsageError, did_you_mean
from pipelines.records import AssetRef, Frozen, sha256_file
from pipelines.storage.open import open_store
from pipelines.yaml_text import load_plain

CATALOGUE = Path(__file__).parent / "assets.yaml"


class AssetError(UsageError):
    """An asset that is missing, or is not the file it should be."""


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
    rows = load_plain(CATALOGUE.read_text(encoding="utf-8"))
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
        known = catalogue().get(name) or _below_a_folder(name)
        cached = cache_folder() / "assets" / name
        if cached.is_file():
            if known is not None and not _is_pinned(known.sha256, cached):
                raise AssetError(
                    f"{cached} is not the asset {name!r}: its sha256 is {sha256_file(cached)}, "
                    f"expected {known.sha256}; remove it and run: pipelines assets fetch {name}"
                )
            return cached
        for origin in known.origins if known is not None else ():
            shipped = installed_file(origin)
            if shipped is not None and known and _is_pinned(known.sha256, shipped):
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


def _is_pinned(sha256: str | None, file: Path) -> bool:
    """Whether a file is the pinned one; any is where none is pinned, and is not read for that."""
    return sha256 is None or sha256 == sha256_file(file)


def asset_files(folders: Sequence[str] | None) -> Assets:
    """The assets of `--assets` folders."""
    return Assets(folders=tuple(Path(folder) for folder in folders or ()))


def fetch(name: str, *, address: str | None = None) -> Path:
    """Get an asset into the user's cache from the first origin that works; verify its sha256.

    `address` is a file of your own choice: `https://`, `hf://`, `s3://` or a path. AssetError when
    no origin gives the file that the catalogue pins.
    """
    if name.endswith("/"):
        return _fetch_folder(name, address=address)
    known = catalogue().get(name) or _below_a_folder(name)
    if known is None and address is None:
        raise AssetError(
            f"unknown asset {name!r}{did_you_mean(name, catalogue())}; a file that the catalogue "
            "does not know is fetched with --from ADDRESS"
        )
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise AssetError(f"asset {name!r}: expected the name of a file, without a path above it")
    target = cache_folder() / "assets" / name
    pinned = known.sha256 if known is not None else None
    if target.is_file() and address is None and _is_pinned(pinned, target):
        return target
    origins: Sequence[Origin] = known.origins if known is not None and address is None else ()
    if address is not None:
        origins = (AddressOrigin(address=address),)
    failures = []
    for origin in origins:
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = file_from(origin, Path(folder), cache=cache_folder() / "packages")
            except OriginError as error:
                failures.append(str(error))
                continue
            if not _is_pinned(pinned, file):
                digest = sha256_file(file)
                failures.append(f"{origin} gives another file: sha256 {digest}, expected {pinned}")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.part{os.getpid()}")
            shutil.copyfile(file, temporary)
            os.replace(temporary, target)
            return target
    tried = "; ".join(failures) or "the catalogue names no origin"
    by_hand = f" ({known.by_hand})" if known is not None and known.by_hand else ""
    raise AssetError(
        f"cannot fetch {name!r}: {tried}; put the file into a folder and give --assets DIR{by_hand}"
    )


def _fetch_folder(name: str, *, address: str | None) -> Path:
    """All files below an address: a model with its tokenizer."""
    known = catalogue().get(name)
    origins = known.origins if known is not None else ()
    addresses = [origin.address for origin in origins if isinstance(origin, AddressOrigin)]
    if address is not None:
        addresses = [address.rstrip("/")]
    failures = []
    for above in addresses:
        try:
            files = [entry.name for entry in open_store(above).list()]
        except (PlatformError, OSError, ValueError) as error:
            failures.append(str(error))
            continue
        if not files:
            failures.append(f"{above} holds no file")
        for file in files:
            fetch(f"{name}{file}", address=f"{above}/{file}")
        if files:
            return cache_folder() / "assets" / name
    tried = "; ".join(failures) or "the catalogue names no address of such a folder"
    raise AssetError(f"cannot fetch {name!r}: {tried}; give --from ADDRESS of the folder")


def _below_a_folder(name: str) -> Asset | None:
    """The asset of a file below a folder that the catalogue knows as a whole (`folder/`)."""
    for asset in catalogue().values():
        if asset.name.endswith("/") and name.startswith(asset.name):
            below = name.removeprefix(asset.name)
            origins = tuple(
                AddressOrigin(address=f"{origin.address}/{below}")
                for origin in asset.origins
                if isinstance(origin, AddressOrigin)
            )
            return asset.model_copy(update={"name": name, "origins": origins})
    return None


def verify(names: Sequence[str], *, assets: Assets) -> dict[str, str]:
    """For each name `ok <path>` or what is wrong with it."""
    states = {}
    for name in names:
        if name.endswith("/"):
            folders = [folder / name for folder in (*assets.folders, cache_folder() / "assets")]
            there = [folder for folder in folders if folder.is_dir()]
            missing = f"the asset {name!r} is missing; get it with: pipelines assets fetch {name}"
            states[name] = f"ok {there[0]}" if there else missing
            continue
        try:
            states[name] = f"ok {assets.path(name)}"
        except AssetError as error:
            states[name] = str(error)
    return states
