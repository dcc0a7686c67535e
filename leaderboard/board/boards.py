"""The accepted rows in memory, ranked: what pages, exports and the API read.

A copy is kept until the board's revision changes; then only rows that changed are read again. Safe
to share between threads.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from leaderboard import rules
from leaderboard.board.describe import verdict
from leaderboard.board.merging import one_row_a_result
from leaderboard.board.ranking import group_of, rank
from leaderboard.database.states import Board
from leaderboard.database.store import Store
from leaderboard.submissions.results import Row
from pipelines.errors import RuleError
from pipelines.records import Frozen

SORTS = (
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
Order = Literal["up", "down"]
MAX_LIMIT = 1000
FRESH = 0.02
OF_A_TEAM = 3  # rows of a team that count for the choice of the group that is shown first


class View(Frozen):
    """What of a board is shown: filters, order and page. Every view has a stable address."""

    group: str = Field("", max_length=100, description="pool and suite; empty: most teams'")
    metric: str = Field("", max_length=100, description="an aggregate; empty: the headline")
    q: str = Field("", max_length=200, description="part of a method's or team's name")
    recheck: Literal["", "none", "sampled", "full"] = Field("", description="how it was rechecked")
    kind: Literal["", "submission", "imported", "reference"] = ""
    since: str = Field("", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="finished on or after")
    until: str = Field("", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="finished on or before")
    columns: Literal["", "categories", "tasks"] = Field(
        "", description="scores beside the headline"
    )
    sort: str = Field("rank", max_length=100, description=f"{', '.join(SORTS)}, or a task's name")
    order: Literal["", "up", "down"] = Field("", description="empty: the best first")
    limit: int = Field(50, ge=1, le=MAX_LIMIT)
    offset: int = Field(0, ge=0, le=10_000_000)

    @property
    def free(self) -> bool:
        """Whether it holds words or numbers of the reader's own, of which there are very many."""
        small = self.limit in (5, 20, 50, 100, 500, MAX_LIMIT) and self.offset % self.limit == 0
        return bool(self.q or self.since or self.until) or not small


class Group(Frozen):
    """Rows that may be compared: one pool, one suite version, one set of evaluation data."""

    key: str
    pool_id: str
    pool_name: str
    suite: str
    suite_version: str
    number: int


class Page(Frozen):
    """One page of a view."""

    benchmark: str
    scale: str
    track: str
    groups: tuple[Group, ...]
    group: Group | None
    metrics: tuple[str, ...]
    metric: str
    total: int
    rows: tuple[Row, ...]
    revision: int
    verdict: str = Field("", description="who is ahead, over the whole group and not this page")


@dataclass
class _Copy:
    revision: int = 0
    changed: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    resamples: dict[str, dict[str, npt.NDArray[np.float32]]] = field(default_factory=dict)
    groups: dict[str, list[Row]] = field(default_factory=dict)
    ranked: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    by_id: dict[tuple[str, str], dict[str, Row]] = field(default_factory=dict)  # of `ranked`


