"""The `datacomp` command: the stages of a round, and what only DataComp has."""

from __future__ import annotations

from leaderboard.rounds.commands import command_line
from pipelines.console import program


def entry() -> None:
    """The console script."""
    program(command_line("datacomp"))


if __name__ == "__main__":
    entry()
