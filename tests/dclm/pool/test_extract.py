"""WARC files to documents: formats, choices, selection, resuming, files that break off."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import zstandard

from dclm.pool.extract import extract_all, read_list, select_warcs, warcs_for
from pipelines.engine.run import run
from pipelines.engine.run_folder import RunFailed
from pipelines.errors import PoolError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.execution.monitor import ShardsFailed
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.formats.warc import ExtractOptions
from pipelines.pipeline import Pipeline
from pipelines.records import PoolRecord, PoolWork, made_by, now
from pipelines.reports.status import status
from pipelines.storage.commits import all_done
from pipelines.storage.local import LocalStore

PROSE = "A page of prose that is long enough to be taken for the content of its page. " * 4


def member(kind: str, block: bytes, number: int = 0) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: https://example.org/{number}\r\n"
        f"WARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def page(text: str, *, status: str = "200 OK", encoding: str = "utf-8") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset={encoding}\r\n\r\n"
    return head.encode() + f"<html><body><p>{PROSE}{text}</p></body></html>".encode(encoding)


@pytest.fixture
def warcs(tmp_path: Path) -> Path:
    """Three files: two whole ones, and one that is cut in its last page."""
    folder = tmp_path / "warc"
    folder.mkdir()
    for number in range(3):
        data = member("warcinfo", b"software: test\r\n")
        data += member("response", page(f"first of {number}"), 10 * number)
        data += member("response", page("gone", status="404 Not Found"), 10 * number + 1)
        data += member("response", page("Gr\u00f6\u00dfe", encoding="latin-1"), 10 * number + 2)
        if number == 1:
            data = data[:-20]
        (folder / f"CC-{number}.warc.gz").write_bytes(data)
    return folder


def extract(warcs: Path, out: Path, **options: Any) -> PoolRecord:
    return extract_all(str(warcs), out=str(out), name="pool", **options)


def test_every_page_is_a_document_or_a_rejection(warcs: Path, tmp_path: Path) -> None:
    record = extract(warcs, tmp_path / "out", quarantine=True)
    assert record.counts == {
        "pages": 9,
        "documents": 5,
        "bytes": sum(path.stat().st_size for path in warcs.iterdir()),
        "text_bytes": record.counts["text_bytes"],
        "rejected/bad_status": 3,
        "rejected/broken_record": 1,
    }
    [first, *_] = [tmp_path / "out" / file.name for file in record.outputs]
    rows = pq.read_table(first).to_pylist()
    assert [row["text"] for row in rows] == [PROSE + "first of 0", PROSE + "Gr\u00f6\u00dfe"]
    assert [row["url"] for row in rows] == ["https://example.org/0", "https://example.org/2"]
    assert rows[0]["id"] == "<urn:uuid:0>"
    sha256 = hashlib.sha256((warcs / "CC-0.warc.gz").read_bytes()).hexdigest()
    assert record.work.sources[0].sha256 == sha256
    rejected = sorted((tmp_path / "out" / "rejected").iterdir())
    actual = [row["reason"] for path in rejected for row in pq.read_table(path).to_pylist()]
    assert sorted(actual) == ["bad_status"] * 3 + ["broken_record"]


@pytest.mark.parametrize(
    ("format", "opened"),
    [("jsonl.gz", gzip.decompress), ("jsonl.zst", zstandard.ZstdDecompressor().decompressobj)],
)
def test_json_lines_are_pages_as_the_reference_writes_them(
    warcs: Path, tmp_path: Path, format: Any, opened: Any
) -> None:
    record = extract(warcs, tmp_path / "out", quarantine=True, format=format)
    path = tmp_path / "out" / record.outputs[0].name
    md5 = hashlib.md5(b"CC-0.warc.gz").hexdigest()[:7]
    assert path.name.startswith(f"CC-0_{md5}.")
    data = path.read_bytes()
    plain = opened(data) if format == "jsonl.gz" else opened().decompress(data)
    first = orjson.loads(plain.splitlines()[0])
    assert set(first) == {"text", "metadata", "warcinfo"}
    assert first["metadata"]["WARC-Target-URI"] == "https://example.org/0"
    assert first["warcinfo"] == "software: test\r\n"
    steps = ["url_from_metadata", {"word_count": {"min_words": 5}}]  # as DCLM's pipelines begin
    pool = open_pool(str(tmp_path / "out"))
    curated = run(Pipeline.from_steps(steps), pool, out=str(tmp_path / "curated"))
    assert curated.record.counts["rows_out"] == 5


def test_the_reference_s_choices_lose_other_encodings_and_keep_errors(
    warcs: Path, tmp_path: Path
) -> None:
    record = extract(warcs, tmp_path / "out", quarantine=True, options=ExtractOptions.reference())
    assert record.counts["rejected/not_utf8"] == 2
    assert record.counts["documents"] == 6


def test_any_number_of_workers_writes_the_same_and_a_second_run_nothing(
    warcs: Path, tmp_path: Path
) -> None:
    first = extract(warcs, tmp_path / "one", quarantine=True)
    second = extract(warcs, tmp_path / "two", quarantine=True, map_tasks=ProcessMap(2))
    assert first.id == second.id
    before = {done.key: done.at for done in all_done(LocalStore(tmp_path / "two"))}

    def forbidden(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("there is nothing to do")

    again = extract(warcs, tmp_path / "two", map_tasks=forbidden)
    assert again == second
    assert {done.key: done.at for done in all_done(LocalStore(tmp_path / "two"))} == before
    with pytest.raises(RunFailed, match="another finished run"):
        extract(warcs, tmp_path / "two", options=ExtractOptions.reference())


def test_a_broken_file_does_not_stop_the_others(warcs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ShardError, match=r"CC-1\.warc\.gz breaks off at byte \d+.*--quarantine"):
        extract(warcs, tmp_path / "strict")
    with pytest.raises(ShardsFailed, match=r"1 of 3 shards failed.*CC-1\.warc\.gz"):
        extract(warcs, out, max_failed_shards=1)
    state = status(LocalStore(out))
    assert (state.passes, len(state.failed)) == ({"x": 2}, 1)
    before = {done.key: done.at for done in all_done(LocalStore(out))}
    record = extract(warcs, out, quarantine=True, map_tasks=map_here)
    after = {done.key: done.at for done in all_done(LocalStore(out))}
    assert before.items() <= after.items()
    assert record.counts["documents"] == 5


def test_files_are_chosen_as_dclm_pool_was_drawn(tmp_path: Path) -> None:
    """Python's `random.Random(42).sample(range(100), 3)` is [81, 14, 3]."""
    names = [f"CC-MAIN-2022/{n}.warc.gz" for n in range(100)]
    later = [f"CC-MAIN-2023-06/{n}.warc.gz" for n in range(50)]
    chosen = select_warcs(later + names, 3, exclude="CC-MAIN-2023")
    assert chosen == [names[81], names[14], names[3]]
    with pytest.raises(PoolError, match="101 WARC files are asked for, and there are 100"):
        select_warcs(names, 101)
    assert warcs_for(200e12) == 2_222_222  # DCLM-Pool's own figure at 90 million tokens a file
    (tmp_path / "list.txt").write_text("# a list\na.warc.gz\n\nb.warc.gz\n")
    assert read_list(str(tmp_path / "list.txt")) == ["a.warc.gz", "b.warc.gz"]


