"""A whole round at real scale, with little data: `make rehearsal`.

Both benchmarks at their unranked scale `rehearsal`, everything but the sizes real: WARC files and a
pool of pairs in a bucket of an S3 server, a Ray cluster of a head and two nodes that declare a GPU
each, `extract`, then one `run` command for the round, whose driver is killed once in every stage
and started again; one node leaves while a dataset is curated. The bundles go to a running service,
are accepted by its rules and reviewer, and stand on its board with their lineage back to the pool.

Prints one table: what each stage took and where it ran; next to it the plan's projection for the
real scale. Ends with 1 and names the stage when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from botocore.exceptions import ClientError  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from pipelines.console import table  # noqa: E402
from pipelines.storage.base import Store, write_bytes  # noqa: E402
from pipelines.storage.open import open_store  # noqa: E402
from tests.s3_server import S3Server, free_ports  # noqa: E402

PIPELINES = Path(__file__).parent / "rehearsal"
BUCKET = "rehearsal"
WORKSPACE = f"s3://{BUCKET}/me"
SCALE = "rehearsal"
PIPELINE_NAMES = {"dclm": "rehearsal_text", "datacomp": "rehearsal_pairs"}
REAL = {"dclm": "400m-1x", "datacomp": "small"}
STAGE_SECONDS = 1200.0
OBJECT_STORE_BYTES = 200 << 20


class RehearsalFailed(Exception):
    """A stage did not do what it should; the message names it."""


@dataclass
class Row:
    """One line of the table."""

    stage: str
    where: str
    seconds: float
    cpu_seconds: float
    num_bytes: int = 0
    restarts: int = 0


@dataclass
class Rehearsal:
    """The servers, the environment of every command, and what was measured."""

    folder: Path
    server: S3Server
    cluster: Cluster
    nodes: list[Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.server.environment, **scratch(self.folder)}

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command of its own process group, its output appended to `log.txt`."""
        log = open(self.folder / "log.txt", "ab")  # noqa: SIM115 - the child keeps it
        log.write(f"\n$ {' '.join(arguments)}\n".encode())
        log.flush()
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def call(self, stage: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """Run a command to its end; its standard output."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment | (environment or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=STAGE_SECONDS,
        )
        if done.returncode:
            raise RehearsalFailed(f"{stage}: {' '.join(arguments)}\n{done.stderr[-3000:]}")
        return done.stdout

    @contextlib.contextmanager
    def measured(self, stage: str, where: str, *, restarts: int = 0) -> Iterator[Row]:
        """Time a stage; processor time is the machine's, other work included."""
        row = Row(stage, where, time.monotonic(), machine_cpu(), restarts=restarts)
        say(f"{stage} ...")
        yield row
        row.seconds = time.monotonic() - row.seconds
        row.cpu_seconds = machine_cpu() - row.cpu_seconds
        self.rows.append(row)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def scratch(folder: Path) -> dict[str, str]:
    return {"CURATION_SCRATCH": str(folder / "scratch"), "RAY_USAGE_STATS_ENABLED": "0"}


def machine_cpu() -> float:
    """Seconds that the processors of this machine have worked, user and system."""
    with open("/proc/stat") as file:
        user, nice, system = file.readline().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def upload(folder: Path, uri: str, *, pattern: str = "**/*") -> int:
    """Copy files below a folder into the bucket; how many bytes."""
    store, total = open_store(uri), 0
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            data = path.read_bytes()
            total += len(data)
            write_bytes(store, str(path.relative_to(folder)), data)
    return total


def size_of(store: Store, prefix: str) -> int:
    return sum(entry.num_bytes for entry in store.list(prefix))


def names_in(store: Store) -> set[str]:
    return {entry.name for entry in store.list()}


def seen(stage: str, names: set[str]) -> tuple[bool, bool]:
    """Whether a stage has begun to leave objects, and whether its record is there."""
    folder = {"curate": "/dataset/", "pack": "/packed-", "train": "/model-", "evaluate": "/scores-"}
    own = [name for name in names if folder[stage] in f"/{name}"]
    ended = any(name.endswith("/record.json") for name in own)
    if stage == "train":
        return any(name.endswith("snapshot.json") for name in own) or ended, ended
    return bool(own), ended


def play(rehearsal: Rehearsal, benchmark: str, arguments: Sequence[str]) -> None:
    """One `run` command, killed once in each of its stages and started again until it is done."""
    store = open_store(f"{WORKSPACE}/{benchmark}-{SCALE}")
    where = {
        "curate": "Ray tasks; a node left" if benchmark == "dclm" else "Ray tasks",
        "pack": "Ray tasks",
        "train": "Ray Train, 2 processes",
        "evaluate": "Ray tasks",
    }
    process = rehearsal.start(*arguments)
    try:
        for stage in where:
            with rehearsal.measured(f"{benchmark} {stage}", where[stage]) as row:
                killed = False
                deadline = time.monotonic() + STAGE_SECONDS
                while True:
                    begun, ended = seen(stage, names_in(store))
                    if ended:
                        break
                    code = process.poll()
                    if code is not None:
                        raise RehearsalFailed(
                            f"{benchmark} {stage}: the command ended with {code}; see "
                            f"{rehearsal.folder / 'log.txt'}"
                        )
                    if time.monotonic() > deadline:
                        raise RehearsalFailed(f"{benchmark} {stage}: not done in {STAGE_SECONDS}s")
                    if begun and not killed:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()
                        killed, row.restarts = True, 1
                        if stage == "curate" and benchmark == "dclm":
                            rehearsal.cluster.remove_node(rehearsal.nodes.pop())
                            rehearsal.nodes.append(add_node(rehearsal.cluster))
                        process = rehearsal.start(*arguments)
                    time.sleep(0.3)
                folder = {"curate": "dataset/", "pack": "packed-", "train": "model-"}
                part = folder.get(stage, "scores-")
                row.num_bytes = sum(e.num_bytes for e in store.list() if f"/{part}" in e.name)
        with rehearsal.measured(f"{benchmark} submit", "this machine"):
            code = process.wait(timeout=STAGE_SECONDS)
            if code:
                raise RehearsalFailed(
                    f"{benchmark} submit: the command ended with {code}; see "
                    f"{rehearsal.folder / 'log.txt'}"
                )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES)


