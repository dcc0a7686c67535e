"""The commands of whoever runs a service: serve, migrate, back up, prune, teams, people."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leaderboard.database.address import DEFAULT
from pipelines.console import Json, fail, out, show_json, table
from pipelines.errors import BAD_DATA

if TYPE_CHECKING:
    from leaderboard.service.service import Service

teams = typer.Typer(help="Ban, rename and bound teams.", no_args_is_help=True)

Database = Annotated[
    str,
    typer.Option(
        help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; better by the variable: "
        "arguments of a process can be read by everybody on the machine.",
        envvar="LEADERBOARD_DATABASE",
        show_envvar=True,
    ),
]
Files = Annotated[
    str | None,
    typer.Option(help="Where bundles are: a folder or s3://; default: next to the database."),
]
Who = Annotated[str, typer.Option(help="Your name, for the audit.")]
Why = Annotated[str, typer.Option(help="For the audit.")]


def open_service(database: str, files: str | None) -> Service:
    """The parts of a service that is there, without its web server; nothing is migrated."""
    from leaderboard.database.store import Store
    from leaderboard.service.service import Service
    from leaderboard.web.server import files_of
    from pipelines.storage.open import open_store

    os.umask(0o077)
    return Service(Store(database, migrate=False), open_store(files or files_of(database)))


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    database: Database = DEFAULT,
    files: Files = None,
    checks: Annotated[
        int, typer.Option(min=0, help="Processes that check; 0 where others do.")
    ] = 1,
    max_upload: Annotated[int, typer.Option(min=1, help="Largest bundle in MiB.")] = 1024,
    uploads_per_hour: Annotated[int, typer.Option(min=1, help="For one token.")] = 60,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="As --trusted-proxy 127.0.0.1.")
    ] = False,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address or network whose X-Forwarded-* is believed; may be repeated."),
    ] = None,
    public_url: Annotated[
        str, typer.Option(help="https://HOST as people reach it; other hosts get 400.")
    ] = "",
    head_seconds: Annotated[
        float, typer.Option(min=0.1, help="For a request's line and headers.")
    ] = 10.0,
    eval_data: Annotated[
        Path | None,
        typer.Option(help="Evaluation data of our own, to show what the questions were."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="A file, rotated at 10 MiB; else standard error.")
    ] = None,
    log_requests: Annotated[bool, typer.Option(help="One line for each request.")] = True,
) -> None:
    """Serve the board, its API and its pages; check what is submitted."""
    gc.disable()  # the libraries make a million objects, none of them garbage; `run_server` enables
    from leaderboard.submissions.bundle import Limits
    from leaderboard.web.connections import networks
    from leaderboard.web.server import Serving
    from leaderboard.web.server import serve as run_server

    proxies = [*(trusted_proxy or []), *(["127.0.0.1"] if behind_proxy else [])]
    if eval_data is not None and not eval_data.is_dir():
        raise typer.BadParameter(f"--eval-data: there is no folder {eval_data}")
    try:
        networks(proxies)
    except ValueError as error:
        raise typer.BadParameter(
            f"--trusted-proxy: {error}; write 10.0.0.7 or 10.0.0.0/8"
        ) from None
    run_server(
        database=database,
        files=files,
        limits=Limits(bundle_bytes=max_upload << 20),
        serving=Serving(
            host=host,
            port=port,
            checks=checks,
            uploads_per_hour=uploads_per_hour,
            trusted_proxies=tuple(proxies),
            public_url=public_url,
            head_seconds=head_seconds,
            eval_data=str(eval_data.resolve()) if eval_data else "",
            log=log,
            log_requests=log_requests,
        ),
    )


def migrate(database: Database = DEFAULT) -> None:
    """Bring a database to the version of this program; make a backup first."""
    from leaderboard.database.store import Store

    store = Store(database)
    out(f"{store.shown} has version {store.version()}")
    store.close()


def backup(
    folder: Annotated[Path, typer.Argument(help="Where the copy goes.")],
    bundles: Annotated[
        bool, typer.Option("--bundles", help="Only the bundles; the database has its own tools.")
    ] = False,
    database: Database = DEFAULT,
    files: Files = None,
) -> None:
    """Copy a service that runs, so that it can be started from the copy."""
    from leaderboard.service.backup import backup as run_backup
    from leaderboard.service.backup import copy_bundles
    from pipelines.storage.open import open_store

    service = open_service(database, files)
    if bundles:
        copied = copy_bundles(service.store, service.files, open_store(folder / "board-files"))
    else:
        copied = run_backup(service, folder)
    service.store.close()
    out(f"{copied.number:,} bundles in {folder}")
    if copied.missing:
        lines = "\n".join(copied.missing)
        fail(f"{len(copied.missing)} bundles are missing here; all others are copied:\n{lines}", 3)


def prune(
    days: Annotated[
        float, typer.Option(min=0, help="How long refused and withdrawn bundles are kept.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    database: Database = DEFAULT,
    files: Files = None,
    json: Json = False,
) -> None:
    """Remove broken uploads, files that nothing names, and bundles refused long ago."""
    from leaderboard.service.prune import prune as run_prune

    service = open_service(database, files)
    pruned = run_prune(service, days=days, dry_run=dry_run)
    service.store.close()
    if json:
        show_json(pruned)
        return
    parts = (len(pruned.uploads), len(pruned.bundles), len(pruned.evidence))
    verb = "would be removed" if dry_run else "removed"
    out("{} broken uploads, {} bundles, {} files of evidence".format(*parts) + f" {verb}")
    out(f"{pruned.num_bytes:,} bytes")


def recompute(
    ids: Annotated[list[str] | None, typer.Argument(help="Submissions; default: all.")] = None,
    who: Who = "maintainer",
    database: Database = DEFAULT,
    files: Files = None,
    json: Json = False,
) -> None:
    """Compute rows and pages again from the stored bundles, as after a new suite version."""
    from leaderboard.service.recompute import recompute as run_recompute

    service = open_service(database, files)
    recomputed = list(run_recompute(service, ids or (), who=who))
    service.store.close()
    if json:
        show_json(recomputed)
    else:
        lines = [
            (
                change.id,
                f"{change.before:.4f}",
                f"{change.after:.4f}",
                "; ".join(map(str, change.faults))[:60],
            )
            for change in recomputed
        ]
        out(table(lines, header=("id", "before", "now", "faults")))
    if any(change.faults for change in recomputed):
        fail("some no longer pass; their rows are as they were", BAD_DATA)


def nearest(
    id: Annotated[str, typer.Argument(help="A submission whose dataset is public.")],
    index: Annotated[str, typer.Argument(help="The folder that `pipelines index` made of it.")],
    questions: Annotated[
        int, typer.Option(min=1, max=5000, help="Wrong answers of each task to look for.")
    ] = 200,
    who: Who = "maintainer",
    database: Database = DEFAULT,
    files: Files = None,
    json: Json = False,
) -> None:
    """Find the training documents nearest to wrong questions; pages of questions show them."""
    from leaderboard.service.nearest import write_nearest

    service = open_service(database, files)
    written = list(write_nearest(service, service.store.get(id), index, most=questions))
    service.store.shown_anew(id, who=who, why="the nearest documents of wrong questions")
    service.store.close()
    if json:
        show_json(written)
        return
    lines = [
        (
            entry.task,
            len(entry.looked),
            len(entry.near),
            f"{max((near.share for near in entry.near), default=0.0):.2f}",
        )
        for entry in written
    ]
    out(table(lines, header=("task", "wrong questions", "with a document", "largest share")))


def forget(
    id: Annotated[str, typer.Argument(help="A submission.")],
    who: Who = "maintainer",
    database: Database = DEFAULT,
    files: Files = None,
) -> None:
    """Remove a submission's names, bundle and evidence; the audit keeps only that it was there."""
    from leaderboard.database.people import forget as run_forget
    from leaderboard.service.evidence import folder_of

    service = open_service(database, files)
    folder = folder_of(service.store.get(id))
    bundle = run_forget(service.store, id, who=who)
    names = [bundle, *(entry.name for entry in service.files.list(folder))] if bundle else []
    for name in names:
        service.files.remove(name)
    service.store.close()
    out(f"submission {id} is forgotten; {len(names)} files are removed")


