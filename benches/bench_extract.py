"""Extraction speed: `dclm extract` against resiliparse itself and trafilatura, on the same pages.

    python benches/bench_extract.py [--pages TAR.ZST] [--trafilatura-pages 60]

Rates are megabytes of HTML per CPU-second of one process. `ours` is the whole task: reading and
inflating the .warc.gz, decoding, extracting, writing zstd JSON lines with their commit. The peers
begin with pages that are in memory: resiliparse with its own detection of encodings, then parsing
and extraction; and with ready strings, the limit.
Writes build/bench/extract.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from dclm.pool.extract import ExtractTask, extract
from pipelines.formats.warc import ExtractOptions, html_to_text

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
PAGES = ROOT.parent / "shared" / "data" / "web" / "pages.tar.zst"
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=Path, default=PAGES, help="a .tar.zst of HTML files")
    parser.add_argument("--trafilatura-pages", type=int, default=60)
    given = parser.parse_args()
    if not given.pages.is_file():
        raise SystemExit(f"there are no pages at {given.pages}: name a .tar.zst with --pages")
    before = calibration()
    pages = read_pages(given.pages)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(pages, Path(folder), given.trafilatura_pages)
    report = {
        "machine": platform.processor() or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "calibration_seconds": [before, calibration()],
        "pages": len(pages),
        "html_mb": round(sum(map(len, pages)) / 1e6, 1),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "extract.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(
            f"{row['work']:<44} {row['ours']:>7.1f} {row['unit']}   {row['peer_name']} "
            f"{row['peer']:.1f}, ratio {row['ratio']:.2f} (at least {row['at_least']})"
        )


def measured(pages: list[bytes], folder: Path, num_slow: int) -> list[dict[str, Any]]:
    (folder / "pages.warc.gz").write_bytes(b"".join(map(member, pages)))
    size = sum(map(len, pages)) / 1e6
    texts = [bytes_to_str(page, detect_encoding(page)) for page in pages]
    options = ExtractOptions(content_types=None)

    def whole(number: list[int]) -> None:
        number[0] += 1
        task = ExtractTask(
            source=str(folder),
            name="pages.warc.gz",
            out=str(folder / f"out-{number[0]}"),
            shard=0,
            key=f"x-{number[0]}",
            options=options,
            format="jsonl.zst",
        )
        done = extract(task)
        assert done.counts["pages"] == len(pages), done.counts

    def resiliparse() -> None:
        for page in pages:
            extract_plain_text(bytes_to_str(page, detect_encoding(page)), main_content=True)

    def resiliparse_strings() -> None:
        for text in texts:
            extract_plain_text(text, main_content=True)

    number = [0]
    ours, peer, limit = alternating([lambda: whole(number), resiliparse, resiliparse_strings])
    few = texts[:num_slow]
    slow_size = sum(map(len, pages[:num_slow])) / 1e6
    slow_options = ExtractOptions(extractor="trafilatura")
    slow = cpu_seconds(lambda: [html_to_text(text, options=slow_options) for text in few])
    unit = "MB HTML/CPU-s"
    return [
        row("whole extraction of a .warc.gz", size / ours, unit, size / peer, "resiliparse", 0.85),
        row(
            "whole extraction of a .warc.gz",
            size / ours,
            unit,
            size / limit,
            "resiliparse on ready strings",
            0.85,
        ),
        row("whole extraction", size / ours, unit, slow_size / slow, "trafilatura", 10),
    ]


def row(
    work: str, ours: float, unit: str, peer: float, peer_name: str, at_least: float
) -> dict[str, Any]:
    return {
        "work": work,
        "ours": round(ours, 2),
        "unit": unit,
        "peer": round(peer, 2),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 3),
        "at_least": at_least,
    }


def member(page: bytes) -> bytes:
    """The page as a gzip member of a WARC file."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/\r\n"
        b"WARC-Record-ID: <urn:uuid:0>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        b"Content-Length: %d\r\n\r\n" % len(http)
    )
    return gzip.compress(head + http + b"\r\n\r\n", 6, mtime=0)


def read_pages(path: Path) -> list[bytes]:
    pages = []
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(file)
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            for entry in tar:
                stream = tar.extractfile(entry) if entry.isfile() else None
                if stream is not None and entry.name.endswith((".html", ".htm", ".testhtml")):
                    pages.append(stream.read())
    return pages


def alternating(works: list[Callable[[], Any]]) -> list[float]:
    """The median CPU seconds of each, in turn, so that a busy machine hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for index, work in enumerate(works):
            times[index].append(cpu_seconds(work))
    return [statistics.median(seconds) for seconds in times]


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def calibration() -> float:
    """CPU seconds of a fixed loop: tells a busy machine from a slow one."""
    return round(cpu_seconds(lambda: sum(i * i for i in range(1_000_000))), 4)


if __name__ == "__main__":
    main()
