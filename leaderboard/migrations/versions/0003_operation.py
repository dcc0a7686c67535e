"""Teams with bans and quotas, seconds of checks, last use of tokens, an audit that forgets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

KEPT = ("id", "submission", "at", "before", "after")


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("name", sa.String(120), primary_key=True),
        sa.Column("banned", sa.Boolean, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("quota_bytes", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=True),
        sa.Column("feed", sa.String(32), nullable=False),
    )
    op.create_table(
        "checks",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("submission", sa.String(32), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
    )
    op.add_column("tokens", sa.Column("used", sa.Double, nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()


def _sqlite() -> None:
    same = " AND ".join(f"NEW.{name} = OLD.{name}" for name in KEPT)
    op.execute("DROP TRIGGER audit_no_update")
    op.execute(
        "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
        f"WHEN NOT (NEW.who = 'removed' AND NEW.why = 'removed' AND {same}) "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    )


def _postgresql() -> None:
    op.alter_column("submissions", "bundle_bytes", type_=sa.BigInteger)
    same = " AND ".join(f"NEW.{name} = OLD.{name}" for name in KEPT)
    op.execute("DROP TRIGGER audit_append_only ON audit")
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    )
    op.execute(
        "CREATE FUNCTION audit_forgets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.who = 'removed' AND NEW.why = 'removed' AND {same} THEN RETURN NEW; END IF; "
        "RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_forgets BEFORE UPDATE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_forgets()"
    )
