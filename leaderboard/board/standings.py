"""The rows of one group in order: what views need of all of them, and the rows when asked for.

A view of ten thousand rows filters and sorts by a few columns and shows fifty rows. The columns and
what the ranking gave each row are kept as JSON (`packed`), so that a service that starts again
neither reads nor ranks ten thousand rows: it reads those that a page shows.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import orjson

from leaderboard.board.describe import verdict_of
from leaderboard.board.ranking import Order, Place, placed
from leaderboard.submissions.results import Row

Value = float | str | None
Reader = Callable[[Sequence[str]], Sequence[Row]]

OF_ROWS: Mapping[str, Callable[[Row], Value]] = {
    "method": lambda row: row.method.casefold(),
    "team": lambda row: row.team.casefold(),
    "size": lambda row: row.dataset.size,
    "kept": lambda row: row.kept_fraction,
    "params": lambda row: row.params,
    "compute": lambda row: row.flops,
    "seeds": lambda row: len(row.seeds),
    "date": lambda row: row.date or None,
    "recheck": lambda row: row.recheck,
    "kind": lambda row: row.kind,
}
"""Columns that rows have whatever they are ranked by."""

SORTED_BY = (
    "rank",
    "method",
    "team",
    "score",
    "stderr",
    "behind",
    "baseline",
    "size",
    "kept",
    "params",
    "compute",
    "seeds",
    "date",
)
"""The columns that rows are sorted by, beside those of tasks."""


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Make many objects without the search for cycles, which goes over all of them each time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


NO_GAP = (0.0, 0.0, 0.0)  # of the leader to itself, and where the error is not known


@dataclass
class Standings(Sequence[Row]):
    """Rows of one group, ranked by one metric."""

    metric: str
    higher_is_better: bool
    verdict: str
    ids: list[str]
    columns: dict[str, list[Any]]  # by name, a value for each row
    tasks: list[str]  # which of the columns are tasks
    places: list[Place]
    _rows: list[Row | None]
    _read: Reader
    _place: dict[str, int] | None = None

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return self.some(range(len(self.ids))[at])
        return self.some([range(len(self.ids))[at]])[0]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Row]:
        return iter(self[:])

    def some(self, positions: Sequence[int]) -> list[Row]:
        """The rows at these positions; those that are not here are read together.

        A row that is not there any more is left out: the board changes, and so will these.
        """
        absent = [at for at in positions if self._rows[at] is None]
        if absent:
            stored = {row.submission_id: row for row in self._read([self.ids[at] for at in absent])}
            for at in absent:
                row = stored.get(self.ids[at])
                self._rows[at] = self._ranked(row, at) if row is not None else None
        return [row for at in positions if (row := self._rows[at]) is not None]

    def of(self, id: str) -> Row | None:
        """The row of a submission; None where it is not among these."""
        if self._place is None:
            self._place = {own: at for at, own in enumerate(self.ids)}
        at = self._place.get(id)
        return None if at is None else next(iter(self.some([at])), None)

    def positions(
        self, *, text: str = "", recheck: str = "", kind: str = "", since: str = "", until: str = ""
    ) -> list[int]:
        """Where the rows are that fit: `text` is part of a method's or a team's name."""
        kept: Sequence[int] = range(len(self.ids))
        if text := text.casefold():
            methods, teams = self.columns["method"], self.columns["team"]
            kept = [at for at in kept if text in methods[at] or text in teams[at]]
        for name, value in (("recheck", recheck), ("kind", kind)):
            if value:
                column = self.columns[name]
                kept = [at for at in kept if column[at] == value]
        dates = self.columns["date"]
        if since:
            kept = [at for at in kept if (dates[at] or "") >= since]
        if until:
            kept = [at for at in kept if (dates[at] or "") <= until]
        return list(kept)

    def ordered(
        self, positions: Sequence[int], sort: str, order: Literal["", "up", "down"]
    ) -> list[int]:
        """Positions by one column; rows without a value come last, ties in order of rank."""
        if sort == "rank" and order != "down":
            return list(positions)
        up = {"rank": True, "method": True, "team": True, "stderr": True, "behind": True}
        up["score"] = not self.higher_is_better
        ascending = up.get(sort, False) if not order else order == "up"
        column, ranks = self.columns[sort], self.columns["rank"]
        known = [at for at in positions if column[at] is not None]
        known.sort(key=ranks.__getitem__)
        known.sort(key=column.__getitem__, reverse=not ascending)
        return known + [at for at in positions if column[at] is None]

    def _ranked(self, row: Row, at: int) -> Row:
        """A row as it is stored, with its place among the others."""
        return placed(row, self.metric, self.places[at])

    def packed(self) -> bytes:
        """All but the rows, as JSON."""
        return orjson.dumps(
            {
                "metric": self.metric,
                "higher_is_better": self.higher_is_better,
                "verdict": self.verdict,
                "ids": self.ids,
                "columns": self.columns,
                "tasks": self.tasks,
                "places": self.places,
            }
        )


@dataclass(frozen=True)
class Columns:
    """What views need of a group's rows whatever they are ranked by, in the order they came."""

    of_rows: dict[str, list[Any]]
    of_tasks: dict[str, list[float | None]]


def columns_of(rows: Sequence[Row]) -> Columns:
    """The columns of rows."""
    values = [{task.task: task.value for task in row.tasks} for row in rows]
    names = dict.fromkeys(name for own in values for name in own)
    return Columns(
        of_rows={name: [value(row) for row in rows] for name, value in OF_ROWS.items()},
        of_tasks={name: [own.get(name) for own in values] for name in names},
    )


def standings_of(order: Order, read: Reader, columns_: Columns | None = None) -> Standings:
    """The standings of rows in their order; with the columns of the rows that were put in order."""
    rows, places = order.rows, order.places
    known = columns_of(rows) if columns_ is None else columns_
    positions = range(len(rows)) if columns_ is None else order.positions
    columns: dict[str, list[Any]] = {
        "rank": [result["rank"] for result in places],
        "score": order.values,
        "stderr": order.errors,
        "behind": [result.get("behind_leader", NO_GAP)[0] for result in places],
        "baseline": [
            result["over_baseline"][0] if "over_baseline" in result else None for result in places
        ],
    }
    tasks = [task.task for row in rows[:1] for task in row.tasks]
    for name, column in [*known.of_rows.items(), *((n, known.of_tasks[n]) for n in tasks)]:
        columns.setdefault(name, [column[at] for at in positions])
    return Standings(
        metric=order.metric,
        higher_is_better=bool(rows) and rows[0].figures[order.metric].higher_is_better,
        verdict=_verdict(order),
        ids=[row.submission_id for row in rows],
        columns=columns,
        tasks=tasks,
        places=places,
        _rows=[None] * len(rows),
        _read=read,
    )


def _verdict(order: Order) -> str:
    """Superseded rows do not count."""
    if not order.rows:
        return ""
    pairs = [
        (row, result)
        for row, result in zip(order.rows, order.places, strict=True)
        if not row.superseded_by
    ]
    return verdict_of(
        order.rows[0].method,
        [(row.method, result["tied_with_leader"]) for row, result in pairs[1:]],
        fewest_seeds=min(len(row.seeds) for row, _ in pairs),
        ranked=order.rows[0].ranked,
    )


def unpacked(data: bytes, read: Reader) -> Standings:
    """What `packed` wrote. ValueError or KeyError where it is something else."""
    content = orjson.loads(data)
    return Standings(**content, _rows=[None] * len(content["ids"]), _read=read)
