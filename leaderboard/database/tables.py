"""The service's tables as mapped classes. Changed only by a new file in `migrations/versions/`.

Statements are written with these classes and run on plain connections: a change of a state is one
`UPDATE ... WHERE state = ...` whose row count says who won, which a session's unit of work hides.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LARGE = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What all tables are registered with."""


metadata = Base.metadata


class Submission(Base):
    """One line per submission; times are seconds since 1970, UTC."""

    __tablename__ = "submissions"
    __table_args__ = (
        Index("submissions_by_state", "state", "received"),
        Index("submissions_by_board", "benchmark", "scale", "track", "state"),
        Index("submissions_by_team", "team", "received"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(12))
    team: Mapped[str] = mapped_column(String(120))
    token: Mapped[str] = mapped_column(String(16), default="")
    benchmark: Mapped[str] = mapped_column(String(60))
    scale: Mapped[str] = mapped_column(String(60))
    track: Mapped[str] = mapped_column(String(60))
    method: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(16))
    received: Mapped[float] = mapped_column(Double)
    changed: Mapped[float] = mapped_column(Double)
    bundle: Mapped[str] = mapped_column(String(200), default="")
    bundle_sha256: Mapped[str] = mapped_column(String(64), default="")
    bundle_bytes: Mapped[int] = mapped_column(LARGE, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str] = mapped_column(String(80), default="")
    lease_until: Mapped[float] = mapped_column(Double, default=0.0)
    faults: Mapped[str] = mapped_column(Text, default="[]")


class StoredRow(Base):
    """What a check computed of a submission: a `measured.Row` as JSON."""

    __tablename__ = "rows"

    id: Mapped[str] = mapped_column(String(32), ForeignKey("submissions.id"), primary_key=True)
    changed: Mapped[float] = mapped_column(Double)
    row: Mapped[str] = mapped_column(Text)


class Draw(Base):
    """Each aggregate on the resamples of the items: float32, little endian."""

    __tablename__ = "draws"

    id: Mapped[str] = mapped_column(String(32), ForeignKey("submissions.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(100), primary_key=True)
    resamples: Mapped[bytes] = mapped_column(LargeBinary)


class StoredFacts(Base):
    """What later submissions are compared with, and what a reviewer should know: both JSON."""

    __tablename__ = "facts"

    id: Mapped[str] = mapped_column(String(32), ForeignKey("submissions.id"), primary_key=True)
    facts: Mapped[str] = mapped_column(Text)
    notices: Mapped[str] = mapped_column(Text)


class Pin(Base):
    """Identities of task data that a maintainer pinned on this board."""

    __tablename__ = "pins"

    task: Mapped[str] = mapped_column(String(100), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64))
    at: Mapped[float] = mapped_column(Double)
    who: Mapped[str] = mapped_column(String(200))


class AuditLine(Base):
    """Every change of a state. Append-only: a trigger refuses to change or delete a line, but for
    taking out who and why of a person who is forgotten."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_submission", "submission", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    submission: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Double)
    who: Mapped[str] = mapped_column(String(200))
    before: Mapped[str] = mapped_column(String(16))
    after: Mapped[str] = mapped_column(String(16))
    why: Mapped[str] = mapped_column(Text)


class Team(Base):
    """What maintainers decided about a team, and the secret part of its feed's address."""

    __tablename__ = "teams"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    banned: Mapped[bool] = mapped_column(Boolean)
    why: Mapped[str] = mapped_column(Text)
    quota_bytes: Mapped[int | None] = mapped_column(LARGE)
    feed: Mapped[str] = mapped_column(String(32))


class Check(Base):
    """Every check that ended: how long it took and how it ended."""

    __tablename__ = "checks"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    submission: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Double)
    seconds: Mapped[float] = mapped_column(Double)
    outcome: Mapped[str] = mapped_column(String(16))


class Token(Base):
    """Who may do what. The secret itself is nowhere; `hash` is its sha256."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(120))
    team: Mapped[str] = mapped_column(String(120))
    scopes: Mapped[str] = mapped_column(String(60))
    created: Mapped[float] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    revoked: Mapped[bool] = mapped_column(Boolean)
    used: Mapped[float | None] = mapped_column(Double)


class Session(Base):
    """Who is logged in through the page."""

    __tablename__ = "sessions"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    token: Mapped[str] = mapped_column(String(16), ForeignKey("tokens.id"))
    expires: Mapped[float] = mapped_column(Double)


class Revision(Base):
    """Counts the changes of what the board shows: every process knows when its copy is old.

    `stamp` is drawn at each change: a backup that was put back and went another way may come to the
    same number, and never to the same stamp. Empty: nothing changed since there are stamps.
    """

    __tablename__ = "revisions"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    stamp: Mapped[str] = mapped_column(String(32), default="")
