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
from pipelines.text.patterns import Pattern
from pipelines.text.substrings import PhraseList


class UrlWords(Filter, name="url_words"):
    """Reject documents whose URL contains any of these words, in any case."""

    words: tuple[str, ...] = Field(min_length=1, description="words, looked for anywhere")
    reasons: ClassVar[tuple[str, ...]] = ("word_in_url",)
    reference: ClassVar[str | None] = "url_substring_filter"

    def reads(self) -> tuple[str, ...]:
        return (URL,)

    def reject(self, batch: Batch) -> pa.Array:
        words = [word.lower() for word in self.words]
        rejected = [
            any(word in (url or "").lower() for word in words)
            for url in batch.strings(URL).to_pylist()
        ]
        return because(np.array(rejected, dtype=bool), "word_in_url")

    def passage(self, batch: Batch, reason: str) -> str | None:
        return batch.strings(URL)[0].as_py()  # type: ignore[no-any-return]


class Domains(Filter, name="domains"):
    """Reject documents from these hosts and the hosts below them."""

    hosts: tuple[str, ...] = Field(min_length=1, description="host names, as example.org")
    reasons: ClassVar[tuple[str, ...]] = ("blocked_domain",)
    reference: ClassVar[str | None] = "url_substring_filter"

    def reads(self) -> tuple[str, ...]:
        return (URL,)

    def reject(self, batch: Batch) -> pa.Array:
        blocked = {_host(host).removeprefix("www.") for host in self.hosts}
        rejected = [
            any(part in blocked for part in _hosts_above(url or ""))
            for url in batch.strings(URL).to_pylist()
        ]
        return because(np.array(rejected, dtype=bool), "blocked_domain")

    def passage(self, batch: Batch, reason: str) -> str | None:
        return batch.strings(URL)[0].as_py()  # type: ignore[no-any-return]


def _netloc(url: str) -> str:
    """The whole host of an address, as the reference takes it; "" for a malformed one."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _host(url: str) -> str:
    """The host of an address as it is looked up: lower case, IDN as `xn--`, "" for none.

    Addresses come without a scheme (`bad.org/path`) and in brackets (`<http://bad.org/>`, of wget);
    entries of lists as `.bad.org` and `*.bad.org`.
    """
    url = url.strip().removeprefix("<").removesuffix(">").removeprefix("*").removeprefix(".")
    url = url.replace("\\", "/")  # as browsers read it
    has_host = "://" in url or url.startswith("//")
    try:
        host = (urlsplit(url if has_host else f"//{url}").hostname or "").rstrip(".")
    except ValueError:  # a malformed address has no host to block
        return ""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _hosts_above(url: str) -> list[str]:
    """a.b.org, b.org and org for https://a.b.org/path; nothing for what is not a URL."""
    host = _host(url)
    if not host:
        return []
    parts = host.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


class UrlSubstrings(PhraseList, Filter, name="url_substrings"):
    """Reject documents whose URL contains phrases of a list. (Penedo et al. 2023, G.1)

    Distinct phrases are counted, found from left to right without overlaps, the longest at each
    place. Phrases are compared as written, so one with a character that `remove` takes out of the
    URL is never found. `hosts: true` compares the whole host (port and user included) instead.
    """

    hosts: bool = Field(False, description="the URL's host must equal an entry")
    min_phrases: int = Field(1, ge=1, description="distinct phrases from which on a document goes")
    whole_words: bool = Field(False, description="a phrase is not part of a longer word")
    case_sensitive: bool = Field(False, description="distinguish upper and lower case")
    remove: tuple[str, ...] = Field((), description="strings taken out of the URL before")
    reasons: ClassVar[tuple[str, ...]] = ("blocked_domain", "words_in_url")
    reference: ClassVar[str | None] = "url_substring_filter"

    def reads(self) -> tuple[str, ...]:
        return (URL,)

    def prepare(self, entries: tuple[str, ...]) -> Pattern | frozenset[str]:
        if not self.case_sensitive:
            entries = tuple(entry.lower() for entry in entries)
        if self.hosts:
            return frozenset(entries)
        border = r"\b" if self.whole_words else ""
        longest_first = sorted(set(entries), key=lambda entry: (-len(entry), entry))
        return Pattern(longest_first, literal=True, before=border, after=border)

    def reject(self, batch: Batch) -> pa.Array:
        rejected = np.zeros(batch.num_rows, dtype=bool)
        for position, url in enumerate(batch.strings(URL).to_pylist()):
            if url is None:
                raise ValueError("a document has no url; drop such documents before this step")
            if not self.case_sensitive:
                url = url.lower()
            for removed in self.remove:
                url = url.replace(removed, "")
            if self.hosts:
                rejected[position] = _netloc(url) in self._made
            else:
                rejected[position] = len(set(self._made.all(url))) >= self.min_phrases
        return because(rejected, "blocked_domain" if self.hosts else "words_in_url")

    def passage(self, batch: Batch, reason: str) -> str | None:
        return batch.strings(URL)[0].as_py()  # type: ignore[no-any-return]
