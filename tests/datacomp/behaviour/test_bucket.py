"""Curate, score, pack and download on Ray over a bucket: the same bytes as here on a disk."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datacomp.curation import score as scoring
from datacomp.curation.curate import curate
from datacomp.curation.scorers import ScorerSpec, scorer_id
from pipelines.execution.executors import MapTasks, map_here
from pipelines.images.download import DownloadOptions, download
from pipelines.images.fetch import FetchOptions
from pipelines.images.pairs import open_pairs
from pipelines.images.reshard import pack
from pipelines.pipeline import Pipeline
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store
from tests.datacomp.image_pool import draw, write_images

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]
STEPS: list[Any] = [
    {"picture_size": {"min_side": 10}},
    {
        "select": {
            "by": "clip_l14_similarity_score",
            "fraction": 0.5,
            "ties": "reference",
            "missing": "drop",
        }
    },
]


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            image, _ = draw(int(self.path.rpartition("/")[2]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(image)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def pool(tmp_path: Path, site: str) -> Path:
    """Drawn images: two tables, two tars, and addresses that answer."""
    write_images(tmp_path / "pool", tars=2, per_tar=30)
    first_number = 0
    for path in sorted((tmp_path / "pool" / "metadata").glob("*.parquet")):
        table = pq.read_table(path)
        numbers = range(first_number, first_number + table.num_rows)
        first_number += table.num_rows
        table = table.drop(["url"])
        table = table.append_column("url", [[f"http://{site}/{number}" for number in numbers]])
        pq.write_table(table, path)
    return tmp_path / "pool"


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write_bytes(store, str(path.relative_to(folder)), path.read_bytes())


def contents(uri: str, *, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of every file below a place that has one of these endings."""
    store = open_store(uri)
    return {
        entry.name: hashlib.sha256(store.read_bytes(entry.name)).hexdigest()
        for entry in store.list()
        if entry.name.endswith(suffixes)
    }


def play(pool: str, out: str, site: str, map_tasks: Any) -> dict[str, str]:
    """All four kinds of work over one pool; the ids and hashes of what they leave."""
    opened = open_pairs(pool)
    tables = curate(
        Pipeline.from_steps(STEPS, name="s"), opened, out=f"{out}/dataset", map_tasks=map_tasks
    )
    spec = ScorerSpec(kind="phash")
    scores = scoring.score(
        opened,
        f"{pool}/shards",
        scorer=spec,
        scorer_id=scorer_id(spec),
        name="hashes",
        out=f"{out}/hashes",
        map_tasks=map_tasks,
    )
    packed = pack(
        f"{pool}/shards",
        f"{out}/dataset/subset.npy",
        out=f"{out}/packed",
        map_tasks=map_tasks,
        shard_size=7,
        group_shards=1,
    )
    options = DownloadOptions(fetch=FetchOptions(allow=(site,)), rows_per_shard=20)
    fetched = download(opened, out=f"{out}/fetched", map_tasks=map_tasks, options=options)
    assert packed.missing == 0
    assert packed.output_count == tables.record.counts["rows_out"] > 25
    assert fetched.counts["success"] == 60
    return {
        "dataset": tables.record.id,
        "scores": scores.id,
        "fetched": fetched.id,
        **contents(f"{out}/packed", suffixes=(".tar", "_stats.json", "sample_ids.npy")),
    }


def test_ray_over_a_bucket_writes_what_one_process_writes_here(
    pool: Path, site: str, tmp_path: Path, bucket: str, ray_cluster: MapTasks
) -> None:
    here = play(str(pool), str(tmp_path / "out"), site, map_here)
    upload(pool, f"{bucket}/pool")
    there = play(f"{bucket}/pool", f"{bucket}/out", site, ray_cluster)
    assert there == here
    left = [e.name for e in open_store(f"{bucket}/out").list() if "work" in e.name.split("/")]
    assert left == []
