"""The `leaderboard` command: look at submissions, check them, show who is ahead, serve it all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leaderboard.database.address import DEFAULT
from leaderboard.rounds.show import show_board
from leaderboard.web.commands import Database, Files, add_commands, open_service
from pipelines.console import AssetFolders, Json, fail, out, program, show_json, table
from pipelines.errors import BAD_DATA
from pipelines.records import JSON

if TYPE_CHECKING:
    from leaderboard.submissions.facts import Known
    from leaderboard.submissions.validate import Checked

app = typer.Typer(
    help="What counts, who is ahead, and the page that shows it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
tokens = typer.Typer(help="Who may submit, review and administer.", no_args_is_help=True)
app.add_typer(tokens, name="token")
add_commands(app)

Submissions = Annotated[Path, typer.Option(help="Folder of submissions.")]
DATABASE = DEFAULT


@app.command()
def board(submissions: Submissions, json: Json = False) -> None:
    """Print the board."""
    show_board(submissions, json=json)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle (.zip) or a submission's folder.")],
    database: Annotated[
        str | None, typer.Option(help="A board's database: novelty is checked against it too.")
    ] = None,
    files: Files = None,
    json: Json = False,
) -> None:
    """Check a bundle against every rule, offline, exactly as the service will."""
    from leaderboard.submissions.bundle import open_bundle
    from leaderboard.submissions.facts import NOTHING
    from leaderboard.submissions.validate import check_bundle

    opened = open_bundle(bundle)
    known: Known = NOTHING
    if database is not None:
        from leaderboard.service.service import BoardKnown

        known = BoardKnown(open_service(database, files), opened.record.id)
    checked = check_bundle(opened, known=known)
    faults = [f"[{fault.rule}] {fault}" for fault in checked.faults]
    if json:
        benchmarks = {
            "submission": opened.record.id,
            "faults": checked.faults,
            "notices": checked.notices,
            "row": row_of(checked),
        }
        show_json(benchmarks)
    elif checked.measured is not None:
        out(f"submission {opened.record.id}: all rules hold")
        headline = checked.measured.row.headline
        out(f"{headline.metric} {headline.value:.4f}, computed again from the questions")
        for notice in checked.notices:
            out(f"note [{notice.rule}] {notice.text}")
    if faults:
        count = "1 rule is broken" if len(faults) == 1 else f"{len(faults)} rules are broken"
        fail("\n".join([count, *faults]), BAD_DATA)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A bundle, a submission's folder, or an id.")],
    second: Annotated[str, typer.Argument(help="Another of the same scale.")],
    database: Database = DATABASE,
    files: Files = None,
    json: Json = False,
) -> None:
    """Compare two submissions question by question: wins, losses, ties, what could be seen."""
    from leaderboard.board.paired import compare_bundles, comparison_text
    from leaderboard.submissions.bundle import open_bundle

    bundles = []
    for address in (first, second):
        if Path(address).exists():
            bundles.append(open_bundle(Path(address)))
        else:
            service = open_service(database, files)
            bundles.append(service.bundle(service.store.get(address)))
    comparison = compare_bundles(*bundles)
    if json:
        show_json(comparison)
    else:
        out(comparison_text(comparison))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")],
    submissions: Annotated[Path | None, typer.Option(help="Folder of submissions.")] = None,
    database: Annotated[str | None, typer.Option(help="A service's database instead.")] = None,
    files: Files = None,
    questions: Annotated[
        int, typer.Option(min=0, max=500, help="Of each task of a submission, with pages.")
    ] = 50,
) -> None:
    """Write the board as a static site, with its data as JSON and CSV."""
    from leaderboard.web.static_site import export_service, export_site

    if (submissions is None) == (database is None):
        raise typer.BadParameter("name either --submissions or --database")
    if submissions is not None:
        page = export_site(submissions, folder, questions=questions)
    else:
        assert database is not None
        service = open_service(database, files)
        page = export_service(service, folder, questions=questions)
        service.store.close()
    out(str(page))


@app.command()
def review(
    id: Annotated[str | None, typer.Argument(help="A submission; else those that wait.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Put it on the board.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Keep it off.")] = False,
    why: Annotated[str, typer.Option(help="For the audit; the team reads it.")] = "",
    who: Annotated[str, typer.Option(help="Your name, for the audit.")] = "maintainer",
    database: Database = DATABASE,
    json: Json = False,
) -> None:
    """List what waits for review, show one submission, accept or refuse it."""
    from leaderboard.database.states import shown
    from leaderboard.database.store import Store

    store = Store(database, migrate=False)
    if id is None:
        waiting = store.find(states=["needs_review"])
        if json:
            show_json(waiting)
        elif not waiting:
            out("nothing waits for review")
        else:
            lines = [
                (
                    submission.id,
                    submission.method,
                    submission.team,
                    submission.benchmark,
                    submission.scale,
                )
                for submission in waiting
            ]
            out(table(lines, header=("id", "method", "team", "benchmark", "scale")))
        return
    if accept and refuse:
        raise typer.BadParameter("either --accept or --refuse")
    submission = store.get(id)
    if accept or refuse:
        submission = store.move(id, "accepted" if accept else "refused", who=who, why=why)
    if json:
        show_json({"submission": submission, "history": store.history(id)})
        return
    out(
        f"{submission.method} of {submission.team}, {submission.benchmark} {submission.scale} "
        f"{submission.track}: {shown(submission.state)}"
    )
    for fault in submission.faults:
        out(f"  {fault}")
    for row in store.rows([id]):
        stderr = "" if row.headline.stderr is None else f" ± {row.headline.stderr:.4f}"
        out(f"  {row.headline.metric} {row.headline.value:.4f}{stderr}")
    for notice in store.notices(id):
        out(f"  note [{notice.rule}] {notice.text}")
    for change in store.history(id):
        out(f"  {change.before or 'new'} -> {change.after}, {change.who}: {change.why}")


@app.command()
def notebook(
    benchmark: Annotated[str, typer.Argument(help="A benchmark by name.")],
    scale: Annotated[str, typer.Argument(help="A scale of it.")],
    workspace: Annotated[str, typer.Option(help="The workspace of the runs.")] = "runs",
    note: Annotated[str, typer.Option(help="Add a note: a plan, a reason, a conclusion.")] = "",
    json: Json = False,
) -> None:
    """Every try of a workspace, failed ones too, and how many there were."""
    from leaderboard.rounds.notebook import Notebook

    book = Notebook(workspace, benchmark, scale)
    if note:
        book.write("note", text=note)
    lines = book.lines()
    if json:
        show_json({"tries": book.tries(), "lines": lines})
        return
    rows = [(line.at, line.state, line.method, line.value, line.text[:60]) for line in lines]
    out(table(rows, header=("at", "state", "method", "score", "text")))
    out(f"{book.tries()} datasets were tried")


@app.command()
def pin(
    task: Annotated[str, typer.Argument(help="A task whose data nobody pinned.")],
    identity: Annotated[str, typer.Argument(help="As `evals pin` and every row's record show it.")],
    why: Annotated[str, typer.Option(help="For the audit.")],
    who: Annotated[str, typer.Option(help="Your name, for the audit.")] = "maintainer",
    database: Database = DATABASE,
) -> None:
    """Pin the data of a task on this board: submissions on other data are refused from now on."""
    import re

    from evals.tasks import load_task
    from leaderboard.database.store import Store

    load_task(task)
    if not re.fullmatch("[0-9a-f]{64}", identity):
        raise typer.BadParameter("an identity has 64 hexadecimal digits; see `evals pin`")
    store = Store(database, migrate=False)
    store.pin(task, identity, who=who, why=why)
    store.close()
    out(f"{task} is pinned to {identity[:16]}")


@tokens.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    scope: Annotated[list[str], typer.Option(help="submit, review or admin; may be repeated.")],
    team: Annotated[str, typer.Option(help="The team that submits with it.")] = "",
    days: Annotated[float, typer.Option(min=0.01, help="How long it is good.")] = 365.0,
    database: Database = DATABASE,
    json: Json = False,
) -> None:
    """Make a token. Its secret is printed this once and stored nowhere."""
    from leaderboard.database.auth import create_token
    from leaderboard.database.store import Store

    token, secret = create_token(Store(database), name, scopes=scope, team=team, days=days)
    if json:
        show_json({"token": token, "secret": secret})
    else:
        out(secret)
        out(f"token {token.id} may {', '.join(token.scopes)}; it is not shown again")


@tokens.command("list")
def token_list(database: Database = DATABASE, json: Json = False) -> None:
    """All tokens, without their secrets."""
    from leaderboard.database.auth import list_tokens
    from leaderboard.database.store import Store
    from leaderboard.web.views import when

    tokens = list_tokens(Store(database, migrate=False))
    if json:
        show_json(tokens)
        return
    lines = [
        (
            token.id,
            token.name,
            token.team,
            " ".join(token.scopes),
            "revoked" if token.revoked else "good",
            when(token.used) if token.used else "never",
        )
        for token in tokens
    ]
    out(table(lines, header=("id", "name", "team", "scopes", "state", "last use")))


@tokens.command("revoke")
def token_revoke(
    id: Annotated[str, typer.Argument(help="As `leaderboard token list` shows it.")],
    database: Database = DATABASE,
) -> None:
    """Make a token worthless at once."""
    from leaderboard.database.auth import revoke_token
    from leaderboard.database.store import Store

    revoke_token(Store(database, migrate=False), id)
    out(f"token {id} is revoked")


@app.command("import")
def import_command(
    what: Annotated[str, typer.Argument(help="The source; an unknown one lists all.")],
    source: Annotated[
        str, typer.Argument(help="A file or folder of it, its address, or `official`.")
    ],
    database: Database = DATABASE,
    json: Json = False,
) -> None:
    """Bring published results onto the board; all aggregates are computed again."""
    from leaderboard.database.store import Store
    from leaderboard.published.literature import read_published

    rows = read_published(what, source)
    store = Store(database)
    why = f"imported from {public_name(source)}"
    new = sum(store.import_row(row, kind="imported", who="import", why=why) for row in rows)
    boards = sorted({(row.benchmark, row.scale, row.track) for row in rows})
    if json:
        show_json({"rows": len(rows), "new": new, "boards": boards})
    else:
        out(f"{len(rows)} rows, {new} of them new, on {len(boards)} boards")


def public_name(source: str) -> str:
    """An address as it is, and a file of this machine by its name alone."""
    return source if "://" in source else Path(source).name


@app.command()
def findings(
    folder: Annotated[Path, typer.Argument(help="Where the page and its plots go.")],
    published: Annotated[
        list[Path] | None,
        typer.Option(help="A published table (CSV), as DCLM's or open_clip's; may be repeated."),
    ] = None,
    database: Database = DATABASE,
) -> None:
    """Write what the published results say: is A better, would it be at scale, what decides."""
    from leaderboard.board.boards import Library
    from leaderboard.database.store import Store
    from leaderboard.published.findings import write_findings

    store = Store(database, migrate=False)
    out(str(write_findings(Library(store), folder, published=published or ())))
    store.close()


@app.command()
def decisions(
    published: Annotated[
        Path, typer.Argument(help="DCLM's model database or open_clip's results (CSV).")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Of the small scale: an aggregate or a task; may be repeated."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What is predicted at the large scale; default: the same.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every metric of the cheapest scale, best first.")
    ] = False,
    json: Json = False,
) -> None:
    """Of all pairs of datasets, how many does a small scale order as a large one does?"""
    from leaderboard.published.decisions import decision_rows, every_metric
    from leaderboard.published.decisions import decisions as decide_all

    if every:
        results = every_metric(published, target=target)
    else:
        results = decide_all(published, metrics=tuple(metric or ()), target=target)
    if json:
        show_json(results)
    else:
        header, rows = decision_rows(results)
        out(table(rows, header=header))


@app.command()
def recheck(
    id: Annotated[str, typer.Argument(help="A submission.")],
    pool: Annotated[
        str | None,
        typer.Option(help="The pool's list of uids (.npy); with --sample, or its folder."),
    ] = None,
    uids: Annotated[
        str | None, typer.Option(help="The submission's list of uids; default: where it says.")
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Evaluate the checkpoint again.")] = False,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="SEED=FOLDER of a trained model; may be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder of evaluation data.")] = None,
    sample: Annotated[
        str | None,
        typer.Option(help="For a viewer: repeat a part, as 1%; a downloaded bundle will do."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With --sample: the dataset's folder; else where it says.")
    ] = None,
    assets: AssetFolders = None,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Run a participant's Python: a solver, with --sample steps.",
        ),
    ] = False,
    salt: Annotated[
        str | None, typer.Option(help="With --sample: repeat this choice; default: a new one.")
    ] = None,
    who: Annotated[str, typer.Option(help="Your name, for the audit.")] = "maintainer",
    database: Database = DATABASE,
    files: Files = None,
    json: Json = False,
) -> None:
    """Check a submission again: hashes, scores from the questions, its uids, its checkpoints."""
    if sample is not None:
        given = {
            "pool": pool,
            "uids": uids,
            "data": data,
            "dataset": dataset,
            "assets": assets or (),
            "run_code": run_code,
            "salt": salt,
        }
        _recheck_sample(id, sample, given, checkpoint or [], (database, files), json)
        return
    from leaderboard.service.recheck import recheck as run_recheck

    service = open_service(database, files)
    result = run_recheck(
        service,
        id,
        pool=pool,
        uids=uids,
        rerun=rerun,
        models=checkpoint or [],
        data=data,
        run_code=run_code,
        who=who,
    )
    if json:
        show_json(result)
    else:
        for line in result.lines:
            out(line)
    if result.faults:
        fail("; ".join(map(str, result.faults)), BAD_DATA)


def _recheck_sample(
    id: str,
    sample: str,
    given: dict[str, Any],
    checkpoints: list[str],
    board: tuple[str, str | None],
    json: bool,
) -> None:
    from leaderboard.service.sample import recheck_sample
    from leaderboard.submissions.bundle import open_bundle

    try:
        fraction = float(sample.removesuffix("%")) / (100 if sample.endswith("%") else 1)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise typer.BadParameter("--sample takes a part such as 1%")
    if Path(id).exists():
        bundle = open_bundle(Path(id))
    else:
        service = open_service(*board)
        bundle = service.bundle(service.store.get(id))
    result = recheck_sample(
        bundle,
        fraction=fraction,
        models={
            seed: folder
            for seed, _, folder in (checkpoint.partition("=") for checkpoint in checkpoints)
        },
        **given,
    )
    if json:
        show_json(result)
    else:
        for line in result.lines:
            out(line)
    if result.faults:
        fail("; ".join(map(str, result.faults)), BAD_DATA)


def row_of(checked: Checked) -> JSON:
    """The row of a check, or None."""
    return checked.measured.row.model_dump(mode="json") if checked.measured else None


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
