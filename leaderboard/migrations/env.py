"""What Alembic runs: the migrations, over the connection that the store gives it."""

from __future__ import annotations

from alembic import context

from leaderboard.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
