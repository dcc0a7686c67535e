"""The first tables, and the triggers that keep the audit append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("team", sa.String(120), nullable=False),
        sa.Column("token", sa.String(16), nullable=False),
        sa.Column("benchmark", sa.String(60), nullable=False),
        sa.Column("scale", sa.String(60), nullable=False),
        sa.Column("track", sa.String(60), nullable=False),
        sa.Column("method", sa.String(120), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("received", sa.Double, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
        sa.Column("bundle", sa.String(200), nullable=False),
        sa.Column("bundle_sha256", sa.String(64), nullable=False),
        sa.Column("bundle_bytes", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(80), nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("faults", sa.Text, nullable=False),
    )
    op.create_index("submissions_by_state", "submissions", ["state", "received"])
    op.create_index("submissions_by_board", "submissions", ["benchmark", "scale", "track", "state"])
    op.create_index("submissions_by_team", "submissions", ["team", "received"])
    op.create_table(
        "rows",
        sa.Column("id", sa.String(32), sa.ForeignKey("submissions.id"), primary_key=True),
        sa.Column("changed", sa.Double, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
    )
    op.create_table(
        "draws",
        sa.Column("id", sa.String(32), sa.ForeignKey("submissions.id"), primary_key=True),
        sa.Column("metric", sa.String(100), primary_key=True),
        sa.Column("resamples", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("submission", sa.String(32), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("before", sa.String(16), nullable=False),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )
    op.create_index("audit_by_submission", "audit", ["submission", "id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("team", sa.String(120), nullable=False),
        sa.Column("scopes", sa.String(60), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=True),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    assert revisions is not None
    op.bulk_insert(revisions, [{"name": "board", "number": 1}])
    _append_only()


def _append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    )