def extract(rehearsal: Rehearsal) -> None:
    """WARC files of the bucket into the pool of the scale, the driver killed once."""
    arguments = (
        *("dclm", "extract", "--input", f"s3://{BUCKET}/warc"),
        *("--out", f"{WORKSPACE}/pools/dclm-{SCALE}", "--name", "rehearsal", "--quarantine"),
        *("--cluster", rehearsal.cluster.address),
    )
    store = open_store(f"{WORKSPACE}/pools/dclm-{SCALE}")
    with rehearsal.measured("dclm extract", "Ray tasks", restarts=1) as row:
        process = rehearsal.start(*arguments)
        wait_for(lambda: any(store.list("done/")), "dclm extract", process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = rehearsal.start(*arguments)
        if process.wait(timeout=STAGE_SECONDS):
            raise RehearsalFailed(f"dclm extract: see {rehearsal.folder / 'log.txt'}")
        row.num_bytes = size_of(store, "")


def wait_for(
    there: Callable[[], bool], stage: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    deadline = time.monotonic() + STAGE_SECONDS
    while not there():
        if process is not None and process.poll() not in (None, 0):
            raise RehearsalFailed(f"{stage}: the command ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RehearsalFailed(f"{stage}: not done in {STAGE_SECONDS}s")
        time.sleep(0.2)


# ---- the board


@contextlib.contextmanager
def service(rehearsal: Rehearsal) -> Iterator[tuple[str, str, str]]:
    """A running board; its address, its database, and a token that may submit."""
    [port] = free_ports(1)
    database = f"sqlite:///{rehearsal.folder / 'board.db'}"
    rehearsal.call("board", "leaderboard", "migrate", "--database", database)
    made = rehearsal.call(
        "board",
        *("leaderboard", "token", "create", "rehearsal", "--scope", "submit"),
        *("--team", "rehearsal", "--database", database, "--json"),
    )
    process = rehearsal.start("leaderboard", "serve", "--port", str(port), "--database", database)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/readyz"), "board", process)
        yield address, database, json.loads(made)["secret"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def read(url: str, secret: str = "") -> Any:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def show_on_board(rehearsal: Rehearsal, benchmark: str) -> None:
    """Upload the bundle, accept it, and see the row and its lineage on the board."""
    stage = f"{benchmark} board"
    submissions = rehearsal.folder / "runs" / BUCKET / "me" / "submissions"
    with rehearsal.measured(stage, "service and its check"), service(rehearsal) as board:
        address, database, secret = board
        store = open_store(f"{WORKSPACE}/{benchmark}-{SCALE}")
        scores = [e.name.rpartition("/")[0] for e in store.list() if is_scores(e.name)]
        if len(scores) != 1:
            raise RehearsalFailed(f"{stage}: expected one folder of scores, found {scores}")
        sent = rehearsal.call(
            stage,
            *(benchmark, "submit", "--scale", SCALE, "--method", PIPELINE_NAMES[benchmark]),
            *("--scores", f"{store.uri}/{scores[0]}", "--out", str(submissions)),
            *("--team", "rehearsal", "--workspace", WORKSPACE, "--to", address, "--json"),
            environment={"LEADERBOARD_TOKEN": secret},
        )
        id_ = json.loads(sent[: sent.rindex("}") + 1])["id"]
        url = f"{address}/api/v1/submissions/{id_}"
        wait_for(lambda: read(url, secret)["state"] not in ("received", "checking"), stage)
        state = read(url, secret)
        if state["state"] == "needs_review":
            rehearsal.call(
                stage,
                *("leaderboard", "review", id_, "--accept", "--why", "the rehearsal"),
                *("--database", database),
            )
            state = read(url, secret)
        if state["state"] != "accepted":
            raise RehearsalFailed(f"{stage}: {json.dumps(state)[:3000]}")
        row = read(f"{url}/row")
        kinds = {record["kind"] for record in row.get("chain", [])} or chain_kinds(submissions, id_)
        if not {"pool", "dataset", "packed", "model", "scores"} <= kinds:
            raise RehearsalFailed(f"{stage}: the lineage holds only {sorted(kinds)}")
        shown = read(f"{address}/api/v1/boards/{benchmark}/{SCALE}/filtering")
        if id_ not in json.dumps(shown):
            raise RehearsalFailed(f"{stage}: the row is not on the board of {SCALE}")


def is_model(name: str) -> bool:
    return name.endswith("/record.json") and "/model-" in name


def is_scores(name: str) -> bool:
    return name.endswith("/record.json") and "/scores-" in name


def chain_kinds(submissions: Path, id_: str) -> set[str]:
    record = json.loads((submissions / id_ / "submission.json").read_bytes())
    return {link["kind"] for link in record["chain"]}


# ---- all of it


def prepare(rehearsal: Rehearsal, base: str, warc: Path | None, images: Path) -> None:
    """The pools of the tiny scale as files of a bucket, and generated image tasks."""
    with rehearsal.measured("pools into the bucket", "this machine") as row:
        for benchmark in ("dclm", "datacomp"):
            rehearsal.call(
                "pools", benchmark, "pool", "--scale", "tiny", "--workspace", base, "--json"
            )
        rehearsal.call("pools", "dclm", "train-quality", "--scale", "tiny", "--workspace", base)
        pools = Path(base) / "pools"
        row.num_bytes = upload(pools / "dclm-tiny" / "sources" / "warc", f"s3://{BUCKET}/warc")
        if warc is not None:
            row.num_bytes += upload(warc, f"s3://{BUCKET}/warc", pattern="*.warc.gz")
        for pattern in ("record.json", "metadata/*", "shards/*"):
            row.num_bytes += upload(
                pools / "datacomp-tiny", f"{WORKSPACE}/pools/datacomp-{SCALE}", pattern=pattern
            )
        desk = rehearsal.folder / "runs" / BUCKET / "me"
        shutil.copytree(Path(base) / "assets", desk / "assets", dirs_exist_ok=True)
        rehearsal.call(
            "pools",
            "evals",
            "synthetic",
            str(PIPELINES / "images.yaml"),
            "--out",
            str(images),
            "--json",
        )


def rehearse(rehearsal: Rehearsal, *, data: Path, base: str, warc: Path | None) -> None:
    images = rehearsal.folder / "image-tasks"
    prepare(rehearsal, base, warc, images)
    extract(rehearsal)
    for benchmark, pipeline, tasks in (
        ("dclm", PIPELINES / "text.yaml", data),
        ("datacomp", PIPELINES / "pairs.yaml", Path(base) / "pools" / "datacomp-tiny" / "eval"),
    ):
        arguments = (
            *(benchmark, "run", "--scale", SCALE, "--pipeline", str(pipeline)),
            *("--workspace", WORKSPACE, "--data", str(tasks), "--team", "rehearsal"),
            *("--cluster", rehearsal.cluster.address, "--processes", "2"),
        )
        play(rehearsal, benchmark, arguments)
        show_on_board(rehearsal, benchmark)
    show_curve(rehearsal, base)
    measure_generated(rehearsal, images)


def measure_generated(rehearsal: Rehearsal, images: Path) -> None:
    """Every kind of image task, on generated folders, by workers that have a GPU each."""
    store = open_store(f"{WORKSPACE}/datacomp-{SCALE}")
    models = [e.name.rpartition("/")[0] for e in store.list() if is_model(e.name)]
    stage = "datacomp generated tasks"
    with rehearsal.measured(stage, "Ray tasks, a GPU each"):
        rehearsal.call(
            stage,
            *("datacomp", "evaluate", f"{store.uri}/{models[0]}"),
            *("--suite", str(PIPELINES / "images.yaml"), "--data", str(images)),
            *("--out", f"{WORKSPACE}/generated", "--cluster", rehearsal.cluster.address, "--json"),
        )


def show_curve(rehearsal: Rehearsal, base: str) -> None:
    """The text model's weights on the way by held-out text: a value for each part."""
    store = open_store(f"{WORKSPACE}/dclm-{SCALE}")
    models = [e.name.rpartition("/")[0] for e in store.list() if is_model(e.name)]
    with rehearsal.measured("dclm checkpoints", "Ray tasks, a GPU each"):
        text = rehearsal.call(
            "dclm checkpoints",
            *("dclm", "evaluate", f"{store.uri}/{models[0]}", "--checkpoint", "all"),
            *("--suite", str(PIPELINES / "curve.yaml"), "--data", f"{base}/pools/dclm-tiny/eval"),
            *("--out", f"{WORKSPACE}/curve", "--cluster", rehearsal.cluster.address, "--json"),
        )
        values = [row["bits_per_byte"] for row in json.loads(text)]
        if len(values) != 5 or values[-1] >= values[0]:
            raise RehearsalFailed(f"dclm checkpoints: expected five falling values, got {values}")


def projection(rehearsal: Rehearsal, benchmark: str) -> str:
    """The plan of the real scale, as its command prints it."""
    return rehearsal.call("plan", benchmark, "plan", "--scale", REAL[benchmark], "--gpus", "8")


def report(rehearsal: Rehearsal) -> str:
    rows = [
        (
            row.stage,
            row.where,
            f"{row.seconds:.0f}",
            f"{row.cpu_seconds:.0f}",
            f"{row.num_bytes / 1e6:.1f}" if row.num_bytes else "-",
            row.restarts,
        )
        for row in rehearsal.rows
    ]
    seconds = sum(row.seconds for row in rehearsal.rows)
    cpu = sum(row.cpu_seconds for row in rehearsal.rows)
    rows.append(("all", "", f"{seconds:.0f}", f"{cpu:.0f}", "", ""))
    header = ("stage", "where", "seconds", "CPU-s", "MB", "restarts")
    return table(rows, header=header)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the text tasks' data")
    parser.add_argument("--warc", type=Path, help="folder with more WARC files for the pool")
    parser.add_argument("--workspace", type=Path, default=ROOT / "build" / "rehearsal")
    parser.add_argument("--base", help="workspace whose tiny pools are used; default: its own")
    parser.add_argument(
        "--resume", action="store_true", help="keep what an earlier rehearsal left, do the rest"
    )
    given = parser.parse_args()
    folder = given.workspace.resolve()
    if not given.resume:
        shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run" / "s3").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "board.db").unlink(missing_ok=True)
    server = S3Server(folder / "run" / "s3")
    server.start()
    os.environ.update(server.environment | scratch(folder / "run"))
    with contextlib.suppress(ClientError):  # it is there when resumed
        server.client().create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
    head = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [add_node(cluster) for _ in range(2)]
        cluster.wait_for_nodes()
        rehearsal = Rehearsal(folder / "run", server, cluster, nodes)
        base = given.base or str(folder / "base")
        try:
            rehearse(rehearsal, data=given.data.resolve(), base=base, warc=given.warc)
        except RehearsalFailed as error:
            say(report(rehearsal))
            sys.exit(f"the rehearsal failed at {error}")
        say(report(rehearsal))
        for benchmark, scale in REAL.items():
            say(f"\n{benchmark} at {scale}, as planned:\n{projection(rehearsal, benchmark)}")
    finally:
        cluster.shutdown()
        server.stop()


if __name__ == "__main__":
    main()
