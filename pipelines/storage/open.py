"""The store that a URI names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.storage.base import Store
from pipelines.storage.local import LocalStore


def open_store(uri: str | Path) -> Store:
    """The store behind a folder path or a URI.

    `file://` and `s3://bucket/prefix`; `https://host/path` and `hf://datasets/owner/name` to read.
    """
    if isinstance(uri, Path):
        return LocalStore(uri)
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from pipelines.storage.s3 import S3Store

        return S3Store.from_uri(uri)
    if parts.scheme in ("http", "https", "hf"):
        from pipelines.storage.read_only import HfStore, HttpStore

        return HfStore(uri) if parts.scheme == "hf" else HttpStore(uri)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme and len(parts.scheme) > 1:
        raise ValueError(
            f"cannot open {uri!r}: expected a folder or s3://bucket/prefix, "
            "or to read https:// or hf://datasets/owner/name"
        )
    return LocalStore(Path(uri))


def split_uri(uri: str | Path) -> tuple[Store, str]:
    """The store of the folder that holds `uri`, and the last part of the name."""
    text = str(uri).rstrip("/")
    head, _, leaf = text.rpartition("/")
    return open_store(head if head or "/" not in text else "/"), leaf
