"""The same bytes and statistics on Ray as in-process, nodes lost or not."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")

from pipelines.engine.run import run  # noqa: E402
from pipelines.engine.run_folder import Result  # noqa: E402
from pipelines.errors import DataError  # noqa: E402
from pipelines.execution.executors import Needs, ProcessMap, WorkerLost  # noqa: E402
from pipelines.execution.ray_executor import RayMap  # noqa: E402
from pipelines.formats.pool import open_pool  # noqa: E402
from pipelines.formats.ray_dataset import as_dataset  # noqa: E402
from pipelines.pipeline import Pipeline  # noqa: E402
from pipelines.registry import registry  # noqa: E402
from tests.ray_tasks import fails_at_two, memory_given, on_a_gpu, plus, process_of  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS: list[Any] = [
    {"line_words": {"min_words": 2}},
    {"word_count": {"min_words": 4}},
    "exact_dedup",
    {"repository_parts": {"max_files": 2, "drop_text": False}},
    {"minhash_dedup": {"units": "characters", "verify": 0.3}},
    {"ngram_bloom_dedup": {"expected_ngrams": 10_000, "groups": 3, "min_ngram": 3, "max_ngram": 3}},
    {"substring_dedup": {"length": 3, "units": "whitespace"}},
    {"exact_dedup": {"unit": "line"}},
    {"hash_sample": {"fraction": 0.8}},
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "in"
    folder.mkdir()
    rng = np.random.default_rng(6)
    for shard in range(12):
        lines = []
        for n in range(50):
            some = " ".join(f"w{word}" for word in rng.integers(0, 900, 12))
            text = f"document {(shard + n) % 40} of the pool\nx\n{some}\nhello to number {n % 9}"
            lines.append({"text": text, "files": [{"text": "f"}] * (1 + (n % 20 == 0) * 2)})
            if n % 10 == 1:
                lines.append(lines[-1])
            if n % 7 == 0:
                lines.append({"text": text.replace("hello", "hallo"), "files": []})
        lines.append({"text": " ".join(f"v{word}" for word in range(shard, shard + 30))})
        lines[-1]["files"] = []
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        (folder / f"{shard:03d}.jsonl").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def here(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    result = curate(pool, tmp_path_factory.mktemp("here") / "out")
    for step in result.summary.stats.steps:  # each kind of step has something to do
        assert step.rejected or step.split or step.bytes_in != step.bytes_out or step.number < 2
    return result


def curate(pool: Path, out: Path, **options: Any) -> Result:
    pipeline = Pipeline.from_steps(STEPS, name="small")
    return run(pipeline, open_pool(str(pool)), out=str(out), **options)


def test_tasks_are_placed_by_what_their_steps_take(
    pool: Path, tmp_path: Path, ray_cluster: RayMap
) -> None:
    """A task that fits nowhere would wait for ever; on one machine it is refused."""
    large = ray_cluster.with_needs(Needs(memory_bytes=1 << 50))
    with pytest.raises(WorkerLost, match=r"a task takes .* of memory, and this machine has"):
        large(fails_at_two, [1])
    with pytest.raises(WorkerLost, match=r"a task takes 1 of GPU, and this machine has 0"):
        ray_cluster.with_needs(Needs(num_gpus=1))(fails_at_two, [1])
    assert ray_cluster.with_needs(Needs(memory_bytes=1 << 20))(memory_given, [1]) == [1 << 20]
    pipeline = Pipeline.from_steps([{"ngram_bloom_dedup": {"expected_ngrams": 10**11}}])
    assert pipeline.steps[0].operator.needs()["memory_bytes"] > 100 << 30
    with pytest.raises(WorkerLost, match="of memory, and this machine has"):
        run(pipeline, open_pool(str(pool)), out=str(tmp_path / "out"), map_tasks=ray_cluster)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and two worker nodes on this machine that declare a GPU each."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20},
    )
    resources = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100 << 20}
    workers = [cluster.add_node(**resources) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, workers
    ray.shutdown()
    cluster.shutdown()


def test_two_tasks_never_share_a_gpu(nodes: Any) -> None:
    """Nodes that declare GPUs: as many tasks at a time as GPUs, each GPU with one of them."""
    placed = RayMap(nodes[0].address).with_needs(Needs(num_gpus=1))
    runs = placed(on_a_gpu, list(range(6)))
    by_gpu: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for node, gpu, began, ended in runs:
        by_gpu.setdefault((node, gpu), []).append((began, ended))
    assert len(by_gpu) > 1
    assert len({node for node, _ in by_gpu}) == 2
    for spans in by_gpu.values():
        spans.sort()
        assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))
    processes = placed(process_of, list(range(12)))
    assert len(set(processes)) <= 4 * 2  # four packs a GPU, not a process an item
    arrived: list[int] = []
    with pytest.raises(DataError, match="broken on purpose"):
        placed(fails_at_two, [1, 3, 2, 4], on_result=lambda index, _: arrived.append(index))
    assert 2 not in arrived
    errors: list[int] = []

    def on_error(index: int, error: Exception) -> str:
        errors.append(index)
        return str(error)

    actual = placed(fails_at_two, [1, 2, 3] * 4, on_error=on_error)
    assert actual == [1, "broken on purpose", 3] * 4
    assert sorted(errors) == list(range(1, 12, 3))


def test_three_nodes_write_the_same_bytes_though_one_is_lost(
    pool: Path, here: Result, tmp_path: Path, nodes: Any
) -> None:
    cluster, workers = nodes
    out = tmp_path / "out"

    def lose_a_node() -> None:
        while len(list(out.glob("done/p0-*"))) < 3:
            time.sleep(0.01)
        cluster.remove_node(workers[0], allow_graceful=False)

    loser = threading.Thread(target=lose_a_node)
    loser.start()
    there = curate(pool, out, map_tasks=RayMap(cluster.address))
    loser.join()
    assert there.record.id == here.record.id
    assert there.summary.stats == here.summary.stats


def test_the_pipeline_has_every_kind_of_step_and_every_dedup() -> None:
    names = {step if isinstance(step, str) else next(iter(step)) for step in STEPS}
    known = {name: operator.kind for name, operator in registry().items()}
    assert {known[name] for name in names} == set(known.values())
    of_text = {name for name, kind in known.items() if kind in ("dedup", "fold")}
    assert of_text - {"image_hash_dedup", "embedding_dedup"} <= names  # these read images


def test_four_processes_write_the_same_bytes(pool: Path, here: Result, tmp_path: Path) -> None:
    there = curate(pool, tmp_path / "out", map_tasks=ProcessMap(4))
    assert there.record.id == here.record.id
    assert there.summary.stats == here.summary.stats


@pytest.mark.usefixtures("own_ray")
def test_ray_on_this_machine_writes_the_same_bytes(
    pool: Path, here: Result, tmp_path: Path
) -> None:
    there = curate(pool, tmp_path / "out", map_tasks=RayMap("local"))
    assert there.record.id == here.record.id
    assert there.summary.stats == here.summary.stats
    rows = as_dataset(str(tmp_path / "out")).count()
    assert rows == here.record.counts["rows_out"]
    with pytest.raises(DataError, match="broken on purpose"):
        RayMap("local")(fails_at_two, [1, 2])
    assert RayMap("local")(partial(plus, 10), [1, 2]) == [11, 12]
    errors: list[tuple[int, str]] = []

    def on_error(index: int, error: Exception) -> str:
        errors.append((index, str(error)))
        return "instead"

    actual = RayMap("local")(fails_at_two, [1, 2, 3], on_error=on_error)
    assert actual == [1, "instead", 3]
    assert errors == [(1, "broken on purpose")]


@pytest.mark.usefixtures("own_ray")
def test_progress_is_served_to_prometheus_by_ray_s_exporter(pool: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level="ERROR",
        log_to_driver=False,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 500},  # of 10 s, which would be waited for
    )
    curate(pool, tmp_path / "out", map_tasks=RayMap("local"))
    # The exporter's page is some seconds behind the run, so it is read until it shows the end.
    deadline = time.monotonic() + 300
    collected: dict[str, float] = {}
    while collected.get("ray_curation_tasks_done") != 12 and time.monotonic() < deadline:
        time.sleep(0.5)
        with suppress(OSError):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
            for line in page.decode().splitlines():
                if line.startswith("ray_curation_") and 'run="small"' in line:
                    collected[line.partition("{")[0]] = float(line.rpartition(" ")[2])
    assert collected["ray_curation_tasks_done"] == 12
    assert collected["ray_curation_tasks_failed"] == 0
    assert collected["ray_curation_cpu_seconds"] > 0


@pytest.mark.usefixtures("own_ray")
def test_an_address_where_nothing_is_says_what_to_do() -> None:
    with pytest.raises(WorkerLost, match=r"no Ray cluster at '127.0.0.1:1'.*--cluster local"):
        RayMap("127.0.0.1:1")(fails_at_two, [1])
