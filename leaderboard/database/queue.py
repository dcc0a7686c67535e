"""Whose check is next: fair between teams, and the same answer for the queue and for the pages.

A team's first unfinished submission comes before every team's second, its second before every
third; among equals the older comes first. So a hundred submissions of one team delay another team's
one by a single check. A check that died waits again in its old place.
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, select

from leaderboard.database import tables as t

TRIED = 50  # of the order, when other processes hold the first ones


def order(connection: Connection, now: float) -> tuple[list[str], int]:
    """Ids of what waits, the next one first; and how many are being checked."""
    s = t.Submission
    query = (
        select(s.id, s.team, s.state, s.received, s.lease_until)
        .where(s.state.in_(("received", "checking")))
        .order_by(s.received, s.id)
    )
    waiting, running = [], 0
    before: Counter[str] = Counter()
    for line in connection.execute(query):
        if line.state == "checking" and line.lease_until >= now:
            running += 1
        else:
            waiting.append((before[line.team], line.received, line.id))
        before[line.team] += 1
    return [id_ for _, _, id_ in sorted(waiting)], running


def first(connection: Connection, now: float) -> str | None:
    """The id of what is checked next, locked; None when nothing waits that nobody else has."""
    s = t.Submission
    free = (s.state == "received") | ((s.state == "checking") & (s.lease_until < now))
    for id_ in order(connection, now)[0][:TRIED]:
        query = select(s.id).where(s.id == id_, free).with_for_update(skip_locked=True)
        next_id: str | None = connection.execute(query).scalar()
        if next_id is not None:
            return next_id
    return None


def place_in_line(connection: Connection, id: str, now: float) -> int:
    """How many are checked before this one, with those that are being checked now."""
    waiting, running = order(connection, now)
    return running + (waiting.index(id) if id in waiting else 0)