def test_a_listed_file_that_is_not_there_is_named(warcs: Path, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"1 listed files are not below .*: nothing\.warc\.gz"):
        extract(warcs, tmp_path / "out", names=["CC-0.warc.gz", "nothing.warc.gz"])
    record = extract(warcs, tmp_path / "out", names=["CC-2.warc.gz"])
    assert [source.name for source in record.work.sources] == ["CC-2.warc.gz"]


def test_the_tables_of_the_tiny_pool_are_its_documents(
    warcs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected pages are next to them, and are not shards that a pipeline would read."""
    from types import SimpleNamespace

    from dclm.pool import pool

    folder = tmp_path / "pool"
    shutil.copytree(warcs, folder / "sources")
    (folder / "sources" / "CC-1.warc.gz").unlink()  # the one that breaks off
    files = sorted(path for path in (folder / "sources").rglob("*.gz"))
    built = SimpleNamespace(
        warcs=[
            SimpleNamespace(
                name=str(path.relative_to(folder / "sources")),
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                num_pages=1,
            )
            for path in files
        ],
        heldout=SimpleNamespace(name="heldout.jsonl.gz"),
        sources=(),
        identity="a few pages",
    )
    monkeypatch.setattr(pool, "_build_sources", lambda _: built)
    monkeypatch.setattr(pool, "build_tiny_tasks", lambda *_, **__: None)
    record = pool.build_tiny(folder, map_tasks=map_here)
    assert any(name.startswith("rejected/") for name in record.counts)
    assert list((folder / "rejected").iterdir())
    assert {file.name.split("/")[0] for file in record.outputs} == {"data"}
    assert "text" in open_pool(str(folder)).schema().names


def test_a_pool_from_a_fetched_one_names_it_and_its_list(tmp_path: Path, warcs: Path) -> None:
    """The rule book accepts such a pool only with the published list's name and the options."""
    from leaderboard.rules import load_benchmark

    fetched = PoolRecord.seal(
        work=PoolWork(
            name="dclm-1b-1x-raw", variant="raw", sources=(), parameters={"keys": "k" * 32}
        ),
        parents={},
        made_by=made_by(now()),
    )
    (warcs / "record.json").write_bytes(fetched.to_json())
    rule = load_benchmark("dclm").scale("1b-1x").pools[1]

    def made(name: str, options: ExtractOptions, **parameters: Any) -> PoolRecord:
        return extract_all(
            str(warcs),
            out=str(tmp_path / name),
            name="dclm-1b-1x",
            options=options,
            parameters=parameters,
            quarantine=True,
        )

    record = made("reference", ExtractOptions.reference())
    assert record.work.parameters["raw"] == "dclm-1b-1x-raw"
    assert record.work.parameters["raw_keys"] == "k" * 32
    assert rule.differs(record) is None
    assert "parameter extraction" in str(rule.differs(made("other", ExtractOptions())))
    sample = made("sample", ExtractOptions.reference(), take=1, seed=42)
    assert "parameter take" in str(rule.differs(sample))
    (warcs / "record.json").unlink()
    own = made("own", ExtractOptions.reference())
    assert "parameter raw" in str(rule.differs(own))
