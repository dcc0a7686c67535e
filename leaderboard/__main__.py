"""The `leaderboard` command: look at submissions, check them, show who is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard.bundle import open_bundle
from leaderboard.cli import _show_board
from leaderboard.validate import Checked, check_bundle
from pipelines.commands import BAD_DATA, Json, fail, main, out, show_json
from pipelines.records import JSON

app = typer.Typer(
    help="What counts, who is ahead, and the page that shows it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Submissions = Annotated[Path, typer.Option(help="Folder of submissions.")]


@app.command()
def board(submissions: Submissions, json: Json = False) -> None:
    """Print the board."""
    _show_board(submissions, json=json)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle (.zip) or a submission's folder.")],
    json: Json = False,
) -> None:
    """Check a bundle against every rule, offline, exactly as the service will."""
    opened = open_bundle(bundle)
    checked = check_bundle(opened)
    faults = [str(fault) for fault in checked.faults]
    if json:
        found = {"submission": opened.record.id, "faults": checked.faults, "row": row_of(checked)}
        show_json(found)
    elif checked.measured is not None:
        out(f"submission {opened.record.id}: all rules hold")
        headline = checked.measured.row.headline
        out(f"{headline.metric} {headline.value:.4f}, computed again from the questions")
    if faults:
        fail("\n".join([f"{len(faults)} rules are broken", *faults]), BAD_DATA)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")],
    submissions: Submissions,
) -> None:
    """Write the board as a static site, with its data as JSON and CSV."""
    from leaderboard.export import export_site

    page = export_site(submissions, folder)
    out(str(page))


def row_of(checked: Checked) -> JSON:
    """The row of a check, or None."""
    return checked.measured.row.model_dump(mode="json") if checked.measured else None


def entry() -> None:
    """The console script."""
    main(app)


if __name__ == "__main__":
    entry()
