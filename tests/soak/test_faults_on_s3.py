"""Twenty runs on S3, each with one fault at a random moment, end like an undisturbed one.

A worker process is killed, a Ray node is lost, the driver is killed and started again, the S3
server is killed and started again, its connections are refused for ten seconds, its disk is full
(a limit on the size of its files). A run counts only when the fault hit before its last commit; one
that was over too early is done again. Prints the table of `docs/reliability.md`.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")

from pipelines.engine.run_folder import FOLDERS  # noqa: E402
from pipelines.records import parse_record  # noqa: E402
from pipelines.storage.base import Store, write_bytes  # noqa: E402
from pipelines.storage.commits import all_done, unreferenced  # noqa: E402
from pipelines.storage.open import open_store  # noqa: E402
from tests.s3_server import S3Server  # noqa: E402
from tests.soak.flaky import Relay, command_of, descendants  # noqa: E402

pytestmark = [pytest.mark.soak, pytest.mark.s3, pytest.mark.ray]

SHARDS, ROWS = 16, 400  # 6,400 documents
SEED = 5
LIMIT_SECONDS = 300
STARTS = 6  # of one run, at most
STEPS = """
name: soak
steps:
  - line_words: {min_words: 2}
  - word_count: {min_words: 5}
  - exact_dedup
  - minhash_dedup: {verify: 0.5}
  - hash_sample: {fraction: 0.9}
"""
FAULTS: tuple[tuple[str, str], ...] = (
    *[("worker killed", "processes")] * 2,
    *[("worker killed", "ray")] * 2,
    *[("node lost", "ray")] * 3,
    *[("driver killed", "processes")] * 2,
    *[("driver killed", "ray")] * 2,
    *[("S3 server killed", "processes")] * 2,
    *[("S3 server killed", "ray")] * 2,
    *[("connections refused for 10 s", "processes")] * 2,
    *[("connections refused for 10 s", "ray")] * 1,
    *[("disk full", "processes")] * 1,
    *[("disk full", "ray")] * 1,
)
NAMES_AT_THE_TOP = {
    "record.json",
    "chain.json",
    "run.json",
    "stats.json",
    "report.html",
    "progress.json",
    "events.jsonl",
}


@dataclass
class Place:
    """The server, the relay in front of it, the cluster, the pool."""

    server: S3Server
    relay: Relay
    cluster: Any
    folder: Path
    bucket: str = "s3://soak"
    workers: list[Any] = field(default_factory=list)

    def driver(self, out: str, executor: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines", "run", str(self.folder / "soak.yaml")]
        command += ["--input", f"{self.bucket}/pool", "--out", out]
        command += ["--cluster", self.cluster.address] if executor == "ray" else ["--workers", "2"]
        environment = {
            **os.environ,
            **self.server.environment,
            "AWS_ENDPOINT_URL": self.relay.url,
            "OMP_NUM_THREADS": "1",
        }
        log = (self.folder / "drivers.log").open("ab")
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def add_nodes(self) -> None:
        while len(self.workers) < 2:
            self.workers.append(self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20))
        self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def bucket_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("soak")
    server = S3Server(folder / "s3")
    server.start()
    relay = Relay(server.ports[3])
    os.environ.update(server.environment)
    server.client().create_bucket(Bucket="soak")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20}
    )
    made = Place(server=server, relay=relay, cluster=cluster, folder=folder)
    made.add_nodes()
    (folder / "soak.yaml").write_text(STEPS)
    write_pool(open_store(f"{made.bucket}/pool"))
    yield made
    cluster.shutdown()
    relay.refuse()
    server.stop()
    for name in server.environment:
        os.environ.pop(name, None)


def write_pool(store: Store) -> None:
    chance = random.Random(SEED)
    known: list[str] = []
    for shard in range(SHARDS):
        rows = []
        for row in range(ROWS):
            text = " ".join(f"w{chance.randrange(3000)}" for _ in range(60))
            if known and chance.random() < 0.2:
                text = chance.choice(known)
                if chance.random() < 0.5:
                    words = text.split(" ")
                    words[chance.randrange(len(words))] = "another"
                    text = " ".join(words)
            known.append(text)
            rows.append({"id": f"{shard}-{row}", "text": f"{text}\nx\nsaid {row} times over"})
        write_bytes(store, f"{shard:03d}.jsonl", b"".join(orjson.dumps(r) + b"\n" for r in rows))


# ---- faults: each says what it hit


def kill_a_worker(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        root = driver.pid if "--workers" in command_of(driver.pid) else os.getpid()
        mark = "spawn_main" if root == driver.pid else "ray::run_"
        actual = [pid for pid in descendants(root) if mark in command_of(pid)]
        if actual:
            pid = chance.choice(actual)
            said = command_of(pid).split(" ")[0].rpartition("/")[2]
            os.kill(pid, signal.SIGKILL)
            return said
        time.sleep(0.01)
    raise AssertionError("no worker was found")


def lose_a_node(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    position.cluster.remove_node(position.workers.pop(chance.randrange(2)), allow_graceful=False)
    return "one of 3 nodes"


def kill_the_driver(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    if "--workers" in command_of(driver.pid):
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        os.kill(driver.pid, signal.SIGKILL)
    return "SIGKILL"


def kill_the_server(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    position.server.kill()
    time.sleep(chance.uniform(0, 3))
    position.server.start()
    return "SIGKILL"


def refuse(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    position.relay.refuse()
    time.sleep(10)
    position.relay.accept()
    return "10 s"


def fill_the_disk(position: Place, driver: subprocess.Popen[bytes], chance: random.Random) -> str:
    """No file of the server may grow, until space is made and it is started again."""
    assert position.server.process is not None
    limit = resource.RLIMIT_FSIZE
    before = resource.prlimit(position.server.process.pid, limit)
    resource.prlimit(position.server.process.pid, limit, (1 << 10, before[1]))
    time.sleep(5)
    position.server.kill()
    position.server.start()
    return "files of 1 KB at most, for 5 s"


STRIKE: dict[str, Callable[[Place, Any, random.Random], str]] = {
    "worker killed": kill_a_worker,
    "node lost": lose_a_node,
    "driver killed": kill_the_driver,
    "S3 server killed": kill_the_server,
    "connections refused for 10 s": refuse,
    "disk full": fill_the_disk,
}


# ---- runs


@dataclass
class Outcome:
    """What a run came to."""

    commits_at_fault: int = 0
    commits: int = 0
    hit: str = ""
    starts: int = 1
    seconds: float = 0.0


def num_commits(store: Store) -> int:
    return sum(1 for _ in store.list("done/"))


def play(
    position: Place, out: str, executor: str, fault: str | None, at: int, chance: random.Random
) -> Outcome:
    """Run to the end, starting again what stops; the fault strikes at the `at`th commit."""
    outcome = Outcome()
    store = open_store(out)
    started = time.monotonic()
    driver = position.driver(out, executor)
    if fault is not None:
        while driver.poll() is None and num_commits(store) < at:
            time.sleep(0.02)
        outcome.commits_at_fault = num_commits(store)
        if driver.poll() is None:
            outcome.hit = STRIKE[fault](position, driver, chance)
    while True:
        code = driver.wait(timeout=LIMIT_SECONDS)
        if code == 0:
            break
        outcome.starts += 1
        assert outcome.starts <= STARTS, (position.folder / "drivers.log").read_text()[-3000:]
        driver = position.driver(out, executor)
    outcome.seconds = time.monotonic() - started
    outcome.commits = num_commits(store)
    return outcome


def ids_and_bytes(out: str) -> tuple[Counter[str], list[str], str]:
    """The multiset of document ids, the checksums of the stored files, and the record's id."""
    store = open_store(out)
    record = parse_record(store.read_bytes("record.json"), source=out)
    ids: Counter[str] = Counter()
    for file in record.outputs:
        with store.open(file.name) as stream:
            ids.update(pq.read_table(stream, columns=["id"]).column("id").to_pylist())
    return ids, [file.sha256 for file in record.outputs], record.id


