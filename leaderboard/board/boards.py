"""The accepted rows in memory, ranked: what pages, exports and the API read.

A copy is kept until the board's revision changes; then only rows that changed are read again. Safe
to share between threads.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from leaderboard import rules
from leaderboard.board.merging import one_row_a_result
from leaderboard.board.ranking import group_of, order_of
from leaderboard.board.standings import (
    SORTED_BY,
    Columns,
    Standings,
    columns_of,
    standings_of,
    unpacked,
    without_collector,
)
from leaderboard.database.states import Board
from leaderboard.database.store import Store
from leaderboard.submissions.results import Row
from pipelines.errors import RuleError
from pipelines.records import Frozen

SORTS = SORTED_BY
BoardKey = tuple[str, str, str]
MAX_LIMIT = 1000  # rows of one page
FRESH = 0.02  # seconds that a revision is trusted: one query serves the requests of that time
KEPT_FROM = 500  # rows of a board; fewer are read and ranked in a moment
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
        """Whether it has free text or numbers, whose combinations are too many to cache."""
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


class Keeper(Protocol):
    """Where computed boards are kept until the content changes, across restarts too."""

    def get(self, stamp: str, key: object) -> bytes | None:
        """What was put under a key, compressed; None where it is not here."""
        ...

    def put(self, stamp: str, key: object, packed: bytes) -> None:
        """Keep compressed bytes."""
        ...


class _Outline(Frozen):
    """The groups of a board, the one that is shown first coming first."""

    groups: tuple[Group, ...] = ()
    metrics: dict[str, tuple[str, ...]] = Field({}, description="by group, the headline first")


@dataclass
class _Copy:
    revision: int = 0
    stamp: str = ""
    outline: _Outline = field(default_factory=_Outline)
    ranked: dict[tuple[str, str], Standings] = field(default_factory=dict)
    # The rows, once they were needed; until then what a service before this one kept is enough.
    read: bool = False
    changed: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    resamples: dict[str, dict[str, npt.NDArray[np.float32]]] = field(default_factory=dict)
    groups: dict[str, list[Row]] = field(default_factory=dict)
    columns: dict[str, Columns] = field(default_factory=dict)  # by group


class Library:
    """Reads a store; with a `keeper`, the order of large boards survives a restart."""

    def __init__(
        self, store: Store, *, most_boards: int = 128, keeper: Keeper | None = None
    ) -> None:
        self.store = store
        self.keeper = keeper
        self.num_read = 0  # rows so far
        self.prepared = True  # whether a process that prepares large boards has done so
        self._most = most_boards
        self._copies: OrderedDict[BoardKey, _Copy] = OrderedDict()
        self._lock = RLock()
        self._resting = False
        self._asked = -math.inf
        self._changes = 0
        self._revision = 0

    def revision(self) -> int:
        """The board's revision, at most `FRESH` seconds old; own changes are seen at once."""
        now = time.monotonic()
        if now > self._asked + FRESH or self._changes != self.store.changes:
            self._asked, self._changes = now, self.store.changes
            self._revision = self.store.revision()
        return self._revision

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Read each board once, however it changes until the end of the block."""
        self._resting = True
        try:
            yield
        finally:
            self._resting = False

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
        key = (benchmark, scale, track)
        with self._lock:
            copy = self._copy(*key)
            groups = copy.outline.groups
            chosen = next((candidate for candidate in groups if candidate.key == view.group), None)
            if view.group and chosen is None:
                raise KeyError(f"this board has no group {view.group!r}")
            chosen = chosen or (groups[0] if groups else None)
            metrics = copy.outline.metrics[chosen.key] if chosen else ()
            if view.metric and view.metric not in metrics:
                raise KeyError(f"no metric {view.metric!r}; there are {', '.join(metrics)}")
            metric = view.metric or (metrics[0] if metrics else "")
            ranked = self._ranked(copy, key, chosen.key, metric) if chosen else None
            revision = copy.revision
            positions: list[int] = []
            if ranked is not None:
                if view.sort not in {*SORTS, *ranked.tasks}:
                    names = ", ".join(SORTS)
                    raise KeyError(f"no column {view.sort!r}; there are {names} and tasks")
                fit = ranked.positions(
                    text=view.q,
                    recheck=view.recheck,
                    kind=view.kind,
                    since=view.since,
                    until=view.until,
                )
                positions = ranked.ordered(fit, view.sort, view.order)
            shown = positions if whole else positions[view.offset : view.offset + view.limit]
            rows = tuple(ranked.some(shown)) if ranked is not None else ()
        return Page(
            benchmark=benchmark,
            scale=scale,
            track=track,
            groups=groups,
            group=chosen,
            metrics=metrics,
            metric=metric,
            total=len(positions),
            rows=rows,
            revision=revision,
            verdict=ranked.verdict if ranked is not None else "",
        )

    def rows(self, benchmark: str, scale: str, track: str) -> list[Row]:
        """All rows of a board, each group ranked by its headline."""
        key = (benchmark, scale, track)
        with self._lock:
            copy = self._copy(*key)
            return [
                row
                for group, metrics in sorted(copy.outline.metrics.items())
                for row in self._ranked(copy, key, group, metrics[0])
            ]

    def peers(self, row: Row) -> Standings | list[Row]:
        """The rows of a row's group, ranked by its headline; empty when it has none here."""
        board, group = (row.benchmark, row.scale, row.track), key_of(row)
        with self._lock:
            copy = self._copy(*board)
            if group not in copy.outline.metrics:
                return []
            return self._ranked(copy, board, group, copy.outline.metrics[group][0])

    def submitted_peers(self, row: Row, number: int) -> list[Row]:
        """The best rows of a row's group that were submitted here, at most so many."""
        peers = self.peers(row)
        if not isinstance(peers, Standings):
            return []
        return peers.some(peers.positions(kind="submission")[:number])

    def row(self, id: str, metric: str = "") -> Row | None:
        """One accepted row with its rank."""
        with self._lock:
            row = next((c.rows[id] for c in self._copies.values() if id in c.rows), None)
            row = row or next(iter(self.store.rows([id])), None)
            if row is None:
                return None
            board, group = (row.benchmark, row.scale, row.track), key_of(row)
            copy = self._copy(*board)
            if group in copy.outline.metrics:
                name = metric if metric in row.figures else copy.outline.metrics[group][0]
                ranked = self._ranked(copy, board, group, name).of(id)
                if ranked is not None:
                    return ranked
            self._read(copy, board)
            return copy.rows.get(id)

    def resamples(self, row: Row, metric: str) -> npt.NDArray[np.float32] | None:
        """An aggregate of one row on the resamples of its items: (1000,) float32."""
        return self.store.resamples([row.submission_id], metric).get(row.submission_id)

    def _copy(self, *board: str) -> _Copy:
        benchmark, scale, track = board
        key = (benchmark, scale, track)
        copy = self._copies.pop(key, None) or _Copy()
        resting = self._resting and copy.revision
        revision = copy.revision if resting else self.store.revision()
        if copy.revision != revision:
            self._renew(copy, key)
            copy.revision = revision
        self._copies[key] = copy
        while len(self._copies) > self._most:
            self._copies.popitem(last=False)
        return copy

    def _renew(self, copy: _Copy, board: BoardKey) -> None:
        """Bring a copy to the board's content; of what was not read yet, only its outline."""
        copy.stamp = self.store.stamp()
        if not copy.read and (outline := self._kept_outline(copy, board)) is not None:
            copy.outline = outline
            copy.ranked.clear()
            return
        copy.read = False
        self._read(copy, board)

    def _read(self, copy: _Copy, board: BoardKey) -> None:
        """Read the rows that changed since they were read, and group them."""
        if copy.read:
            return
        with without_collector():
            self._read_now(copy, board)

    def _read_now(self, copy: _Copy, board: BoardKey) -> None:
        copy.read = True
        now = self.store.accepted(*board)
        if now == copy.changed:
            return
        stale = [id_ for id_, changed in now.items() if copy.changed.get(id_) != changed]
        stale_rows = self._stored(stale)
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
        groups: dict[str, list[Row]] = {}
        for id_ in sorted(copy.rows):
            row = copy.rows[id_]
            groups.setdefault(key_of(row), []).append(row)
        copy.columns.clear()
        copy.groups = {key: one_row_a_result(rows) for key, rows in groups.items()}
        first = sorted(copy.groups, key=lambda key: (-_weight(copy.groups[key]), key))
        copy.outline = _Outline(
            groups=tuple(_described(key, copy.groups[key]) for key in first),
            metrics={key: _metrics(copy.groups[key]) for key in first},
        )
        if len(copy.rows) >= KEPT_FROM:
            self._keep(copy, ("outline", *board), copy.outline.model_dump_json().encode())

    def _ranked(self, copy: _Copy, board: BoardKey, group: str, metric: str) -> Standings:
        if (group, metric) not in copy.ranked:
            key = ("standings", *board, group, metric)
            kept = self._kept(copy, key)
            if kept is not None:
                copy.ranked[group, metric] = unpacked(kept, partial(self._rows_of, copy))
            else:
                self._read(copy, board)
                copy.ranked[group, metric] = self._rank(copy, key, group, metric)
        return copy.ranked[group, metric]

    def _rank(self, copy: _Copy, key: object, group: str, metric: str) -> Standings:
        members = copy.groups[group]
        cached = copy.resamples.setdefault(metric, {})
        absent = [row.submission_id for row in members if row.submission_id not in cached]
        cached |= self.store.resamples(absent, metric)
        with without_collector():
            order = order_of(members, {metric: cached}, metric=metric)
            if group not in copy.columns:
                copy.columns[group] = columns_of(members)
            read = partial(self._rows_of, copy)
            standings = standings_of(order, read, copy.columns[group])
        if len(standings) >= KEPT_FROM:
            self._keep(copy, key, standings.packed())
        return standings

    def _rows_of(self, copy: _Copy, ids: Sequence[str]) -> list[Row]:
        """Rows as they are stored, from memory where they were read."""
        here = [copy.rows[id_] for id_ in ids if id_ in copy.rows]
        return here if len(here) == len(ids) else self._stored(ids)

    def _stored(self, ids: Sequence[str]) -> list[Row]:
        with without_collector():
            rows = self.store.rows(ids)
        self.num_read += len(rows)
        return rows

    def _kept_outline(self, copy: _Copy, board: BoardKey) -> _Outline | None:
        data = self._kept(copy, ("outline", *board))
        return None if data is None else _Outline.model_validate_json(data)

    def _kept(self, copy: _Copy, key: object) -> bytes | None:
        packed = self.keeper.get(copy.stamp, key) if self.keeper is not None else None
        return None if packed is None else gzip.decompress(packed)

    def _keep(self, copy: _Copy, key: object, data: bytes) -> None:
        # Rows newer than the stamp may have been read: such an order must not be cached under it.
        if self.keeper is not None and self.store.stamp() == copy.stamp:
            self.keeper.put(copy.stamp, key, gzip.compress(data, 1, mtime=0))


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


__all__ = ["Group", "Library", "Page", "View", "group_of", "key_of"]
