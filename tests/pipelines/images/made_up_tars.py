"""Tars of image-text samples, and lists of their uids, for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import orjson

from pipelines.kernels.uids import SUBSET


def write_pool(folder: Path, *, tars: int = 5, per_tar: int = 40) -> list[str]:
    """Tars with seeded samples; returns all uids."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    uids = []
    for number in range(tars):
        with tarfile.open(folder / f"{number:08d}.tar", "w") as archive:
            for index in range(per_tar):
                uid = f"{rng.integers(0, 1 << 62):016x}{rng.integers(0, 1 << 62):016x}"
                uids.append(uid)
                key = f"{number:05d}{index:04d}"
                parts = {
                    "jpg": rng.bytes(int(rng.integers(0, 3000))),
                    "json": orjson.dumps({"uid": uid, "key": key}),
                    "txt": f"caption {index} ü".encode(),
                }
                for extension, data in parts.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return uids


def write_subset(path: Path, uids: list[str]) -> str:
    pairs = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids)
    np.save(path, np.array(pairs, dtype=SUBSET))
    return str(path)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix == ".tar"}


def tar_of(*infos: tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


UID = "0123456789abcdef0123456789abcdef"


def one_sample(key: str, uid: str) -> tuple[tuple[tarfile.TarInfo, bytes], ...]:
    return (
        (info(f"{key}.jpg"), key.encode()),
        (info(f"{key}.json"), orjson.dumps({"uid": uid})),
    )
