"""Sources of a tiny pool, and prose for their pages, made in tests."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

from dclm.pool.tiny_pool import Source

PROSE = (
    "The old harbour lies behind the church, and every evening the boats come home together. "
    "Nobody in the town remembers who built the wall, but all of them have repaired it once. "
)


SPEECH = (
    "My friends, we have come a long way in these four years, and we shall go further still. "
    "What was promised has been done, and what was done will be paid for in full this spring. "
)


TOPICS = ("apples", "barley", "cherries", "dill", "endive", "fennel", "garlic", "hops", "iris")


def tar_bytes(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{mode}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    data = tar_bytes({f"./{name}": body for name, body in files.items()}, "xz")
    for name, body in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", data),
    ):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body
        out += b"\n" * (len(body) % 2)
    return out


def tgz(files: dict[str, bytes]) -> bytes:
    return tar_bytes(files, "gz")


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def page(text: str) -> bytes:
    return f"<html><body><main><p>{text}</p></main></body></html>".encode()


MANUAL = {f"usr/doc/{topic}.html": page(f"{topic} grow here. {PROSE}") for topic in TOPICS}


PACKAGES = {
    "manual": ("apt", "manual_1%3a1.0_all.deb", deb(MANUAL)),
    "novel": ("npm", "novel-2.0.tgz", tgz({"package/one.txt": (PROSE * 3).encode()})),
    "speeches": ("npm", "speeches-3.0.tgz", tgz({"package/1900.txt": (SPEECH * 3).encode()})),
    "model": ("pip", "model-4.0-py3-none-any.whl", wheel({"model/lid.ftz": b"weights"})),
}


def source(name: str, *, role: str = "pool", **fields: object) -> Source:
    client, _, data = PACKAGES[name]
    row = {
        "name": name,
        "role": role,
        "client": client,
        "package": name,
        "version": "1.0",
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": "CC0-1.0",
        "kind": "test",
        "why": "a test",
        "url": f"https://{name}.example/",
        **fields,
    }
    return Source.model_validate(row)
