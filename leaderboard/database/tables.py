"""The tables of the service. Changed only by a new file in `migrations/versions/`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
LARGE = BigInteger().with_variant(Integer, "sqlite")

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("team", String(120), nullable=False),
    Column("token", String(16), nullable=False),
    Column("benchmark", String(60), nullable=False),
    Column("scale", String(60), nullable=False),
    Column("track", String(60), nullable=False),
    Column("method", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("received", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("bundle", String(200), nullable=False),
    Column("bundle_sha256", String(64), nullable=False),
    Column("bundle_bytes", LARGE, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_owner", String(80), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("faults", Text, nullable=False),
    Index("submissions_by_state", "state", "received"),
    Index("submissions_by_board", "benchmark", "scale", "track", "state"),
    Index("submissions_by_team", "team", "received"),
)
"""One line per submission; times are seconds since 1970, UTC."""

rows = Table(
    "rows",
    metadata,
    Column("id", String(32), ForeignKey("submissions.id"), primary_key=True),
    Column("changed", Double, nullable=False),
    Column("row", Text, nullable=False),
)
"""What a check computed of a submission: a `measured.Row` as JSON."""

draws = Table(
    "draws",
    metadata,
    Column("id", String(32), ForeignKey("submissions.id"), primary_key=True),
    Column("metric", String(100), primary_key=True),
    Column("resamples", LargeBinary, nullable=False),
)
"""Each aggregate on the resamples of the items: float32, little endian."""

facts = Table(
    "facts",
    metadata,
    Column("id", String(32), ForeignKey("submissions.id"), primary_key=True),
    Column("facts", Text, nullable=False),
    Column("notices", Text, nullable=False),
)
"""What later submissions are compared with, and what a reviewer should know: both JSON."""

pins = Table(
    "pins",
    metadata,
    Column("task", String(100), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("who", String(200), nullable=False),
)
"""Identities of task data that a maintainer pinned on this board."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("submission", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("who", String(200), nullable=False),
    Column("before", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Index("audit_by_submission", "submission", "id"),
)
"""Every change of a state. Append-only: a trigger refuses to change or delete a line, but for
taking out who and why of a person who is forgotten."""

teams = Table(
    "teams",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("banned", Boolean, nullable=False),
    Column("why", Text, nullable=False),
    Column("quota_bytes", LARGE, nullable=True),
    Column("feed", String(32), nullable=False),
)
"""What maintainers decided about a team, and the secret part of its feed's address."""

checks = Table(
    "checks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("submission", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("outcome", String(16), nullable=False),
)
"""Every check that ended: how long it took and how it ended."""

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("name", String(120), nullable=False),
    Column("team", String(120), nullable=False),
    Column("scopes", String(60), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=True),
    Column("revoked", Boolean, nullable=False),
    Column("used", Double, nullable=True),
)
"""Who may do what. The secret itself is nowhere; `hash` is its sha256."""

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("token", String(16), ForeignKey("tokens.id"), nullable=False),
    Column("expires", Double, nullable=False),
)
"""Who is logged in through the page."""

revisions = Table(
    "revisions",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("number", Integer, nullable=False),
)
"""Counts the changes of what the board shows, so that every process knows when its copy is old."""
