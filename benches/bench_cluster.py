"""What a cluster costs: Ray beside one process, one worker beside two, S3 beside plain boto3.

    python benches/bench_cluster.py [--shards 6] [--mb 64] [--pages FILE]

Ray: one pass of Gopher's rules over shards of `--mb` megabytes of text, in this process and on a
Ray of one node with one processor; CPU-seconds of all of Ray's processes from the first task to the
last, its start aside. Two workers beside one: wall time of the same, on Ray with two nodes.
S3: reading objects through the store as a shard is read, beside boto3's own download of the same
objects into memory, on SeaweedFS on loopback. Writes build/bench/cluster.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from pipelines.engine.run import run
from pipelines.execution.ray_executor import RayMap
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.storage.open import open_store

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
PAGES = ROOT.parent / "shared" / "data" / "web" / "extracted_text.jsonl.gz"
GOPHER = ROOT / "dclm" / "baselines" / "gopher.yaml"
ROUNDS = 5
EMPTY_TASKS = 2000
NEEDED_TASKS = 561.0  # a second: 32,000 processors, 57 s a file (docs/scale.md)
OBJECTS, OBJECT_BYTES = 4, 64 << 20

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--mb", type=int, default=64, help="text of one shard")
    parser.add_argument("--pages", type=Path, default=PAGES, help="JSON lines with `text`")
    given = parser.parse_args()
    if not given.pages.is_file():
        raise SystemExit(f"there are no pages at {given.pages}: name JSON lines with --pages")
    sys.path.insert(0, str(ROOT))  # tests/ holds the S3 server
    before = calibration()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_pool(root / "pool", given.pages, shards=given.shards, num_bytes=given.mb << 20)
        rows = [*ray_rows(root, size), s3_row(root)]
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
        "calibration_seconds": [before, calibration()],
        "shards": given.shards,
        "text_mb": round(size / 1e6, 1),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "cluster.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(
            f"{row['work']:<52} {row['ours']:>8.2f} {row['unit']:<12} {row['peer_name']} "
            f"{row['peer']:.2f}, ratio {row['ratio']:.3f} (at least {row['at_least']})"
        )


def write_pool(folder: Path, pages: Path, *, shards: int, num_bytes: int) -> int:
    """Parquet shards of about `num_bytes` of text; returns the bytes of all of it."""
    folder.mkdir()
    lines = gzip.decompress(pages.read_bytes()).splitlines()
    texts = [orjson.loads(line)["text"] for line in lines]
    total = 0
    for shard in range(shards):
        chosen: list[str] = []
        size = 0
        while size < num_bytes:
            text = texts[(len(chosen) * 7 + shard) % len(texts)]
            chosen.append(text)
            size += len(text.encode())
        total += size
        pq.write_table(
            pa.table({"text": chosen}), folder / f"{shard:03d}.parquet", compression="zstd"
        )
    return total


def ray_rows(folder: Path, size: int) -> list[Row]:
    pipeline = Pipeline.load(GOPHER)
    pool = open_pool(str(folder / "pool"))
    numbers = iter(range(1000))

    def curate(**options: Any) -> str:
        return run(pipeline, pool, out=str(folder / f"out-{next(numbers)}"), **options).record.id

    expected = curate()  # kernels are compiled
    start, wall = time.process_time(), time.monotonic()
    assert curate() == expected
    here, here_wall = time.process_time() - start, time.monotonic() - wall
    there, one_wall, driver_seconds = on_ray(1, curate, expected)
    two, two_wall, _ = on_ray(2, curate, expected)
    mb = size / 1e6
    rate = EMPTY_TASKS / driver_seconds
    return [
        row("one pass on Ray", mb / there, "MB/CPU-s", mb / here, "in this process", 0.9),
        row("one pass on Ray, by the clock", mb / one_wall, "MB/s", mb / here_wall, "here", 0.9),
        row("two workers on Ray", mb / two, "MB/CPU-s", mb / there, "one", 0.9),
        row("two workers on Ray, by the clock", mb / two_wall, "MB/s", mb / one_wall, "one", 1.6),
        row("tasks given out by a driver", rate, "tasks/CPU-s", NEEDED_TASKS, "1,000 nodes", 1.0),
    ]


def nothing(number: int) -> int:
    """A task without work: what is left is the driver's."""
    return number


def on_ray(nodes: int, curate: Callable[..., str], expected: str) -> tuple[float, float, float]:
    """CPU seconds of everything and wall seconds of a run, after one that warms the workers up.

    And the driver's CPU seconds for giving out tasks without work.
    """
    cluster = Cluster()
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
        cluster.wait_for_nodes()
        map_tasks = RayMap(cluster.address)
        assert curate(map_tasks=map_tasks) == expected
        cpu, wall = tree_seconds(), time.monotonic()
        assert curate(map_tasks=map_tasks) == expected
        used, passed = tree_seconds() - cpu, time.monotonic() - wall
        start = time.process_time()
        map_tasks(nothing, range(EMPTY_TASKS))
        return used, passed, time.process_time() - start
    finally:
        ray.shutdown()
        cluster.shutdown()


def tree_seconds() -> float:
    """CPU seconds of this process and of all that it started and that are alive."""
    from tests.soak.flaky import descendants

    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid in [os.getpid(), *descendants(os.getpid())]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def s3_row(folder: Path) -> Row:
    from tests.s3_server import S3Server

    server = S3Server(folder / "s3")
    server.start()
    os.environ.update(server.environment)
    try:
        client = server.client()
        client.create_bucket(Bucket="bench")
        store = open_store("s3://bench/pool")
        data = os.urandom(OBJECT_BYTES)
        for number in range(OBJECTS):
            with store.create(f"{number}.bin") as writer:
                writer.write(data)

        def ours() -> None:
            for number in range(OBJECTS):
                with store.open(f"{number}.bin") as file:
                    while file.read(1 << 20):
                        pass

        def plain() -> None:
            for number in range(OBJECTS):
                answer = client.get_object(Bucket="bench", Key=f"pool/{number}.bin")
                for _ in answer["Body"].iter_chunks(1 << 20):
                    pass

        ours_seconds, plain_seconds = alternating([ours, plain])
    finally:
        server.kill()
    mb = OBJECTS * OBJECT_BYTES / 1e6
    return row("reading from S3", mb / ours_seconds, "MB/s", mb / plain_seconds, "boto3", 0.8)


def alternating(works: list[Callable[[], Any]]) -> list[float]:
    """The median wall seconds of each, in turn, so that a busy machine hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for index, work in enumerate(works):
            start = time.monotonic()
            work()
            times[index].append(time.monotonic() - start)
    return [statistics.median(seconds) for seconds in times]


def row(work: str, ours: float, unit: str, peer: float, peer_name: str, at_least: float) -> Row:
    return {
        "work": work,
        "ours": round(ours, 2),
        "unit": unit,
        "peer": round(peer, 2),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 3),
        "at_least": at_least,
    }


def calibration() -> float:
    """CPU seconds of a fixed loop: tells a busy machine from a slow one."""
    start = time.process_time()
    sum(i * i for i in range(1_000_000))
    return round(time.process_time() - start, 4)


if __name__ == "__main__":
    main()