@teams.command("show")
def team_show(
    name: Annotated[str, typer.Argument(help="A team.")],
    database: Database = DEFAULT,
    json: Json = False,
) -> None:
    """What a team has sent, and what it may."""
    from leaderboard.database.people import team_of
    from leaderboard.database.store import Store

    team = team_of(Store(database, migrate=False), name)
    if json:
        show_json(team)
        return
    state = f"banned: {team.why}" if team.banned else "may submit"
    out(f"{team.name}: {team.submissions} submissions, {state}")
    out(f"{team.used_bytes:,} of {team.quota_bytes:,} bytes")


@teams.command("ban")
def team_ban(
    name: Annotated[str, typer.Argument(help="A team.")],
    why: Why = "",
    lift: Annotated[bool, typer.Option("--lift", help="Let it submit again.")] = False,
    who: Who = "maintainer",
    database: Database = DEFAULT,
) -> None:
    """Keep a team from submitting; its rows stay until they are refused."""
    from leaderboard.database.people import decide
    from leaderboard.database.store import Store

    decide(Store(database, migrate=False), name, banned=not lift, why=why, who=who)
    out(f"team {name} may submit" if lift else f"team {name} is banned")


@teams.command("quota")
def team_quota(
    name: Annotated[str, typer.Argument(help="A team.")],
    gib: Annotated[float, typer.Argument(min=0, help="GiB of bundles it may have here.")],
    why: Why = "",
    who: Who = "maintainer",
    database: Database = DEFAULT,
) -> None:
    """Say how many bytes of bundles a team may have here."""
    from leaderboard.database.people import decide
    from leaderboard.database.store import Store

    num_bytes = int(gib * (1 << 30))
    decide(Store(database, migrate=False), name, quota_bytes=num_bytes, why=why, who=who)
    out(f"team {name} may have {num_bytes:,} bytes")


@teams.command("rename")
def team_rename(
    old: Annotated[str, typer.Argument(help="As it is called now.")],
    new: Annotated[str, typer.Argument(help="As it shall be called.")],
    why: Why = "",
    who: Who = "maintainer",
    database: Database = DEFAULT,
) -> None:
    """Give a team another name, in its tokens and its rows."""
    from leaderboard.database.people import rename
    from leaderboard.database.store import Store
    from leaderboard.submissions.names import name_fault

    if problem := name_fault(new):
        raise typer.BadParameter(problem)
    number = rename(Store(database, migrate=False), old, new, who=who, why=why)
    out(f"{number} submissions are of {new} now")


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into an application."""
    for command in (serve, migrate, backup, prune, recompute, nearest, forget):
        app.command()(command)
    app.add_typer(teams, name="team")
