"""Images of a table, from a server on loopback: layout, failures, resuming, trying again."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import PoolError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.shards import ShardError
from pipelines.images import download as downloading
from pipelines.images.download import DownloadOptions, download
from pipelines.images.fetch import FetchOptions
from pipelines.images.pairs import open_pairs
from pipelines.images.reshard import iter_samples, pack
from pipelines.records import RecordError

pytest.importorskip("aiohttp")
ROWS = 12


def image(number: int) -> bytes:
    out = io.BytesIO()
    size = (600, 300) if number == 0 else (30 + number, 20)
    Image.new("RGB", size, (number * 20, 100, 50)).save(out, "PNG")
    return out.getvalue()


class Site:
    """Serves /N; what is in `broken` answers with that status, or with those bytes."""

    def __init__(self) -> None:
        self.broken: dict[int, int | bytes] = {}
        self.asked: list[int] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = int(self.path[1:])
                site.asked.append(number)
                answer = site.broken.get(number, 200)
                body = answer if isinstance(answer, bytes) else image(number)
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def tables(tmp_path: Path, site: Site) -> Path:
    """Two tables: seven rows and five."""
    rows = [
        {
            "uid": f"{number:032x}",
            "url": f"http://{site.place}/{number}",
            "text": f"picture {number}\x00 \u00e9",
            "face_bboxes": [[0.1, 0.1, 0.4, 0.5]] if number == 3 else [],
            "sha256": hashlib.sha256(image(number)).hexdigest(),
        }
        for number in range(ROWS)
    ]
    folder = tmp_path / "metadata"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:7]), folder / "a.parquet", row_group_size=2)
    pq.write_table(pa.Table.from_pylist(rows[7:]), folder / "b.parquet")
    return folder


def options(site: Site, **more: object) -> DownloadOptions:
    fetch = FetchOptions(allow=(site.place,), timeout_seconds=5, retries=0)
    return DownloadOptions(fetch=fetch, rows_per_shard=4, **more)  # type: ignore[arg-type]


def run(tables: Path, out: Path, site: Site, *, map_tasks=map_here, retry=False, **more):
    return download(
        open_pairs(str(tables)),
        out=str(out),
        map_tasks=map_tasks,
        options=options(site, **more),
        retry_failed=retry,
    )


def rows_of(out: Path, shard: int) -> list[dict[str, object]]:
    return pq.read_table(out / f"{shard:08d}.parquet").to_pylist()


def test_shards_have_the_layout_that_the_resharder_reads(tables, tmp_path, site):
    out = tmp_path / "shards"
    record = run(tables, out, site)
    assert record.counts == {"rows": ROWS, "success": ROWS}
    assert sorted(path.name for path in out.glob("*.tar")) == [
        f"{n:08d}.tar"
        for n in range(4)  # 4 + 3 rows of one table, 4 + 1 of the other
    ]
    samples = list(iter_samples(str(out)))
    assert [key for key, _ in samples][:5] == [
        "000000000000",
        "000000000001",
        "000000000002",
        "000000000003",
        "000000010000",
    ]
    for number, (key, members) in enumerate(samples):
        row = orjson.loads(members["json"])
        assert list(members) == ["jpg", "json", "txt"]
        assert members["txt"].decode() == row["caption"] == f"picture {number}\x00 \u00e9"
        assert (row["uid"], row["key"], row["status"]) == (f"{number:032x}", key, "success")
        assert row["sha256"] == hashlib.sha256(image(number)).hexdigest()
    first = orjson.loads(samples[0][1]["json"])
    assert [first[k] for k in ("width", "height", "original_width", "original_height")] == [
        512,
        256,
        600,
        300,
    ]
    assert Image.open(io.BytesIO(samples[0][1]["jpg"])).size == (512, 256)
    stats = orjson.loads((out / "00000001_stats.json").read_bytes())
    assert (stats["count"], stats["successes"]) == (3, 3)
    ids = np.array([(0, 2), (0, 9)], dtype=[("f0", "<u8"), ("f1", "<u8")])
    np.save(tmp_path / "subset.npy", ids)
    packed = pack(
        str(out), str(tmp_path / "subset.npy"), out=str(tmp_path / "p"), map_tasks=map_here
    )
    assert (packed.output_count, packed.missing) == (2, 0)


def test_every_failure_is_counted_by_its_reason_and_no_row_is_lost(tables, tmp_path, site):
    whole = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(whole, "PNG")
    site.broken = {1: 404, 2: b"no image", 5: 500, 8: image(9), 10: whole.getvalue()}
    table = pq.read_table(tables / "b.parquet")
    sha256 = table.column("sha256").to_pylist()
    sha256[3] = None  # row 10: a table that does not know it
    table = table.set_column(table.schema.get_field_index("sha256"), "sha256", pa.array(sha256))
    urls = table.column("url").to_pylist()
    urls[4] = "http://127.0.0.1:1/inside"
    table = table.set_column(table.schema.get_field_index("url"), "url", pa.array(urls))
    pq.write_table(table, tables / "b.parquet")
    record = run(tables, tmp_path / "out", site)
    assert record.counts == {
        "rows": 12,
        "success": 6,
        "failed/http_404": 1,
        "failed/changed": 2,  # rows 2 and 8: other bytes than the table says
        "failed/http_500": 1,
        "failed/too_many_pixels": 1,
        "failed/refused_address": 1,
    }
    assert [row["status"] for shard in range(4) for row in rows_of(tmp_path / "out", shard)] == [
        *("success", "failed_to_download", "failed_to_download", "success"),
        *("success", "failed_to_download", "success"),
        *("success", "failed_to_download", "success", "failed_to_resize"),
        "failed_to_download",
    ]


def test_changed_images_are_kept_when_asked_for_and_marked(tables, tmp_path, site):
    site.broken = {2: image(3)}
    record = run(tables, tmp_path / "out", site, changed="keep")
    assert record.counts == {"rows": 12, "success": 12}
    row = rows_of(tmp_path / "out", 0)[2]
    assert (row["status"], row["error_message"]) == ("success", "changed")
    assert row["sha256"] == hashlib.sha256(image(3)).hexdigest()


def test_it_goes_on_where_it_was_stopped(tables, tmp_path, site, monkeypatch):
    plain = downloading.run_shard
    calls = []

    def dies(task):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(task.shard)
        return plain(task)

    monkeypatch.setattr(downloading, "run_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tables, tmp_path / "out", site)
    assert not (tmp_path / "out" / "record.json").exists()
    monkeypatch.setattr(downloading, "run_shard", plain)
    record = run(tables, tmp_path / "out", site)
    assert sorted(site.asked) == list(range(ROWS))  # nothing twice
    assert record.counts["success"] == ROWS
    assert run(tables, tmp_path / "out", site).id == record.id
    assert len(site.asked) == ROWS


def test_trying_again_fetches_only_what_had_failed(tables, tmp_path, site):
    undisturbed = run(tables, tmp_path / "other", site)
    site.broken = {1: 404, 5: 503, 6: b""}
    first = run(tables, tmp_path / "out", site)
    assert first.counts["success"] == 9
    site.asked.clear()
    site.broken = {1: 404}
    second = run(tables, tmp_path / "out", site, retry=True)
    assert sorted(site.asked) == [1, 5, 6]
    assert second.counts == {"rows": 12, "success": 11, "failed/http_404": 1}
    site.broken = {}
    third = run(tables, tmp_path / "out", site, retry=True)
    assert third.id == undisturbed.id
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(left) == 4 * 3 + 1


def test_any_number_of_processes_writes_the_same_bytes(tables, tmp_path, site):
    first = run(tables, tmp_path / "one", site)
    second = run(tables, tmp_path / "two", site, map_tasks=ProcessMap(2))
    assert first.id == second.id


def test_a_folder_with_other_images_is_refused(tables, tmp_path, site):
    run(tables, tmp_path / "out", site)
    with pytest.raises(RecordError, match="another pool"):
        run(tables, tmp_path / "out", site, changed="keep")


def test_a_table_without_addresses_is_refused(tmp_path, site):
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"uid": ["0" * 32], "text": ["x"]}), tmp_path / "t" / "a.parquet")
    with pytest.raises(PoolError, match=r"a\.parquet has no column 'url'"):
        run(tmp_path / "t", tmp_path / "out", site)
    (tmp_path / "t" / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ShardError, match=r"a\.parquet is not a parquet file"):
        run(tmp_path / "t", tmp_path / "out2", site)


def test_a_row_without_a_uid_or_an_address_is_counted(tmp_path, site):
    (tmp_path / "t").mkdir()
    rows = [
        {"uid": "0" * 31, "url": f"http://{site.place}/1", "text": "x"},
        {"uid": "0" * 32, "url": None, "text": None},
        {"uid": "1" * 32, "url": f"http://{site.place}/1", "text": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t" / "a.parquet")
    record = run(tmp_path / "t", tmp_path / "out", site)
    assert record.counts == {"rows": 3, "success": 1, "failed/no_uid": 1, "failed/bad_url": 1}
    [(_, members)] = iter_samples(str(tmp_path / "out"))
    assert members["txt"] == b""
