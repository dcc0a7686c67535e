"""The board of a rehearsal: a service that is killed while a bundle comes in, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.storage.open import open_store
from tests.s3_server import free_ports
from tests.soak.drivers import HoldingRelay
from tests.soak.rehearsal_base import (
    SCALE,
    WORKSPACE,
    Rehearsal,
    RehearsalFailed,
    Row,
    stop,
    wait_for,
)

HELD_BYTES = 16 << 10  # of a bundle, before its connection is held: bundles are ten times larger


@dataclass
class Board:
    """A service with its database, and a token that may submit."""

    rehearsal: Rehearsal
    port: int
    database: str
    secret: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = self.rehearsal.start(
            *("leaderboard", "serve", "--port", str(self.port), "--database", self.database)
        )
        wait_for(lambda: answers(f"{self.address}/readyz"), "board", self.process)

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def read(self, path: str) -> Any:
        return json.loads(self.read_bytes(path))

    def read_bytes(self, path: str, *, root: str = "api/v1/") -> bytes:
        headers = {"Authorization": f"Bearer {self.secret}"}
        request = urllib.request.Request(f"{self.address}/{root}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def running_board(rehearsal: Rehearsal) -> Iterator[Board]:
    [port] = free_ports(1)
    database = f"sqlite:///{rehearsal.folder / 'board.db'}"
    rehearsal.call("board", "leaderboard", "migrate", "--database", database)
    made = rehearsal.call(
        "board",
        *("leaderboard", "token", "create", "rehearsal", "--scope", "submit"),
        *("--team", "rehearsal", "--database", database, "--json"),
    )
    board = Board(rehearsal, port, database, json.loads(made)["secret"])
    try:
        board.start()
        yield board
    finally:
        if board.process is not None:
            board.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                board.process.wait(timeout=30)
            stop(board.process)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def show_on_board(rehearsal: Rehearsal, benchmark: str, method: str) -> None:
    """Upload the bundle, accept it, and see the row and its lineage on the board."""
    stage = f"{benchmark} board"
    with (
        rehearsal.measured(stage, "service and its check") as row,
        running_board(rehearsal) as board,
    ):
        store = open_store(f"{WORKSPACE}/{benchmark}-{SCALE}")
        scores = [e.name.rpartition("/")[0] for e in store.list() if is_scores(e.name)]
        if len(scores) != 1:
            raise RehearsalFailed(f"{stage}: expected one folder of scores, found {scores}")
        again = rehearsal.folder / "submissions-again"
        sent = send(
            board,
            row,
            *(benchmark, "submit", "--scale", SCALE, "--method", method, "--tries", "auto"),
            *("--scores", f"{store.uri}/{scores[0]}", "--out", str(again)),
            *("--team", "rehearsal", "--workspace", WORKSPACE, "--json"),
        )
        id_ = json.loads(sent[: sent.rindex("}") + 1])["id"]
        compare_submissions(stage, rehearsal.desk / "submissions" / id_, again / id_)
        if board.read_bytes(f"submissions/{id_}/bundle") != (again / f"{id_}.zip").read_bytes():
            raise RehearsalFailed(
                f"{stage}: the service has other bytes than the bundle that was sent"
            )
        accept(board, stage, id_)
        check_lineage(board, stage, again / id_)
        shown = board.read(f"boards/{benchmark}/{SCALE}/filtering")
        if json.dumps(shown).count(f'"{id_}"') == 0:
            raise RehearsalFailed(f"{stage}: the row is not on the board of {SCALE}")


def send(board: Board, row: Row, *arguments: str) -> str:
    """Submit through a relay that holds the bundle halfway; the service is killed meanwhile.

    The client is not started again: it sends the bundle once more when the service is back.
    """
    rehearsal = board.rehearsal
    before = {entry["id"] for entry in board.read("submissions")}
    relay = HoldingRelay(board.port, num_bytes=HELD_BYTES)
    output = rehearsal.folder / "sent.txt"
    process = rehearsal.start(
        *arguments,
        "--to",
        relay.url,
        output=output,
        environment={"LEADERBOARD_TOKEN": board.secret},
    )
    try:
        wait_for(lambda: relay.held.is_set() or process.poll() is not None, row.stage, process)
        if not relay.held.is_set() or {e["id"] for e in board.read("submissions")} != before:
            raise RehearsalFailed(f"{row.stage}: the bundle was sent before the service was killed")
        board.kill()
        row.restarts += 1
        board.start()
        rehearsal.finish(row.stage, process)
    finally:
        relay.refuse()
        stop(process)
    new = [e["id"] for e in board.read("submissions") if e["id"] not in before]
    if len(new) != 1:
        raise RehearsalFailed(f"{row.stage}: one bundle sent is {len(new)} submissions: {new}")
    return output.read_text()


def compare_submissions(stage: str, killed: Path, again: Path) -> None:
    """The submission whose driver was killed must hold what an undisturbed one holds."""
    if not killed.is_dir():
        raise RehearsalFailed(f"{stage}: the round submitted something other than {again.name}")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for folder in (again,)
        for path in folder.glob("questions/**/*.parquet")
    }
    other = {
        str(path.relative_to(killed)): path.read_bytes()
        for path in killed.glob("questions/**/*.parquet")
    }
    if not files or files != other:
        raise RehearsalFailed(f"{stage}: {killed} and {again} hold other questions")


def accept(board: Board, stage: str, id_: str) -> None:
    """Wait for the check, review where it is asked for. RehearsalFailed unless accepted."""
    path = f"submissions/{id_}"
    wait_for(lambda: board.read(path)["state"] not in ("received", "checking"), stage)
    state = board.read(path)
    if state["state"] == "needs_review":
        board.rehearsal.call(
            stage,
            *("leaderboard", "review", id_, "--accept", "--why", "the rehearsal"),
            *("--database", board.database),
        )
        state = board.read(path)
    if state["state"] != "accepted":
        raise RehearsalFailed(f"{stage}: {json.dumps(state)[:3000]}")


def is_scores(name: str) -> bool:
    return name.endswith("/record.json") and "/scores-" in name


def check_lineage(board: Board, stage: str, folder: Path) -> None:
    """The submission's page names every record back to the pool."""
    record = json.loads((folder / "submission.json").read_bytes())
    kinds = {link["kind"] for link in record["chain"]}
    if not {"pool", "dataset", "packed", "model", "scores"} <= kinds:
        raise RehearsalFailed(f"{stage}: the lineage holds only {sorted(kinds)}")
    page = board.read_bytes(f"submissions/{record['id']}", root="").decode()
    hidden = [link["kind"] for link in record["chain"] if link["id"][:8] not in page]
    if hidden:
        raise RehearsalFailed(f"{stage}: the submission's page does not name its {hidden}")