def left_over(out: str) -> list[str]:
    """After `clean`: what neither a commit nor the record names."""
    subprocess.run(
        [sys.executable, "-m", "pipelines", "clean", out], check=True, capture_output=True
    )
    store = open_store(out)
    assert unreferenced(store, folders=FOLDERS) == []
    record = parse_record(store.read_bytes("record.json"), source=out)
    named = {file.name for done in all_done(store) for file in done.files}
    named |= {file.name for file in record.outputs} | NAMES_AT_THE_TOP
    there = [entry.name for entry in store.list()]
    return [name for name in there if name not in named and not name.startswith("done/")]


def test_twenty_runs_with_a_fault_each_end_like_an_undisturbed_one(position: Place) -> None:
    chance = random.Random(SEED)
    calm = play(position, f"{position.bucket}/calm", "processes", None, 0, chance)
    expected = ids_and_bytes(f"{position.bucket}/calm")
    assert max(expected[0].values()) == 1
    ray_calm = play(position, f"{position.bucket}/ray", "ray", None, 0, chance)
    assert ids_and_bytes(f"{position.bucket}/ray") == expected
    rows = []
    for number, (fault, executor) in enumerate(FAULTS, start=1):
        for attempt in range(4):
            out = f"{position.bucket}/{number}-{attempt}"
            position.add_nodes()
            at = chance.randrange(1, int(calm.commits * 0.85))
            outcome = play(position, out, executor, fault, at, chance)
            if outcome.hit and outcome.commits_at_fault < outcome.commits:
                break
        else:
            raise AssertionError(f"{fault} never hit a run that was going")
        ids, checksums, record = ids_and_bytes(out)
        lost = sum((expected[0] - ids).values())
        doubled = sum((ids - expected[0]).values())
        left = left_over(out)
        same = (checksums, record) == expected[1:]
        row = (
            f"| {number} | {fault} | {executor} | {outcome.hit} | {outcome.commits_at_fault} of "
            f"{outcome.commits} | {outcome.starts} | {lost} | {doubled} | "
            f"{'equal' if same else 'DIFFERENT'} | {len(left)} | {outcome.seconds:.0f} |"
        )
        rows.append(row)
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
        assert (lost, doubled, same, left) == (0, 0, True, []), row
    head = (
        "| run | fault | executor | what it hit | commits before it | starts | lost | doubled | "
        "bytes | left after clean | s |"
    )
    table = "\n".join([head, "|" + " --- |" * 11, *rows])
    (position.folder / "table.md").write_text(table + "\n")
    sys.stdout.write(
        f"\n{SHARDS * ROWS} documents in, {expected[0].total()} out; undisturbed: "
        f"{calm.seconds:.0f} s on processes, {ray_calm.seconds:.0f} s on Ray\n{table}\n"
    )
    assert len(rows) == 20
    assert threading.active_count() < 200