class Library:
    """Reads a store."""

    def __init__(self, store: Store, *, most_boards: int = 128) -> None:
        self.store = store
        self._most = most_boards
        self._copies: OrderedDict[tuple[str, str, str], _Copy] = OrderedDict()
        self._lock = RLock()
        self._asked = -math.inf
        self._changes = 0
        self._revision = 0

    def revision(self) -> int:
        """The board's revision, at most `FRESH` seconds old; what this process changed is seen."""
        now = time.monotonic()
        if now > self._asked + FRESH or self._changes != self.store.changes:
            self._asked, self._changes = now, self.store.changes
            self._revision = self.store.revision()
        return self._revision

    def boards(self) -> list[Board]:
        """The boards that have rows: scales in the order of the rule book, then the others."""
        return sorted(self.store.boards(), key=_order_of)

    def known(self, benchmark: str, scale: str, track: str) -> bool:
        """Whether there is such a board: in the rule books, or with accepted rows."""
        try:
            book = rules.load_benchmark(benchmark)
        except RuleError:
            book = None
        if book is not None and scale in [scale_rule.name for scale_rule in book.scales]:
            return track in [track_rule.name for track_rule in book.tracks]
        boards = self.store.boards()
        return (benchmark, scale, track) in [(b.benchmark, b.scale, b.track) for b in boards]

    def page(
        self, benchmark: str, scale: str, track: str, view: View, *, whole: bool = False
    ) -> Page:
        """The rows of a view; with `whole`, all pages of it.

        KeyError names a board, group, metric or column that is not there.
        """
        if not self.known(benchmark, scale, track):
            raise KeyError(f"there is no board {benchmark} {scale} {track}")
        with self._lock:
            copy = self._copy(benchmark, scale, track)
            groups = [_described(key, rows) for key, rows in copy.groups.items()]
            groups.sort(key=lambda group: (-_weight(copy.groups[group.key]), group.key))
            chosen = next((candidate for candidate in groups if candidate.key == view.group), None)
            if view.group and chosen is None:
                raise KeyError(f"this board has no group {view.group!r}")
            chosen = chosen or (groups[0] if groups else None)
            metrics = _metrics(copy.groups[chosen.key]) if chosen else ()
            if view.metric and view.metric not in metrics:
                raise KeyError(f"no metric {view.metric!r}; there are {', '.join(metrics)}")
            metric = view.metric or (metrics[0] if metrics else "")
            rows = self._ranked(copy, chosen.key, metric) if chosen else []
            revision = copy.revision
        columns = {*SORTS, *(task.task for row in rows[:1] for task in row.tasks)}
        if rows and view.sort not in columns:
            raise KeyError(f"no column {view.sort!r}; there are {', '.join(SORTS)} and tasks")
        filtered = view.q or view.recheck or view.kind or view.since or view.until
        kept = [row for row in rows if _fits(row, view)] if filtered else rows
        kept = sorted_rows(kept, view.sort, view.order)
        return Page(
            benchmark=benchmark,
            scale=scale,
            track=track,
            groups=tuple(groups),
            group=chosen,
            metrics=metrics,
            metric=metric,
            total=len(kept),
            rows=tuple(kept if whole else kept[view.offset : view.offset + view.limit]),
            revision=revision,
            verdict=verdict(rows) if rows else "",
        )

    def rows(self, benchmark: str, scale: str, track: str) -> list[Row]:
        """All rows of a board, each group ranked by its headline."""
        with self._lock:
            copy = self._copy(benchmark, scale, track)
            return [
                row
                for key, members in copy.groups.items()
                for row in self._ranked(copy, key, _metrics(members)[0])
            ]

    def beside(self, row: Row) -> list[Row]:
        """The rows of a row's group, ranked by its headline; empty when it has none here."""
        with self._lock:
            copy = self._copy(row.benchmark, row.scale, row.track)
            key = key_of(row)
            if key not in copy.groups:
                return []
            return self._ranked(copy, key, _metrics(copy.groups[key])[0])

    def row(self, id: str, metric: str = "") -> Row | None:
        """One accepted row with its rank."""
        with self._lock:
            board = next((key for key, copy in self._copies.items() if id in copy.rows), None)
            if board is None:
                row = next(iter(self.store.rows([id])), None)
                if row is None:
                    return None
                board = (row.benchmark, row.scale, row.track)
            copy = self._copy(*board)
            row = copy.rows.get(id)
            if row is None:
                return None
            key = key_of(row)
            name = metric if metric in row.figures else _metrics(copy.groups[key])[0]
            ranked = self._ranked(copy, key, name)
            if (key, name) not in copy.by_id:
                copy.by_id[key, name] = {
                    ranked_row.submission_id: ranked_row for ranked_row in ranked
                }
            return copy.by_id[key, name].get(id, row)

    def resamples(self, row: Row, metric: str) -> npt.NDArray[np.float32] | None:
        """An aggregate of one row on the resamples of its items."""
        return self.store.resamples([row.submission_id], metric).get(row.submission_id)

    def _copy(self, *board: str) -> _Copy:
        benchmark, scale, track = board
        key = (benchmark, scale, track)
        copy = self._copies.pop(key, None) or _Copy()
        revision = self.store.revision()
        if copy.revision != revision:
            self._renew(copy, key)
            copy.revision = revision
        self._copies[key] = copy
        while len(self._copies) > self._most:
            self._copies.popitem(last=False)
        return copy

    def _renew(self, copy: _Copy, board: tuple[str, str, str]) -> None:
        now = self.store.accepted(*board)
        if now == copy.changed:
            return
        stale = [id_ for id_, changed in now.items() if copy.changed.get(id_) != changed]
        stale_rows = self.store.rows(stale)
        for row in stale_rows:
            copy.rows[row.submission_id] = row
        for values in copy.resamples.values():
            for id_ in stale:
                values.pop(id_, None)
        fresh = {row.submission_id for row in stale_rows}
        copy.rows = {
            id_: copy.rows[id_]
            for id_ in now
            if id_ in copy.rows and (id_ not in stale or id_ in fresh)
        }
        copy.changed = now
        copy.ranked.clear()
        copy.by_id.clear()
        copy.groups = {}
        for id_ in sorted(copy.rows):
            row = copy.rows[id_]
            copy.groups.setdefault(key_of(row), []).append(row)
        copy.groups = {key: one_row_a_result(rows) for key, rows in copy.groups.items()}

    def _ranked(self, copy: _Copy, key: str, metric: str) -> list[Row]:
        if (key, metric) not in copy.ranked:
            members = copy.groups[key]
            cached = copy.resamples.setdefault(metric, {})
            absent = [row.submission_id for row in members if row.submission_id not in cached]
            cached |= self.store.resamples(absent, metric)
            copy.ranked[key, metric] = rank(members, {metric: cached}, metric=metric)
        return copy.ranked[key, metric]


