"""What maintainers decide about teams and people: bans, quotas, new names, being forgotten."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import orjson
from sqlalchemy import Connection, delete, func, insert, select, update

from leaderboard.database import tables as t
from leaderboard.database.connection import StoreError
from leaderboard.database.states import Change
from leaderboard.database.store import Store
from pipelines.records import Frozen

QUOTA_BYTES = 50 << 30  # of bundles of one team, unless a maintainer says otherwise
MOST_WAITING = 1000  # unchecked submissions of one team at once


class Team(Frozen):
    """A team as maintainers see it."""

    name: str
    banned: bool
    why: str
    quota_bytes: int
    used_bytes: int
    submissions: int


def team_of(store: Store, name: str) -> Team:
    """One team, whether or not anything was ever decided about it."""
    s = t.Submission
    with store.engine.connect() as connection:
        line = connection.execute(select(t.Team).where(t.Team.name == name)).one_or_none()
        used = select(func.count(), func.sum(s.bundle_bytes)).where(s.team == name)
        number, num_bytes = connection.execute(used).one()
    quota = line.quota_bytes if line is not None else None
    return Team(
        name=name,
        banned=bool(line.banned) if line is not None else False,
        why=line.why if line is not None else "",
        quota_bytes=QUOTA_BYTES if quota is None else quota,
        used_bytes=int(num_bytes or 0),
        submissions=int(number),
    )


def may_send(store: Store, name: str, num_bytes: int) -> None:
    """StoreError when a team is banned, over its quota, or has too much that waits."""
    team = team_of(store, name)
    if team.banned:
        raise StoreError(f"team {name!r} may not submit: {team.why or 'ask the maintainers'}")
    if team.used_bytes + num_bytes > team.quota_bytes:
        raise StoreError(
            f"team {name!r} has {team.used_bytes:,} bytes here and may have {team.quota_bytes:,}; "
            "ask the maintainers"
        )
    s = t.Submission
    query = select(func.count()).where(s.team == name, s.state.in_(("received", "checking")))
    with store.engine.connect() as connection:
        waiting = int(connection.execute(query).scalar() or 0)
    if waiting >= MOST_WAITING:
        raise StoreError(f"{waiting} submissions of team {name!r} wait for their check already")


def decide(
    store: Store,
    name: str,
    *,
    banned: bool | None = None,
    quota_bytes: int | None = None,
    why: str = "",
    who: str,
) -> Team:
    """Ban a team or let it back, or give it another quota; the audit keeps who and why."""
    values: dict[str, object] = {}
    if banned is not None:
        values |= {"banned": banned, "why": why}
    if quota_bytes is not None:
        values["quota_bytes"] = quota_bytes
    if not values:
        raise StoreError("say what changes: the ban or the quota")
    with store.writer.begin() as connection:
        _there(connection, name)
        connection.execute(update(t.Team).where(t.Team.name == name).values(**values))
        _audit(connection, who, "banned" if banned else "team changed", f"{name}: {values}; {why}")
    return team_of(store, name)


def rename(store: Store, old: str, new: str, *, who: str, why: str = "") -> int:
    """Give a team another name everywhere; returns the number of its submissions.

    Its bundles keep the name they were sent with: they are evidence, and their hashes are known.
    """
    now = time.time()
    with store.writer.begin() as connection:
        s = t.Submission
        if connection.execute(select(s.id).where(s.team == new).limit(1)).scalar():
            raise StoreError(f"there is a team {new!r} already")
        ids = list(connection.execute(select(s.id).where(s.team == old)).scalars())
        tokens = connection.execute(
            update(t.Token).where(t.Token.team == old).values(team=new)
        ).rowcount
        if not ids and not tokens:
            raise StoreError(f"there is no team {old!r}")
        connection.execute(update(t.Submission).where(s.team == old).values(team=new))
        connection.execute(update(t.Team).where(t.Team.name == old).values(name=new))
        for id_ in ids:
            _renamed(connection, id_, new, now)
        _audit(connection, who, "team renamed", why)
        connection.execute(update(t.Revision).values(number=t.Revision.number + 1))
    store.changes += 1
    return len(ids)


def _renamed(connection: Connection, id: str, new: str, now: float) -> None:
    for table, column in ((t.StoredRow, "row"), (t.StoredFacts, "facts")):
        stored = getattr(table, column)
        text = connection.execute(select(stored).where(table.id == id)).scalar()
        if text is not None:
            renamed = orjson.dumps(orjson.loads(text) | {"team": new}).decode()
            values: dict[str, object] = {column: renamed}
            if table is t.StoredRow:
                values["changed"] = now
            connection.execute(update(table).where(table.id == id).values(**values))


def forget(store: Store, id: str, *, who: str) -> str:
    """Take everything personal of a submission out of the database; returns its bundle's name.

    The audit keeps that there were changes and when; who made them and why is taken out. The
    caller removes the bundle and its evidence.
    """
    submission = store.get(id)
    with store.writer.begin() as connection:
        for table in (t.Draw, t.StoredFacts, t.StoredRow):
            connection.execute(delete(table).where(table.id == id))
        connection.execute(
            update(t.Submission)
            .where(t.Submission.id == id)
            .values(
                team="(removed)",
                method="(removed)",
                token="",
                state="withdrawn",
                changed=time.time(),
                bundle="",
                bundle_sha256="",
                bundle_bytes=0,
                faults="[]",
                lease_owner="",
                lease_until=0.0,
            )
        )
        connection.execute(
            update(t.AuditLine)
            .where(t.AuditLine.submission == id)
            .values(who="removed", why="removed")
        )
        _audit(connection, who, "forgotten", "at the request of whom it is about", id)
        connection.execute(update(t.Revision).values(number=t.Revision.number + 1))
    store.changes += 1
    return submission.bundle


# ---- feeds


def feed_key(store: Store, team: str) -> str:
    """The secret part of the address of a team's feed; made when it is first asked for."""
    query = select(t.Team.feed).where(t.Team.name == team)
    with store.engine.connect() as connection:
        key: str | None = connection.execute(query).scalar()
    if key:
        return key
    with store.writer.begin() as connection:
        _there(connection, team)
        return str(connection.execute(query).scalar())


def team_of_feed(store: Store, key: str) -> str | None:
    """The team whose feed has this key."""
    with store.engine.connect() as connection:
        query = select(t.Team.name).where(t.Team.feed == key)
        team: str | None = connection.execute(query).scalar()
    return team


def notices_of(store: Store, team: str, *, limit: int = 100) -> Sequence[tuple[Change, str]]:
    """What happened last to a team's submissions, the newest first, with the method of each."""
    s, a = t.Submission, t.AuditLine
    query = (
        select(t.AuditLine, s.method)
        .join(t.Submission, s.id == a.submission)
        .where(s.team == team, a.after != "checking")
        .order_by(a.id.desc())
        .limit(limit)
    )
    with store.engine.connect() as connection:
        lines = connection.execute(query).mappings().all()
    return [
        (Change(**{name: line[name] for name in Change.model_fields}), line["method"])
        for line in lines
    ]


def _there(connection: Connection, name: str) -> None:
    if connection.execute(select(t.Team.name).where(t.Team.name == name)).scalar() is None:
        line = {"name": name, "banned": False, "why": "", "feed": secrets.token_hex(16)}
        connection.execute(insert(t.Team).values(**line, quota_bytes=None))


def _audit(connection: Connection, who: str, after: str, why: str, id: str = "") -> None:
    line = {"submission": id, "at": time.time(), "who": who[:200], "before": "", "why": why[:4000]}
    connection.execute(insert(t.AuditLine).values(after=after[:16], **line))
