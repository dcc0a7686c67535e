"""Where a board's database is by default; commands read it before any driver is loaded."""

from __future__ import annotations

DEFAULT = "sqlite:///leaderboard.db"
