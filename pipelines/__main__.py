"""The `pipelines` command: run, explain and look into curation pipelines."""

from __future__ import annotations

import typer

from pipelines.assets.commands import asset_app
from pipelines.commands import documents, operator_files, runs
from pipelines.console import program
from pipelines.scoring.commands import score, train_classifier

app = typer.Typer(
    help="Filter and deduplicate pools of documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(asset_app, name="assets")
app.command("train-classifier")(train_classifier)
app.command("score")(score)
for group in (runs, operator_files, documents):
    app.registered_commands += group.app.registered_commands


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
