"""Published pools: lists, costs, fetching over HTTP with faults, what a damaged file does."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import zstandard

from dclm.pool import remote_pool
from dclm.pool.remote_pool import RemotePool, cost_of, fetch_all, find, keys_of, root_of
from leaderboard.rules import load_benchmark
from pipelines.assets.catalogue import AssetError, Assets
from pipelines.engine.run import run
from pipelines.errors import PoolError
from pipelines.execution.monitor import ShardsFailed
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.status import status
from pipelines.retries import Patience
from pipelines.storage import read_only
from pipelines.storage.base import StorageError, write_bytes
from pipelines.storage.commits import all_done
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store
from tests.http_server import WebServer

ROOT = Path(__file__).parents[3]
PREFIX = "contrib/datacomp/DCLM-pool/jsonl/crawl=CC-MAIN-2021-10"
SMALL = RemotePool(scale="400m-1x", variant="extracted", list="small.txt", num_files=4)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(read_only, "HTTP", Patience(tries=8, longest_pause_seconds=0.01))
    folder = tmp_path / "bucket"
    for number in range(4):
        rows = [{"text": f"page {n} of file {number} " * 50, "metadata": {}} for n in range(100)]
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        path = folder / PREFIX / f"CC-{number}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0))
    for local in (0, 1):
        path = folder / f"rw/global-shard_03_of_10/local-shard_{local}_of_10/s_processed.jsonl.zstd"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zstandard.compress(b'{"text": "left", "url": "u"}\n'))
    listing = folder / "contrib/datacomp/DCLM-refinedweb/DCLM-refinedweb.paths.gz"
    listing.parent.mkdir(parents=True)
    names = sorted(p.relative_to(folder).as_posix() for p in (folder / "rw").rglob("*.zstd"))
    listing.write_bytes(gzip.compress("\n".join(names).encode()))
    server = WebServer(folder)
    yield server
    server.stop()


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    folder = tmp_path / "assets"
    folder.mkdir()
    keys = [f"s3://commoncrawl/{PREFIX}/CC-{number}.jsonl.gz" for number in range(4)]
    (folder / "small.txt").write_text("\n".join(keys) + "\n")
    return Assets(folders=(folder,))


def test_the_cost_is_told_before_anything_is_fetched(server: WebServer, assets: Assets) -> None:
    keys = keys_of(SMALL, "https", server.url, assets=assets)
    assert keys == [f"{PREFIX}/CC-{number}.jsonl.gz" for number in range(4)]
    cost = cost_of(SMALL, keys, server.url, mbit_per_second=8)
    size = sum(path.stat().st_size for path in (server.folder / PREFIX).iterdir())
    assert (cost.num_files, cost.num_bytes, cost.bytes_stderr) == (4, size, 0.0)
    assert cost.hours == pytest.approx(size / 1e6 / 3600)
    assert {method for method, _, _ in server.requests} == {"HEAD"}


def test_fetching_outlives_faults_and_a_second_run_fetches_nothing(
    server: WebServer, assets: Assets, tmp_path: Path
) -> None:
    keys = keys_of(SMALL, "https", server.url, assets=assets)
    server.faults = [503, "cut", 429, "cut"]
    record = fetch_all(SMALL, keys, server.url, out=str(tmp_path / "pool"))
    assert server.faults == []
    stored = [(tmp_path / "pool" / file.name).read_bytes() for file in record.outputs]
    assert stored == [(server.folder / key).read_bytes() for key in keys]
    assert record.work.name == "dclm-400m-1x"
    before = len(server.requests)
    again = fetch_all(SMALL, keys, server.url, out=str(tmp_path / "pool"))
    assert (again.id, len(server.requests)) == (record.id, before)
    elsewhere = fetch_all(SMALL, keys, str(server.folder), out=str(tmp_path / "other"))
    assert elsewhere.id == record.id  # the same files are the same pool, wherever they came from
    steps = [{"word_count": {"min_words": 5}}]
    curated = run(
        Pipeline.from_steps(steps), open_pool(str(tmp_path / "pool")), out=str(tmp_path / "out")
    )
    assert curated.record.counts["rows_out"] == 400


@pytest.mark.s3
def test_from_a_bucket_into_a_bucket_it_is_the_same_pool(
    server: WebServer, assets: Assets, bucket: str, tmp_path: Path
) -> None:
    keys = keys_of(SMALL, "s3", f"{bucket}/copy", assets=assets)
    source = open_store(f"{bucket}/copy")
    for key in keys:
        write_bytes(source, key, (server.folder / key).read_bytes())
    cost = cost_of(SMALL, keys, f"{bucket}/copy")
    assert cost.num_bytes == sum((server.folder / key).stat().st_size for key in keys)
    there = fetch_all(SMALL, keys, f"{bucket}/copy", out=f"{bucket}/pool")
    here = fetch_all(SMALL, keys, server.url, out=str(tmp_path / "pool"))
    assert there.id == here.id
    assert len(open_pool(f"{bucket}/pool").shards) == 4


def test_a_damaged_published_file_is_noticed_and_does_not_stop_the_others(
    server: WebServer, assets: Assets, tmp_path: Path
) -> None:
    path = server.folder / PREFIX / "CC-2.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    keys = keys_of(SMALL, "https", server.url, assets=assets)
    out = str(tmp_path / "pool")
    with pytest.raises(ShardsFailed, match=r"CC-2\.jsonl\.gz: the file ends inside a gzip member"):
        fetch_all(SMALL, keys, server.url, out=out, max_failed_shards=1)
    assert status(LocalStore(tmp_path / "pool")).passes == {"k": 3}
    before = {done.key: done.at for done in all_done(LocalStore(tmp_path / "pool"))}
    path.write_bytes(whole)
    record = fetch_all(SMALL, keys, server.url, out=out)
    after = {done.key: done.at for done in all_done(LocalStore(tmp_path / "pool"))}
    assert (record.counts["files"], before.items() <= after.items()) == (4, True)


def test_a_list_that_is_not_here_says_where_to_get_it(assets: Assets) -> None:
    with pytest.raises(
        AssetError, match=r"get it with: pipelines assets fetch dclm-pool-400m-1x-extracted\.txt"
    ):
        keys_of(find("400m-1x", "extracted"), "https", "https://x", assets=assets)
    with pytest.raises(AssetError, match="this list is not in the DCLM repository"):
        keys_of(find("7b-2x", "raw"), "https", "https://x", assets=assets)


def test_a_list_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("a.jsonl.gz\n")
    with pytest.raises(PoolError, match=r"names 1 files; the published one has 4: get it whole"):
        keys_of(SMALL, "https", "https://x", assets=Assets(folders=(tmp_path,)))


def test_refinedweb_is_a_pool_of_its_own_with_a_board_of_its_own(
    server: WebServer, assets: Assets, tmp_path: Path
) -> None:
    pool = find("1b-1x", "refinedweb")
    keys = keys_of(pool, "https", server.url, assets=assets)
    assert keys == ["rw/global-shard_03_of_10/local-shard_1_of_10/s_processed.jsonl.zstd"]
    record = fetch_all(pool, keys, server.url, out=str(tmp_path / "rw"))
    assert (record.work.name, record.work.variant) == ("dclm-1b-1x-refinedweb", "refinedweb")
    board = load_benchmark("dclm").scale("1b-1x-refinedweb")
    assert board.recipe == "1b-1x"
    with pytest.raises(PoolError, match=r"no published 'refinedweb' pool of scale '400m-1x'"):
        find("400m-1x", "refinedweb")


def test_where_a_pool_comes_from() -> None:
    pool = find("400m-1x", "extracted")
    assert root_of(pool, "s3") == "s3://commoncrawl"
    assert root_of(pool, "https") == "https://data.commoncrawl.org"
    assert root_of(pool, "hf") == "hf://datasets/mlfoundations/dclm-pool-400m-1x"
    assert root_of(pool, "s3", "/mnt/copy") == "/mnt/copy"
    with pytest.raises(PoolError, match="is not on the Hugging Face hub"):
        root_of(find("7b-1x", "extracted"), "hf")


def test_an_address_that_does_not_answer_or_forbids_is_an_error_with_its_name(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_only, "HTTP", Patience(tries=2))
    store = open_store("http://127.0.0.1:1/x")
    with pytest.raises(StorageError, match=r"cannot read http://127\.0\.0\.1:1/x/a"):
        store.read_bytes("a")
    server.faults = [403]
    with pytest.raises(StorageError, match="the server answers 403"):
        open_store(server.url).read_bytes(f"{PREFIX}/CC-0.jsonl.gz")
    with pytest.raises(StorageError, match="cannot be listed"):
        list(open_store(server.url).list())
    with pytest.raises(StorageError, match="can only be read"):
        open_store(server.url).create("a")


def test_the_command_tells_the_cost_and_fetches_only_when_told_to(
    server: WebServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dclm", "pool", "--scale", "1b-1x", "--variant", "refinedweb"]
    command += ["--mirror", server.url, "--workspace", str(tmp_path), "--workers", "1"]

    def dclm(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    finished = dclm()
    assert finished.returncode == 0, finished.stderr
    assert "dclm-1b-1x-refinedweb" in finished.stdout
    assert "add --yes to fetch it" in finished.stderr
    assert not (tmp_path / "pools").exists()
    fetched = dclm("--yes")
    assert "files 1" in fetched.stdout, fetched.stderr
    assert (tmp_path / "pools" / "dclm-1b-1x-refinedweb" / "record.json").is_file()
    assert remote_pool.find("1b-1x", "refinedweb").name == "dclm-1b-1x-refinedweb"
