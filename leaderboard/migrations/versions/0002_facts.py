"""What entries are compared by, and the data that maintainers pinned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("id", sa.String(32), sa.ForeignKey("submissions.id"), primary_key=True),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("notices", sa.Text, nullable=False),
    )
    op.create_table(
        "pins",
        sa.Column("task", sa.String(100), primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
    )
