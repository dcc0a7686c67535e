"""The `evals` command: measure models, and read, compare and check what was measured."""

from __future__ import annotations

import typer

from evals.commands import perplexity, scores, task_data
from pipelines.console import program

app = typer.Typer(
    help="Measure models with suites of tasks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (scores, perplexity, task_data):
    app.registered_commands += group.app.registered_commands


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