def _order_of(board: Board) -> tuple[str, int, str, int, str]:
    try:
        book = rules.load_benchmark(board.benchmark)
    except RuleError:
        return (board.benchmark, 0, board.scale, 0, board.track)
    scales, tracks = [rule.name for rule in book.scales], [rule.name for rule in book.tracks]
    scale_index = scales.index(board.scale) if board.scale in scales else len(scales)
    track = tracks.index(board.track) if board.track in tracks else len(tracks)
    return (board.benchmark, scale_index, board.scale, track, board.track)


def key_of(row: Row) -> str:
    """The name of a row's group in addresses."""
    return f"{row.pool_id[:12]}-{row.suite}-{row.suite_version}-{row.data_id[:6]}".rstrip("-")


def _weight(rows: Sequence[Row]) -> int:
    """How many rows count for which group is shown first: of each team `OF_A_TEAM` at most.

    A team with thirty rows on a pool that it made up is not what a reader came for. Reference and
    imported rows all count.
    """
    teams = Counter(row.team for row in rows if row.kind == "submission")
    others = sum(row.kind != "submission" for row in rows)
    return others + sum(min(number, OF_A_TEAM) for number in teams.values())


def _described(key: str, rows: Sequence[Row]) -> Group:
    first = rows[0]
    return Group(
        key=key,
        pool_id=first.pool_id,
        pool_name=first.pool_name,
        suite=first.suite,
        suite_version=first.suite_version,
        number=len(rows),
    )


def _metrics(rows: Sequence[Row]) -> tuple[str, ...]:
    """The aggregates of a group, the headline first."""
    head = rows[0].headline.metric
    others = dict.fromkeys(name for row in rows[:50] for name in row.figures)
    return (head, *(name for name in others if name != head))


def _fits(row: Row, view: View) -> bool:
    text = view.q.casefold()
    return (
        (not text or text in row.method.casefold() or text in row.team.casefold())
        and (not view.recheck or row.recheck == view.recheck)
        and (not view.kind or row.kind == view.kind)
        and (not view.since or row.date >= view.since)
        and (not view.until or row.date <= view.until)
    )


def sorted_rows(rows: Sequence[Row], sort: str, order: str) -> list[Row]:
    """Rows by one column; rows without a value come last, ties in order of rank."""
    if sort == "rank" and order != "down":
        return list(rows)
    higher = bool(rows) and rows[0].headline.higher_is_better
    up = {"rank": True, "method": True, "team": True, "score": not higher, "stderr": True}
    up["behind"] = True
    ascending = up.get(sort, False) if not order else order == "up"
    known = [(value, row) for row in rows if (value := column(row, sort)) is not None]
    known.sort(key=lambda pair: pair[1].rank)
    known.sort(key=lambda pair: pair[0], reverse=not ascending)  # type: ignore[arg-type,return-value]
    known_ids = {id(row) for _, row in known}
    return [row for _, row in known] + [row for row in rows if id(row) not in known_ids]


def column(row: Row, name: str) -> float | str | None:
    """The value of a column, or of a task, by which rows are sorted."""
    if name in VALUES:
        return VALUES[name](row)
    return next((task.value for task in row.tasks if task.task == name), None)


VALUES: Mapping[str, Callable[[Row], float | str | None]] = {
    "rank": lambda row: row.rank,
    "method": lambda row: row.method.casefold(),
    "team": lambda row: row.team.casefold(),
    "score": lambda row: row.headline.value,
    "stderr": lambda row: row.headline.stderr,
    "behind": lambda row: row.behind_leader.value if row.behind_leader else 0.0,
    "baseline": lambda row: row.over_baseline.value if row.over_baseline else None,
    "size": lambda row: row.dataset.size,
    "kept": lambda row: row.kept_fraction,
    "params": lambda row: row.params,
    "compute": lambda row: row.flops,
    "seeds": lambda row: len(row.seeds),
    "date": lambda row: row.date or None,
}


__all__ = ["Group", "Library", "Page", "View", "group_of", "key_of"]
