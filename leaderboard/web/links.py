"""Addresses of pages: queries for the service, file names for the static site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Links:
    """Addresses of the service."""

    up: str = "/"  # what leads from a page to the front page
    live: bool = True
    public: str = ""  # the service's own address, where it knows it

    def home(self) -> str:
        return self.up

    def static(self, name: str) -> str:
        return f"{self.up}static/{name}"

    def board(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        return f"/boards/{quote(benchmark)}/{quote(scale)}/{quote(track)}{asked(query)}"

    def plots(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        return f"/boards/{quote(benchmark)}/{quote(scale)}/{quote(track)}/plots{asked(query)}"

    def data(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        return f"/api/v1/boards/{quote(benchmark)}/{quote(scale)}/{quote(track)}{asked(query)}"

    def scales(self, benchmark: str, **query: object) -> str:
        return f"/scales/{quote(benchmark)}{asked(query)}"

    def speedruns(self, benchmark: str) -> str:
        return f"/speedruns/{quote(benchmark)}"

    def crossings(self, benchmark: str, *names: str, **query: object) -> str:
        chosen = urlencode([("name", name) for name in names])
        rest = asked(query).removeprefix("?")
        both = "&".join(filter(None, (rest, chosen)))
        return f"/crossings/{quote(benchmark)}{'?' if both else ''}{both}"

    def submission(self, id: str, **query: object) -> str:
        return f"/submissions/{id}{asked(query)}"

    def questions(self, id: str, task: str, **query: object) -> str:
        return f"/submissions/{id}/tasks/{quote(task)}{asked(query)}"

    def samples(self, id: str, seed: int) -> str:
        return f"/submissions/{id}/samples/{seed}.png"

    def bundle(self, id: str) -> str:
        return f"/api/v1/submissions/{id}/bundle"

    def compare(self, *ids: str) -> str:
        return f"/compare?{urlencode([('id', id_) for id_ in ids])}"

    def method(self, benchmark: str, name: str, team: str = "") -> str:
        return f"/methods/{quote(benchmark)}{asked({'name': name, 'team': team})}"

    def team(self, name: str) -> str:
        return f"/teams{asked({'name': name})}"

    def image(self, id: str, task: str, number: int, data: str = "") -> str:
        return f"/submissions/{id}/tasks/{quote(task)}/images/{number}.webp"

    def help(self, topic: str = "") -> str:
        return f"/help/{topic}" if topic else "/help"

    def search(self, q: str) -> str:
        return f"/search{asked({'q': q})}"

    def page(self, name: str) -> str:
        return f"/{name}"


@dataclass(frozen=True)
class FileLinks(Links):
    """Addresses between the files of a static site; what only a service can do has none."""

    up: str = ""
    live: bool = False

    def home(self) -> str:
        return f"{self.up}index.html"

    def board(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        metric = query.get("metric") or ""
        return f"{self.up}boards/{file_name(benchmark, scale, track, str(metric))}.html"

    def plots(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        return f"{self.up}boards/{file_name(benchmark, scale, track, 'plots')}.html"

    def data(self, benchmark: str, scale: str, track: str, **query: object) -> str:
        return f"{self.up}boards/{file_name(benchmark, scale, track)}.{query.get('format', 'json')}"

    def scales(self, benchmark: str, **query: object) -> str:
        return f"{self.up}scales/{file_name(benchmark, str(query.get('metric') or ''))}.html"

    def speedruns(self, benchmark: str) -> str:
        return f"{self.up}speedruns/{file_name(benchmark)}.html"

    def crossings(self, benchmark: str, *names: str, **query: object) -> str:
        metric = str(query.get("metric") or "")
        return f"{self.up}crossings/{file_name(benchmark, metric)}.html"  # of the first methods

    def submission(self, id: str, **query: object) -> str:
        return f"{self.up}submissions/{id}.html"

    def questions(self, id: str, task: str, **query: object) -> str:
        return f"{self.up}submissions/{id}-{file_name(task)}.html"

    def samples(self, id: str, seed: int) -> str:
        return f"{self.up}submissions/{id}-{seed}-samples.png"

    def method(self, benchmark: str, name: str, team: str = "") -> str:
        return f"{self.up}methods/{file_name(benchmark)}-{hashed(name, team)}.html"

    def team(self, name: str) -> str:
        return f"{self.up}teams/{hashed(name)}.html"

    def compare(self, *ids: str) -> str:
        return f"{self.up}compare/{ids[-1]}.html"  # with the leader of its board

    def image(self, id: str, task: str, number: int, data: str = "") -> str:
        return f"{self.up}images/{file_name(task, data[:16])}-{number}.webp"

    def help(self, topic: str = "") -> str:
        return f"{self.up}help/{topic or 'index'}.html"


def file_name(*parts: str) -> str:
    """A file's name of several names."""
    kept = ["".join(c if c.isalnum() or c in "._" else "-" for c in part) for part in parts if part]
    return "-".join(kept)


def hashed(*names: str) -> str:
    """A file's name for names that may hold anything."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def asked(query: Mapping[str, object]) -> str:
    """A query of what is set: `?metric=core_v1`, or nothing."""
    kept = {name: value for name, value in query.items() if value not in (None, "", 0, False)}
    return f"?{urlencode(kept)}" if kept else ""


LINKS = Links()
