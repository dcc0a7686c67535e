"""Damaged files of every format: never a crash or a hang, and no record is lost unseen.

Each format gets good files and at least 200 seeded mutations of them: cuts, flipped bytes, parts
that are missing, doubled, zeroed, or strange, and faults of the format itself.
"""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.engine.run import run
from pipelines.formats.chunks import Chunk
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import ShardError
from pipelines.formats.warc import Extracted, ExtractOptions, documents
from pipelines.pipeline import Pipeline
from pipelines.schema import number_of
from pipelines.storage.local import LocalStore

ROOT = Path(__file__).parents[3]
MUTATIONS = 200
Mutation = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def leave_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randint(1, 500) :]


def double(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    end = start + chance.randint(1, 500)
    return data[:end] + data[start:]


def zero(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randint(1, 200)]
    return data[:start] + bytes(len(part)) + data[start + len(part) :]


def insert(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + chance.randbytes(chance.randint(1, 300)) + data[start:]


MUTATED: tuple[Mutation, ...] = (cut, flip, leave_out, double, zero, insert)


def mutations(good: bytes, *, number: int = MUTATIONS, seed: int = 0) -> list[bytes]:
    chance = random.Random(seed)
    return [MUTATED[n % len(MUTATED)](good, chance) for n in range(number)]


def common(first: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    length = min(len(first), len(other))
    return next((n for n in range(length) if first[n] != other[n]), length)


def counts_add_up(folder: Path, out: Path, steps: list[Any]) -> dict[str, int]:
    """Run over a pool of damaged files, everything broken set aside; the counts of the record."""
    result = run(Pipeline.from_steps(steps), open_pool(str(folder)), out=str(out), quarantine=True)
    result.summary.stats.check()
    counts = result.record.counts
    rejected = sum(n for name, n in counts.items() if name.startswith("rejected/"))
    assert counts["rows_in"] == counts["rows_out"] + rejected + counts["errors"]
    aside = [
        orjson.loads(line)
        for path in sorted((out / "quarantine").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    assert sum(line.get("num_rows", 1) for line in aside) == counts["errors"]
    assert all(line["error"] for line in aside)
    return counts


# ---- JSON lines

ROWS = [
    {
        "text": f"row {n} of the file, \u00e4\u6f22\U0001f600 " + "and words " * (n % 7),
        "url": f"u{n}",
    }
    for n in range(120)
]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
TEXTS = [row["text"] for row in ROWS]


def zstd_in_frames(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(compressor.compress(data[n : n + 4000]) for n in range(0, len(data), 4000))


def gzip_prefix(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


def zstd_prefix(data: bytes) -> bytes:
    out = b""
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out += frame.decompress(data)
        if not frame.eof:
            break
        data = frame.unused_data
    return out


JSONL: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "a.jsonl": (LINES, lambda data: data),
    "a.jsonl.gz": (gzip.compress(LINES, mtime=0), gzip_prefix),
    "a.jsonl.zst": (zstd_in_frames(LINES), zstd_prefix),
}


def read(folder: Path, name: str, data: bytes) -> list[Chunk]:
    (folder / name).write_bytes(data)
    return list(read_shard(LocalStore(folder), name, shard=0))


def texts_of(chunks: list[Chunk]) -> list[str | None]:
    return [text for chunk in chunks for text in chunk.table.column("text").to_pylist()]


@pytest.mark.parametrize("name", JSONL)
def test_of_json_lines_cut_at_any_byte_all_records_before_come_out(
    tmp_path: Path, name: str
) -> None:
    good, prefix = JSONL[name]
    chance = random.Random(1)
    places = sorted(chance.sample(range(len(good)), MUTATIONS))
    for position in [0, 1, *places, len(good)]:
        plain = prefix(good[:position])
        whole = plain.count(b"\n") + (plain.endswith(b"}") and b"\n" + plain != LINES)
        chunks = read(tmp_path, name, good[:position])
        assert texts_of(chunks) == TEXTS[:whole], f"cut at {position}"
        bad = [bad for chunk in chunks for bad in chunk.bad]
        clean_end = plain == b"" or plain.endswith((b"\n", b"}"))
        if position == len(good) or (name == "a.jsonl" and clean_end):
            assert not bad
        elif position:
            assert bad, f"cut at {position}: nothing tells that the end is missing"
            assert number_of(bad[-1].row) >= whole


@pytest.mark.parametrize("name", JSONL)
def test_mutated_json_lines_never_crash_and_counts_add_up(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good, _ = JSONL[name]
    for number, data in enumerate(mutations(good)):
        (folder / f"{number:03d}{name[1:]}").write_bytes(data)
        if name == "a.jsonl":
            whole = good[: common(good, data)].count(b"\n")
            texts = texts_of(read(tmp_path, name, data))
            assert texts[:whole] == TEXTS[:whole]
    counts = counts_add_up(folder, tmp_path / "out", [{"word_count": {"min_words": 6}}])
    assert counts["errors"] >= MUTATIONS // 3
    assert counts["rows_out"] > MUTATIONS * 20


# ---- WARC


def warc_record(kind: str, block: bytes, **fields: object) -> bytes:
    given = {
        "WARC-Type": kind,
        "WARC-Target-URI": f"https://example.org/{len(block)}",
        "Content-Length": len(block),
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    return f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def page(number: int) -> bytes:
    body = f"<html><body><p>{'Page of prose ' * 20}number {number}</p></body></html>"
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body.encode()


PAGES = [warc_record("response", page(n), WARC_Record_ID=f"<urn:{n}>") for n in range(12)]


def pages(data: bytes) -> list[Extracted]:
    pages = list(documents(io.BytesIO(data), options=ExtractOptions()))
    for item in pages:
        assert (item.text is None) == (item.reason is not None)
    return pages


def warc_faults() -> list[bytes]:
    """Faults of the format, each in the sixth of twelve records."""
    faults: list[bytes] = []
    for length in (-1, 0, 1, 10, 10_000, 10**12, 10**30, "many", "", None, "0x10", "1e3", "\u0663"):
        faults.append(warc_record("response", page(5), Content_Length=length))
    faults.append(page(5))  # no headers
    faults.append(b"WARC/1.0\r\n\r\n" + page(5))
    faults.append(b"WARC/1.0\r\nContent-Length\r\n\r\n" + page(5))
    faults.append(warc_record("response", page(5), X="h" * 5_000_000))  # huge headers
    faults.append(b"WARC/1.0\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n")
    faults.append(warc_record("response", page(5)).replace(b"\r\n", b"\n"))
    faults.append(warc_record("response", page(5)).replace(b"WARC/1.0", b"WARC/9.9"))
    faults.append(warc_record("respons\u00e9", page(5)))
    faults.append(warc_record("response", b""))
    faults.append(warc_record("response", b"HTTP/1.1 200 OK"))
    faults.append(
        warc_record("response", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b")
    )
    faults.append(b"\0" * 1000)
    return faults


def test_mutated_warc_files_never_crash_and_pages_before_come_out() -> None:
    for compressed in (True, False):
        parts = [gzip.compress(part, mtime=0) if compressed else part for part in PAGES]
        good = b"".join(parts)
        ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
        expected = [page.text for page in pages(good)]
        assert len(expected) == len(PAGES)
        for data in mutations(good, seed=2):
            if not data.startswith((b"\x1f", b"WARC/"[: max(len(data), 1)])):
                with pytest.raises(ValueError, match="not a WARC file"):
                    pages(data)
                continue
            whole = sum(end <= common(good, data) for end in ends)
            assert [page.text for page in pages(data)][:whole] == expected[:whole]


@pytest.mark.parametrize("compressed", [True, False])
def test_faults_of_the_format_in_a_warc_file(compressed: bool) -> None:
    for fault in warc_faults():
        parts = [*PAGES[:5], fault, *PAGES[6:]]
        data = b"".join(gzip.compress(part, mtime=0) if compressed else part for part in parts)
        actual = pages(data)
        texts = [item.text for item in actual]
        assert all(f"number {n}" in str(texts[n]) for n in range(5)), fault[:80]
        assert len(actual) >= 6, fault[:80]  # a page, a rejection, or the note that it breaks off
        if compressed:  # a member's fault costs that member
            assert all(f"number {n}" in str(texts[n - 12]) for n in range(6, 12)), fault[:80]


def test_mutated_real_warc_files_never_crash(data: Path) -> None:
    for path in sorted((data / "warc").glob("*.warc.gz")):
        good = path.read_bytes()
        for mutated in mutations(good, number=40, seed=len(good)):
            if mutated[:1] == b"\x1f":
                pages(mutated)


def test_counts_of_mutated_warc_files_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = b"".join(gzip.compress(part, mtime=0) for part in PAGES)
    for number, data in enumerate(mutations(good, seed=3)):
        (folder / f"{number:03d}.warc.gz").write_bytes(data)
    counts = counts_add_up(folder, tmp_path / "out", ["exact_dedup"])
    assert counts["errors"] >= MUTATIONS // 2


# ---- parquet


def parquet(compression: str) -> tuple[bytes, pq.FileMetaData]:
    table = pa.table({"text": TEXTS[:100], "n": range(100), "urls": [["a", "b"]] * 100})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=20, compression=compression)
    data = sink.getvalue().to_pybytes()
    return data, pq.read_metadata(io.BytesIO(data))


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_mutated_parquet_never_crashes_and_counts_add_up(tmp_path: Path, compression: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good, _ = parquet(compression)
    unreadable = 0
    for number, data in enumerate(mutations(good, seed=4)):
        (folder / f"{number:03d}.parquet").write_bytes(data)
        try:
            chunks = read(tmp_path, "a.parquet", data)
        except ShardError:
            unreadable += 1
            continue
        for table in (chunk.table for chunk in chunks):
            table.validate(full=True)
    assert 0 < unreadable < MUTATIONS
    (folder / "good.parquet").write_bytes(good)
    counts_add_up(folder, tmp_path / "out", [{"word_count": {"min_words": 3}}])


def test_a_damaged_row_group_costs_only_its_own_rows(tmp_path: Path) -> None:
    good, metadata = parquet("zstd")
    chance = random.Random(5)
    damaged = 0
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        for _ in range(10):
            index = start + chance.randrange(column.total_compressed_size)
            data = bytearray(good)
            data[index] ^= 0xFF
            chunks = read(tmp_path, "a.parquet", bytes(data))
            texts = texts_of(chunks)
            bad = [bad for chunk in chunks for bad in chunk.bad]
            assert len(texts) + sum(chunk.num_rows for chunk in bad) == 100
            if bad:
                damaged += 1
                assert {number_of(chunk.row) // 20 for chunk in bad} == {group}
                rest = TEXTS[: 20 * group], TEXTS[20 * (group + 1) : 100]
                assert texts[: 20 * group] == rest[0]
                assert texts[len(texts) - len(rest[1]) :] == rest[1]
    assert damaged > 20


def test_a_parquet_file_without_its_end_is_set_aside_whole(tmp_path: Path) -> None:
    """Its columns and row groups are described only at the end: nothing can be had without it."""
    good, _ = parquet("zstd")
    for index in random.Random(6).sample(range(len(good)), 50):
        with pytest.raises(ShardError, match="is not a parquet file"):
            read(tmp_path, "a.parquet", good[:index])


# ---- decompression bombs

BOMB = """
import gzip, sys, time
from pathlib import Path
import zstandard
from pipelines.formats.readers import read_shard
from pipelines.storage.local import LocalStore

kind, folder = sys.argv[1], Path(sys.argv[2])
name = {"line.gz": "a.jsonl.gz", "lines.gz": "a.jsonl.gz", "line.zst": "a.jsonl.zst",
        "warc": "a.warc.gz"}[kind]
unit = b" " * (100 << 20)
if kind == "lines.gz":
    unit = (b'{"text": "' + b" " * 9989 + b'"}\\n') * 10_000
if kind == "warc":
    unit = b"x" * (100 << 20)
if kind == "line.zst":
    part = zstandard.ZstdCompressor(level=19).compress(unit)
else:
    part = gzip.compress(unit, 9)
head = b""
if kind == "warc":
    head = gzip.compress(b"WARC/1.0\\r\\nWARC-Type: response\\r\\nContent-Length: %d\\r\\n\\r\\n"
                         % (10 << 30))
del unit
with open(folder / name, "wb") as file:
    file.write(head)
    for _ in range(100):
        file.write(part)
print((folder / name).stat().st_size)
rows = bad = 0
last = ""
for chunk in read_shard(LocalStore(folder), name, shard=0):
    rows += chunk.table.num_rows
    for one in chunk.bad:
        bad += 1
        last = one.error
print(rows, bad, last)
status = Path("/proc/self/status").read_text()  # its own peak: ru_maxrss begins with the parent's
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["line.gz", "lines.gz", "line.zst", "warc"])
def test_a_decompression_bomb_stops_at_a_limit_in_little_memory(tmp_path: Path, kind: str) -> None:
    """About 10 MB (zstd: 1 MB) that would be 10 GB."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB, kind, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    size, answer, memory = done.stdout.splitlines()
    assert int(size) < 50e6
    assert "a decompression bomb?" in answer
    assert int(memory) * 1024 < 1e9
