"""Dolma's layout: `documents/<name>` and, line by line next to it, `attributes/<tagger>/<name>`.

A line of an attribute file is `{"id": ..., "attributes": {name: [[begin, end, value], ...]}}`, in
the order of the documents (github.com/allenai/dolma, docs/taggers.md). Readers join them: a
document gets the field `attributes` with those of all taggers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import orjson

from pipelines.storage.base import Entry, Store
from pipelines.storage.open import open_store

DOCUMENTS = "documents/"
ATTRIBUTES = "attributes/"


def documents_only(entries: list[Entry]) -> list[Entry]:
    """The entries without attribute files, if there are files of documents."""
    if not any(entry.name.startswith(DOCUMENTS) for entry in entries):
        return entries
    return [entry for entry in entries if not entry.name.startswith(ATTRIBUTES)]


def attribute_files(store: Store, name: str) -> tuple[str, ...]:
    """The attribute files of a document file, by name; none for files of another layout."""
    if not name.startswith(DOCUMENTS):
        return ()
    document = name.removeprefix(DOCUMENTS)
    return tuple(  # attributes/<tagger>/<name>, and a tagger is one folder
        file
        for file in _all_attribute_files(store.uri)
        if file.removeprefix(ATTRIBUTES).partition("/")[2] == document
    )


@lru_cache(maxsize=8)
def _all_attribute_files(uri: str) -> tuple[str, ...]:
    return tuple(entry.name for entry in open_store(uri).list(ATTRIBUTES))


def forget() -> None:
    """Clear the cached listings, so that a new run lists the folders again."""
    _all_attribute_files.cache_clear()


class Attributes:
    """The attributes of one document file, read document by document. A context manager."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._names = attribute_files(store, name)
        self._lines: list[Iterator[tuple[int, bytes, str | None]]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Attributes:
        from pipelines.formats.lines import numbered_lines

        for name in self._names:
            file = self._stack.enter_context(self._store.open(name))
            self._lines.append(numbered_lines(file, name))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, document: dict[str, Any]) -> str | None:
        """Set the field `attributes` of the next document; returns what is wrong, or None."""
        if not self._names:
            return None
        attributes: dict[str, Any] = {}
        for name, lines in zip(self._names, self._lines, strict=True):
            _, line, problem = next(lines, (0, b"", "it has fewer lines than there are documents"))
            if problem is None:
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    problem = f"not JSON: {error}"
            if problem is not None:
                return f"{name}: {problem}"
            if not isinstance(row, dict) or row.get("id") != document.get("id"):
                other = row.get("id") if isinstance(row, dict) else row
                return (
                    f"{name}: attributes of document {other!r} where those of "
                    f"{document.get('id')!r} were expected; its order must be the documents'"
                )
            attributes |= row.get("attributes") or {}
        document["attributes"] = attributes
        return None
