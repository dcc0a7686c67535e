"""Rules on the address of a document."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Filter, because
from pipelines.schema import URL


class UrlWords(Filter, name="url_words"):
    """Reject documents whose URL contains any of these words, in any case."""

    words: tuple[str, ...] = Field(min_length=1, description="words, looked for anywhere")
    reasons: ClassVar[tuple[str, ...]] = ("word_in_url",)
    reference: ClassVar[str | None] = "url_substring_filter"

    def reads(self) -> tuple[str, ...]:
        return (URL,)

    def reject(self, batch: Batch) -> pa.Array:
        wanted = [word.lower() for word in self.words]
        gone = [
            any(word in (url or "").lower() for word in wanted)
            for url in batch.column(URL).to_pylist()
        ]
        return because(np.array(gone, dtype=bool), "word_in_url")


class Domains(Filter, name="domains"):
    """Reject documents from these hosts and the hosts below them."""

    hosts: tuple[str, ...] = Field(min_length=1, description="host names, as example.org")
    reasons: ClassVar[tuple[str, ...]] = ("blocked_domain",)
    reference: ClassVar[str | None] = "url_substring_filter"

    def reads(self) -> tuple[str, ...]:
        return (URL,)

    def reject(self, batch: Batch) -> pa.Array:
        blocked = {host.lower().removeprefix("www.") for host in self.hosts}
        gone = [
            any(part in blocked for part in _hosts_above(url or ""))
            for url in batch.column(URL).to_pylist()
        ]
        return because(np.array(gone, dtype=bool), "blocked_domain")


def _hosts_above(url: str) -> list[str]:
    """a.b.org, b.org and org for https://a.b.org/path; nothing for what is no URL."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # a malformed address has no host to block
        return []
    parts = host.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
