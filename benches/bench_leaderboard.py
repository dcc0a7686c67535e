"""The service under load: 10,000 submissions, 32 readers, 200 senders, a kill.

    python benches/bench_leaderboard.py [--submissions 10000] [--seconds 20] [--keep DIR]
        [--postgresql URL] [--requests 100000]

1. Check: some bundles go through `Service.receive` and the validator, and are accepted.
2. Fill: so many submissions of CORE's size (see `leaderboard_fill`). SQLite, synchronous=FULL, or
   databases of a PostgreSQL server, which the bench makes and drops.
3. Start: until the first board page, without and with the pages that were kept, and until the
   service is ready (`/readyz`): the readers of the next step come then.
4. Read: 32 clients, each with one connection, ask for the board page in a closed loop, while the
   clients run in two processes on the same machine. Once one address, once a mix of 64 views
   (pages, columns, searches, versions) of which none is kept when it starts. Clients take gzip, as
   every browser does. Beside each figure the CPU time of the service for one request: it hardly
   depends on what else the machine does.
5. Memory: `--requests` more of them, and how much the service's processes grow.
6. Send: 200 bundles at once, each by a thread of its own; all must be there, none twice.
7. Kill: SIGKILL amid 100 uploads; after a restart every acknowledged one is there and whole.

Bars: board p99 < 100 ms, also over 64 views; a submission's page < 200 ms; the board as JSON
< 300 ms; restart to the first page < 3 s; memory flat; no page over 500 ms beside 200 uploads.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benches.leaderboard_fill import SCALE, Databases, fill_board  # noqa: E402
from leaderboard.database.auth import create_token  # noqa: E402
from leaderboard.database.states import StoredSubmission  # noqa: E402
from leaderboard.database.store import Store  # noqa: E402
from leaderboard.service.service import Service  # noqa: E402
from leaderboard.submissions.bundle import open_bundle  # noqa: E402
from pipelines.storage.open import open_store  # noqa: E402
from tests.leaderboard.made_up import make_zip  # noqa: E402

BUILD = ROOT / "build" / "bench"
BOARD = f"/boards/dclm/{SCALE}/filtering"
SMALL_BOARD = "/boards/dclm/tiny/filtering"
GZIP = {"Accept-Encoding": "gzip"}
CLIENTS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--checked", type=int, default=100, help="by the validator, of tiny size")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=20_000, help="for the memory's growth")
    parser.add_argument("--postgresql", default="", help="postgresql://USER:PASSWORD@HOST/NAME")
    parser.add_argument("--keep", type=Path, help="fill here, or read what was filled here before")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="bench-leaderboard-"))
    folder.mkdir(parents=True, exist_ok=True)
    databases = Databases(arguments.postgresql)
    begun = os.getloadavg()[0]
    database = databases.of(folder, keep=arguments.keep is not None)
    rows = fill(folder, database, arguments.checked, arguments.submissions)
    rows += read(folder, database, arguments.seconds, arguments.requests)
    rows += send(folder / "send", databases.of(folder / "send"), 200)
    rows += kill(folder / "kill", databases.of(folder / "kill"), 100)
    measured = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"load {begun:.1f} before and {os.getloadavg()[0]:.1f} after, "
        f"{'PostgreSQL' if arguments.postgresql else 'SQLite'}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    name = "leaderboard_postgresql" if arguments.postgresql else "leaderboard"
    (BUILD / f"{name}.json").write_text(json.dumps(measured, indent=2) + "\n")
    if arguments.keep is None:
        shutil.rmtree(folder)
    databases.drop()
    failed = [row["work"] for row in rows if row.get("holds") is False]
    if failed:
        raise SystemExit(f"does not hold: {'; '.join(failed)}")


def figure(work: str, ours: float, unit: str, *, holds: bool | None = None) -> dict[str, Any]:
    shown = round(ours, 3)
    mark = {None: "", True: "", False: "  MISSED"}[holds]
    sys.stdout.write(f"{work:62s} {shown:>12,} {unit}{mark}\n")
    sys.stdout.flush()
    return {"work": work, "ours": shown, "unit": unit, "peer": None, "holds": holds}


# ---- fill


def fill(folder: Path, database: str, checked: int, number: int) -> list[dict[str, Any]]:
    """Some submissions through the validator and the others beside it, unless they are here."""
    store = Store(database)
    service = Service(store, open_store(f"{folder}/files"))
    rows = []
    if not any(board.scale == "tiny" for board in store.boards()):
        rows += check(service, checked)
    start = _cpu()
    fill_board(service, folder / "files", number)
    accepted = sum(board.number for board in store.boards())
    rows.append(figure("submissions on the board", accepted, "rows"))
    if _cpu() - start > 1:
        rows.append(figure("questions in the log of each seed", 105_079, "rows"))
        rows.append(figure("fill the board", _cpu() - start, "CPU s"))
    store.close()
    return rows


def check(service: Service, number: int) -> list[dict[str, Any]]:
    """So many through the validator."""
    token, _ = create_token(service.store, "bench", scopes=["submit"], team="a team")
    scratch = Path(tempfile.mkdtemp(prefix="bench-made-"))
    taken = 0.0
    for k in range(number):
        path = make_zip(
            scratch,
            method="no_filter" if k == 0 else f"method {k:05d}",
            skill=0.3 + 0.6 * ((k * 7919) % number) / number,
            chance=k,
            seeds=(124, 125) if k % 10 == 0 else None,
        )
        start = _cpu()
        submission, _new = service.receive(path, token)
        assert service.check_next("bench") is not None
        service.store.move(submission.id, "accepted", who="bench")
        taken += _cpu() - start
        path.unlink()
        shutil.rmtree(path.with_suffix(""))
    shutil.rmtree(scratch)
    return [
        figure("submissions that went through the validator", number, "rows"),
        figure("receive, check and accept one", 1000 * taken / max(number, 1), "CPU ms"),
    ]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ---- a server


class Server:
    """`leaderboard serve` as it is started by hand."""

    def __init__(self, folder: Path, *more: str, checks: int = 1, database: str = "") -> None:
        self.database = database or f"sqlite:///{folder}/board.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "leaderboard", "serve", "--port", str(self.port)]
        command += ["--files", f"{folder}/files"]
        command += ["--checks", str(checks), "--uploads-per-hour", "100000", *more]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"LEADERBOARD_DATABASE": self.database},
            start_new_session=True,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if self.get("/healthz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        self.kill()
        raise RuntimeError("the server did not start")

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """The server and what it started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        more = [path.read_text() for path in children.parents[1].glob("*/children")]
        return [self.process.pid, *(int(number) for text in more for number in text.split())]

    def memory(self) -> int:
        """Bytes that the server and its processes have in memory now."""
        files = [Path(f"/proc/{number}/statm") for number in self.processes()]
        pages = sum(int(file.read_text().split()[1]) for file in files)
        return pages * resource.getpagesize()

    def cpu(self) -> float:
        """Seconds of processor time that the server and its processes have taken."""
        total = 0
        for number in self.processes():
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """The server alone, as a machine would; its checks notice that it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


# ---- read


def client(port: int, paths: list[str], seconds: float, clients: int) -> list[float]:
    """Latencies in seconds of some clients, each with one connection, in a closed loop."""
    seconds_of: list[list[float]] = [[] for _ in range(clients)]
    until = time.monotonic() + seconds

    def ask_repeatedly(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        k = number * 13
        while time.monotonic() < until:
            path = paths[k % len(paths)]
            k += 1
            start = time.perf_counter()
            connection.request("GET", path, headers=GZIP)
            answer = connection.getresponse()
            body = answer.read()
            seconds_of[number].append(time.perf_counter() - start)
            assert answer.status == 200, (answer.status, path, body[:200])
        connection.close()

    threads = [threading.Thread(target=ask_repeatedly, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [value for some in seconds_of for value in some]


OTHER = "core_v1"  # an aggregate that is not the headline


def views() -> list[str]:
    """64 different views of the board."""
    addresses = [f"{BOARD}?offset={50 * page}" for page in range(16)]
    for sort in ("method", "size", "date", "stderr", "baseline", "hellaswag_zeroshot"):
        addresses += [f"{BOARD}?sort={sort}&order={order}" for order in ("up", "down")]
    addresses += [f"{BOARD}?metric={OTHER}&offset={50 * page}" for page in range(16)]
    addresses += [f"{BOARD}?q=method+0{page:02d}" for page in range(20)]
    return addresses


def read(folder: Path, database: str, seconds: float, requests: int) -> list[dict[str, Any]]:
    """Pages and JSON under load; what comes back is what the bars are about."""
    store = Store(database, migrate=False)
    accepted = store.find(states=["accepted"], limit=64)
    ids = [item.id for item in accepted if item.kind == "submission"]
    store.close()
    for kept in ("pages", "standings"):
        shutil.rmtree(folder / "files" / kept, ignore_errors=True)
    rows = []
    never_kept = f"{BOARD}?sort=size&order=down&limit=20&kind=submission"
    starts: list[tuple[str, str, float | None]] = [
        ("the first start to the first board page", BOARD, None),
        ("restart to the first board page", BOARD, 3.0),
        ("restart to a page that was not kept", never_kept, 3.0),
    ]
    for name, page, bound in starts:
        start = time.perf_counter()
        server = Server(folder, checks=0, database=database)
        assert server.get(page)[0] == 200
        taken = time.perf_counter() - start
        holds = None if bound is None else taken < bound
        rows.append(figure(name, taken, "s", holds=holds))
        rows.append(figure(f"{name}, processor", server.cpu(), "CPU s"))
        while server.get("/readyz")[0] != 200:  # at the latest after two minutes
            time.sleep(0.2)
        taken = time.perf_counter() - start
        rows.append(figure(name.partition(" to ")[0] + " until it is ready", taken, "s"))
        if page == BOARD:
            server.stop()
    kinds: list[tuple[str, list[str], float]] = [
        ("board page", [BOARD], 100.0),
        ("64 views, none kept at first", views(), 100.0),
        ("a submission's page", [f"/submissions/{id_}" for id_ in ids], 200.0),
        ("board as JSON", [f"/api/v1{BOARD}?limit=1000"], 300.0),
    ]
    try:
        for name, paths, bound in kinds:
            rows += under_load(server, name, paths, seconds, bound)
        rows += growth(server, requests)
    finally:
        server.stop()
    return rows


def growth(server: Server, requests: int) -> list[dict[str, Any]]:
    """How the memory grows over many requests, measured at four points."""
    at = [server.memory()]
    number = 0
    for quarter in range(1, 5):
        while number < quarter * requests / 4:
            number += len(client(server.port, views()[:16], 2.0, CLIENTS // 2))
        at.append(server.memory())
    grown = (at[-1] - at[0]) / 1e6
    slope = (at[-1] - at[1]) / 1e3 / (number * 3 / 4) * 1000
    return [
        figure("memory of all processes of the service", at[-1] / 1e6, "MB"),
        figure(f"memory grown over {number:,} more requests", grown, "MB", holds=grown < 20),
        figure("of these the last three quarters, for 1,000 requests", slope, "kB"),
    ]


def under_load(
    server: Server, name: str, paths: list[str], seconds: float, bound: float
) -> list[dict[str, Any]]:
    """Requests of all clients for some seconds; p99 has a bound in milliseconds."""
    before = server.cpu()
    with ProcessPoolExecutor(2) as pool:
        halves = [pool.submit(client, server.port, paths, seconds, CLIENTS // 2) for _ in (0, 1)]
        times = sorted(value for half in halves for value in half.result())
    own = 1000 * (server.cpu() - before) / len(times)
    at = {q: 1000 * times[int(q * (len(times) - 1))] for q in (0.5, 0.99)}
    return [
        figure(f"{name}: requests per second", len(times) / seconds, "1/s"),
        figure(f"{name}: of the service for one request", own, "CPU ms"),
        figure(f"{name}, {CLIENTS} clients: p50", at[0.5], "ms"),
        figure(f"{name}, {CLIENTS} clients: p99", at[0.99], "ms", holds=at[0.99] < bound),
    ]


# ---- send


def upload(port: int, secret: str, path: Path) -> tuple[int, str]:
    """Send a bundle; its status and the id it was given, or what went wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/zip"}
    try:
        connection.request("POST", "/api/v1/submissions", path.read_bytes(), headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, content.get("id", content.get("error", ""))
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def prepare(folder: Path, database: str, number: int) -> tuple[list[Path], str]:
    if database.startswith("sqlite"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    paths = [
        make_zip(folder / "made", method=f"sent {k}", chance=k, skill=0.5) for k in range(number)
    ]
    store = Store(database)
    secret = create_token(store, "bench", scopes=["submit"], team="a team")[1]
    store.close()
    return paths, secret


def all_at_once(port: int, secret: str, paths: list[Path]) -> list[tuple[int, str]]:
    answers: list[tuple[int, str]] = [(0, "")] * len(paths)
    ready = threading.Barrier(len(paths))

    def send_one(number: int) -> None:
        ready.wait()
        answers[number] = upload(port, secret, paths[number])

    threads = [threading.Thread(target=send_one, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def settled(folder: Path, seconds: float = 300, *, database: str = "") -> dict[str, int]:
    """The states, once nothing waits for a check any more."""
    store = Store(database or f"sqlite:///{folder}/board.db", migrate=False)
    until = time.monotonic() + seconds
    counts = store.counts()
    while time.monotonic() < until:
        counts = store.counts()
        if not counts.get("received") and not counts.get("checking"):
            break
        time.sleep(0.1)
    store.close()
    return counts


def sent(store: Store) -> dict[str, StoredSubmission]:
    """What was uploaded, without the reference rows of a new service."""
    return {item.id: item for item in store.find(limit=1000) if item.kind == "submission"}


def beside(port: int, path: str) -> list[float]:
    """Seconds of single page views, each with a connection of its own, until `over` is set."""
    times = []
    while not OVER.is_set():
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers=GZIP)
        connection.getresponse().read()
        connection.close()
        times.append(time.perf_counter() - begin)
        time.sleep(0.02)
    return times


OVER = multiprocessing.Event()


def send(folder: Path, database: str, number: int) -> list[dict[str, Any]]:
    """So many bundles at once, while a reader in a process of its own asks for a page."""
    paths, secret = prepare(folder, database, number)
    server = Server(folder, database=database)
    server.get(SMALL_BOARD)
    OVER.clear()
    try:
        # Forked, so that it has `OVER`; nothing of this process runs in threads yet.
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            reader = pool.submit(beside, server.port, SMALL_BOARD)
            start = time.perf_counter()
            answers = all_at_once(server.port, secret, paths)
            taken = time.perf_counter() - start
            OVER.set()
            slow = reader.result()
        counts = settled(folder, database=database)
        checked = time.perf_counter() - start
    finally:
        OVER.set()
        server.stop()
    worst = 1000 * max(slow, default=0.0)
    created = sum(status == 201 for status, _ in answers)
    ids = Counter(id_ for _, id_ in answers)
    holds = created == number == len(ids) and counts.get("needs_review") == number
    return [
        figure(f"{number} uploads at once: taken in", created, "bundles", holds=holds),
        figure(f"{number} uploads at once: different ids", len(ids), "ids", holds=holds),
        figure(f"{number} uploads at once: all answered after", taken, "s"),
        figure(f"slowest of {len(slow)} pages meanwhile", worst, "ms", holds=worst < 500),
        figure(f"{number} uploads at once: all checked after", checked, "s"),
    ]


def kill(folder: Path, database: str, number: int) -> list[dict[str, Any]]:
    """SIGKILL when about a third of the uploads is acknowledged."""
    paths, secret = prepare(folder, database, number)
    server = Server(folder, database=database)
    answers: list[tuple[int, str]] = [(0, "")] * number
    acknowledged = threading.Semaphore(0)
    ready = threading.Barrier(number + 1)

    def send_one(position: int) -> None:
        ready.wait()
        answers[position] = upload(server.port, secret, paths[position])
        if answers[position][0] == 201:
            acknowledged.release()

    threads = [threading.Thread(target=send_one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    ready.wait()
    for _ in range(number // 3):
        acknowledged.acquire()
    server.kill()
    for thread in threads:
        thread.join()
    sure = [id_ for status, id_ in answers if status == 201]
    again = Server(folder, database=database)
    try:
        settled(folder, database=database)
        store = Store(database, migrate=False)
        size = sent(store)
        broken = 0
        for one_held in size.values():
            path = folder / "files" / one_held.bundle
            whole = hashlib.sha256(path.read_bytes()).hexdigest() == one_held.bundle_sha256
            broken += not (whole and open_bundle(path).record.id == one_held.id)
            broken += one_held.state != "needs_review"
        store.close()
        rest = [upload(again.port, secret, path) for path in paths]
        settled(folder, database=database)
        store = Store(database, migrate=False)
        total = len(sent(store))
        store.close()
    finally:
        again.stop()
    lost = len(set(sure) - set(size))
    return [
        figure(f"killed amid {number} uploads: acknowledged", len(sure), "bundles"),
        figure("of these lost", lost, "bundles", holds=lost == 0),
        figure("half or unchecked after the restart", broken, "bundles", holds=broken == 0),
        figure(
            "all sent again: submissions in the end",
            total,
            "bundles",
            holds=total == number and all(status in (200, 201) for status, _ in rest),
        ),
    ]


if __name__ == "__main__":
    main()
