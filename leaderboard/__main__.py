"""The `leaderboard` command: look at submissions, check them, show who is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard import rules
from leaderboard.cli import _show_board
from leaderboard.submission import check as check_submission
from leaderboard.submission import read_entry
from pipelines.commands import BAD_DATA, Json, fail, main, out, show_json

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
    submission: Annotated[Path, typer.Argument(help="A submission's folder.")], json: Json = False
) -> None:
    """Check a submission against every rule, offline."""
    entry = read_entry(submission)
    faults = check_submission(entry.record, rules.load_benchmark(entry.record.work.benchmark))
    if json:
        show_json({"submission": entry.record.id, "faults": faults})
    elif not faults:
        out(f"submission {entry.record.id}: all rules hold")
    if faults:
        fail("; ".join(faults), BAD_DATA)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")],
    submissions: Submissions,
) -> None:
    """Write the board as a static site, with its data as JSON and CSV."""
    from leaderboard.export import export_site

    page = export_site(submissions, folder)
    out(str(page))


def entry() -> None:
    """The console script."""
    main(app)


if __name__ == "__main__":
    entry()
