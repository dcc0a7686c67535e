"""A stamp for each change of the board, so that pages can be kept over a restart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("stamp", sa.String(32), nullable=False, server_default=""))
