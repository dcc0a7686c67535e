"""What the field has published on a benchmark, and what its scores mean, offered by the benchmark.

A benchmark offers it by an entry point of the group `curation_bench.literature` that names a class:
`dclm = "dclm.literature:DclmLiterature"`. Nothing in this package knows which ones are installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from leaderboard.board.boards import MAX_LIMIT, Library, View
from leaderboard.database.store import Store
from leaderboard.submissions.results import Row
from pipelines import installed
from pipelines.errors import RuleError, UnknownName
from pipelines.records import Frozen

GROUP = "curation_bench.literature"


class Section(Frozen):
    """A heading, a text and a table, each optional."""

    title: str
    text: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Source(Frozen):
    """A published collection of results that can be imported."""

    name: str
    description: str
    official: str
    """The address behind the word `official`."""


class Ladder(Frozen):
    """Scores of a published table by scale, metric and method."""

    scales: tuple[str, ...]
    """The cheapest first."""
    costs: dict[str, float]
    """Of one run, in operations or in samples seen."""
    values: dict[str, dict[str, dict[str, float]]]
    headline: str
    lower_is_better: tuple[str, ...] = ()


class Literature:
    """One benchmark's. Each method has a default: a new benchmark has nothing published yet."""

    sources: ClassVar[Sequence[Source]] = ()
    headline: ClassVar[str] = ""
    """The metric whose agreement across scales is looked at, where results are published."""

    def references(self) -> list[Row]:
        """Figures printed in papers and READMEs, for a board that has nothing else yet."""
        return []

    def read(self, source: str, uri: str) -> list[Row]:
        """The rows of one of `sources` in a file, a folder or at an address.

        DataError names the line that cannot be read, or whose own average does not agree with the
        one that is computed again.
        """
        raise UnknownName(f"there is no source {source!r}")

    def runs(self, library: Library) -> list[tuple[str, list[Row]]]:
        """Groups of imported runs, with titles, over which the signal of tasks is measured."""
        return []

    def ladder(self, path: Path, metrics: Sequence[str]) -> Ladder | None:
        """A table's scores by scale, of its headline and of `metrics`.

        None when the table is not one of this benchmark's. DataError for a metric without a column.
        """
        return None

    def findings(self, library: Library, table: Path | None) -> list[str]:
        """Sections of the page of findings that only this benchmark has, as Markdown."""
        return []

    def glossary(self) -> list[Section]:
        """What the benchmark's scores mean."""
        return []


def literatures() -> dict[str, Literature]:
    """What the installed benchmarks offer, by name of the benchmark."""
    return {name: _load(name) for name in installed.points(GROUP)}


def source_of(name: str) -> tuple[Literature, Source]:
    """The source of this name and who reads it. UnknownName lists all."""
    by_name = {
        source.name: (lit, source) for lit in literatures().values() for source in lit.sources
    }
    if name not in by_name:
        raise UnknownName(f"unknown source {name!r}; choose {', '.join(by_name)}")
    return by_name[name]


def read_published(name: str, uri: str) -> list[Row]:
    """The rows of a published source; `official` for its own address."""
    literature, source = source_of(name)
    return literature.read(name, source.official if uri == "official" else uri)


def put_references(store: Store) -> int:
    """Put the printed figures of all benchmarks on the board; returns how many are new."""
    return sum(
        store.import_row(row, kind="reference", who="service", why=f"printed in {row.source}")
        for literature in literatures().values()
        for row in literature.references()
    )


def renew_references(store: Store) -> int:
    """Bring the printed figures that are on a board to what is known of them today.

    As whether they were written down from memory: databases from before that was said hold rows
    without it. What a maintainer took off stays off. Returns how many changed.
    """
    printed = [row for entry in literatures().values() for row in entry.references()]
    known = {row.submission_id: row for row in printed}
    number = 0
    for stored_row in store.rows(list(known)):
        row = known[stored_row.submission_id]
        if stored_row != row and store.get(row.submission_id).state == "accepted":
            why = "what is known of a printed figure changed"
            store.import_row(row, kind="reference", who="service", why=why)
            number += 1
    return number


def imported(library: Library, benchmark: str, scale: str, track: str = "filtering") -> list[Row]:
    """The imported rows of a board, in its largest group."""
    page = library.page(benchmark, scale, track, View(limit=MAX_LIMIT, kind="imported"))
    return list(page.rows)


def _load(name: str) -> Literature:
    loaded = installed.load_point(GROUP, name)
    if not (isinstance(loaded, type) and issubclass(loaded, Literature)):
        raise RuleError(f"the entry point {name!r} of {GROUP} is {loaded!r}, not a Literature")
    return loaded()
