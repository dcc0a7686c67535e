"""docs/scale.md from the rows of the benches.

    python benches/scale.py

Takes the last row of every stage from docs/performance.md (the lowest of several runs), and writes
the tables between the comments `scale.py: NAME` and `end`; the text around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.global_steps.merged_files import MERGE_BYTES, MERGE_FILES
from pipelines.storage.part_files import SLICE_REQUESTS

ROOT = Path(__file__).parent.parent
PERFORMANCE, PAGE = ROOT / "docs" / "performance.md", ROOT / "docs" / "scale.md"
DATE = r"\d{4}-\d\d-\d\d"

CORE_DOLLARS = 0.0504  # an hour of one vCPU: m7i in us-east-1 on demand, list price
GET_DOLLARS, PUT_DOLLARS = 0.4e-6, 5e-6  # a request of S3, list price
MONTH_DOLLARS = 0.023e-9  # of a byte kept in S3
VCPUS = 32  # of a node
KEY_BYTES = 560  # of a document: 14 bands
VERDICT_BYTES = 16  # of a document that goes
DOCUMENT_TOKENS = 1200
TOKEN_BYTES = 4.2
WARC_HTML_BYTES = 4.5e9
WARC_BYTES = 1.0e9
WARC_TOKENS = 45.5e6  # 469 billion tokens in 400m-1x's files
KEPT = 0.1  # by DCLM-Baseline
PARTITION_BYTES = 256 << 20  # of the pool's files a part of the keys
PREFIX_GETS = 5500  # a second, of one prefix of a bucket


@dataclass(frozen=True)
class Stage:
    """A step of curation, and the rows of the benches with its rate."""

    name: str
    bench: str
    work: str
    peer_work: str | None = None  # the row that has the peer's rate, where it is another
    of: float = 1.0  # part of the text that comes to it
    html: bool = False  # its megabytes are of HTML


STAGES = (
    Stage("extraction", "extract", "whole extraction of a .warc.gz", html=True),
    Stage("language identification", "text", "language id, lid.176.ftz, whole pages"),
    Stage(
        "DCLM-Baseline's rules",
        "text",
        "dclm_baseline_refinedweb, rules on text",
        peer_work="dclm_baseline_refinedweb, some pages",
    ),
    Stage("quality classifier", "text", "quality classifier, 2 M buckets"),
    Stage(
        "near-duplicates, reading and writing too", "dedup", "whole MinHash dedup from jsonl.zst"
    ),
    Stage("tokenization", "text", "tokenize gpt-neox, unseen, English", of=KEPT),
)


@dataclass(frozen=True)
class PoolSize:
    """A pool by its number of WARC files."""

    name: str
    files: float

    @property
    def text(self) -> float:
        return self.tokens * TOKEN_BYTES

    @property
    def tokens(self) -> float:
        return self.files * WARC_TOKENS

    @property
    def documents(self) -> float:
        return self.tokens / DOCUMENT_TOKENS

    @property
    def pages(self) -> float:
        """Bytes of the pages as jsonl.gz; DCLM-Pool's 240 T tokens have 370 TB."""
        return self.tokens * 370 / 240

    @property
    def parts(self) -> int:
        return 1 + int(self.pages // PARTITION_BYTES)


POOLS = (
    PoolSize("400m-1x", 10_305),
    PoolSize("one dump", 90_000),
    PoolSize("DCLM-Pool", 5.27e6),
)


# ---- rates


@dataclass(frozen=True)
class Rate:
    """Of one stage, MB of text (or HTML) per CPU-second."""

    stage: Stage
    ours: float
    peer: float | None
    peer_name: str
    measured: str


def rates(page: str) -> list[Rate]:
    """The rate of every stage from the page of performance. ValueError for a missing row."""
    sections = {
        match[1]: part
        for part in re.split(r"^(?=## )", page, flags=re.M)
        if (match := re.search(r"`benches/bench_(\w+)\.py", part))
    }
    known = []
    for stage in STAGES:
        section = sections.get(stage.bench, "")
        ours, _, _, own_date = row_of(section, stage, stage.work)
        _, peer, name, _ = row_of(section, stage, stage.peer_work or stage.work)
        date = own_date or re.search(DATE, section)
        measured = f"`bench_{stage.bench}.py`, {date[0] if date else 'undated'}"
        known.append(Rate(stage, ours, peer, name, measured))
    return known


def row_of(
    section: str, stage: Stage, work: str
) -> tuple[float, float | None, str, re.Match[str] | None]:
    """Ours, the peer's rate and name in the first row of this work, and a date of its own, which
    follows the unit."""
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith(work):
            ours = lowest(cells[1])
            if ours is not None:
                name = re.search(r"\((.*)\)", cells[2])
                peer = lowest(cells[2].partition("(")[0])
                return ours, peer, name[1] if name else "", re.search(rf"(?<=; ){DATE}", cells[-1])
    raise ValueError(
        f"docs/performance.md has no figure for {work!r}; run benches/bench_{stage.bench}.py, "
        "then benches/tables.py"
    )


def lowest(cell: str) -> float | None:
    """The lowest of the figures in a cell; None for a dash."""
    figures = [float(part.replace(",", "")) for part in re.findall(r"\d[\d,]*\.?\d*", cell)]
    return min(figures) if figures else None


# ---- requests of the shuffle


@dataclass(frozen=True)
class Shuffle:
    """Requests of one exchange of files between tasks."""

    slices: float
    gets: float
    puts: float

    @property
    def dollars(self) -> float:
        return self.gets * GET_DOLLARS + self.puts * PUT_DOLLARS


def plain(writers: float, readers: float) -> Shuffle:
    """Every reader takes its part of every file."""
    slices = writers * readers
    return Shuffle(slices, slices * SLICE_REQUESTS, 0)


def merged(writers: float, readers: float, file_bytes: float) -> Shuffle:
    """The same when neighbouring files are merged before (`global_steps/merged_files.py`)."""
    together = max(1.0, min(MERGE_FILES, MERGE_BYTES // max(1.0, file_bytes)))
    if together < 2:
        return plain(writers, readers)
    files = -(-writers // together)
    after = plain(files, readers)
    return Shuffle(after.slices, writers + after.gets, files)


def shuffles(pool: PoolSize, *, merge: bool) -> Shuffle:
    """Keys to their parts, and verdicts back to the shards."""
    keys, verdicts = pool.documents * KEY_BYTES, pool.documents * VERDICT_BYTES
    ways = (
        (pool.files, pool.parts, keys / pool.files),
        (pool.parts, pool.files, verdicts / pool.parts),
    )
    each = [merged(*way) if merge else plain(*way[:2]) for way in ways]
    return Shuffle(
        slices=sum(way.slices for way in each),
        gets=sum(way.gets for way in each),
        puts=sum(way.puts for way in each),
    )


# ---- tables


def rates_table(known: Sequence[Rate]) -> str:
    rows = [
        (
            rate.stage.name + (", MB of HTML" if rate.stage.html else ""),
            f"{rate.ours:.3g}",
            "-" if rate.peer is None else f"{rate.peer:.3g} ({rate.peer_name})",
            rate.measured,
        )
        for rate in known
    ]
    return markdown(("work", "here", "peer", "measured by"), rows)


def hours_table(known: Sequence[Rate]) -> str:
    """Core-hours and dollars of every stage and pool."""
    rows: list[tuple[str, ...]] = []
    totals = {pool.name: 0.0 for pool in POOLS}
    for rate in known:
        hours = {pool.name: core_hours(rate, pool, rate.ours) for pool in POOLS}
        for name, value in hours.items():
            totals[name] += value
        label = rate.stage.name + (f", of {rate.stage.of:.0%} of the text" * (rate.stage.of < 1))
        rows.append((label, *(amount(value) for value in hours.values())))
    extraction = {pool.name: core_hours(known[0], pool, known[0].ours) for pool in POOLS}
    pages = {name: totals[name] - extraction[name] for name in totals}
    for label, hours in (("from WARC files", totals), ("from extracted pages", pages)):
        rows.append((f"**{label}**", *(f"**{amount(value)}**" for value in hours.values())))
        rows.append(
            (f"hours of nodes of {VCPUS} vCPUs", *(amount(v / VCPUS) for v in hours.values()))
        )
        rows.append(("dollars", *(f"${amount(v * CORE_DOLLARS)}" for v in hours.values())))
    return markdown(("core-hours", *(pool.name for pool in POOLS)), rows)


def core_hours(rate: Rate, pool: PoolSize, megabytes_per_second: float) -> float:
    size = pool.files * WARC_HTML_BYTES if rate.stage.html else pool.text * rate.stage.of
    return size / 1e6 / megabytes_per_second / 3600


def bytes_table() -> str:
    lines: tuple[tuple[str, Callable[[PoolSize], float]], ...] = (
        ("read: WARC files", lambda pool: pool.files * WARC_BYTES),
        ("written: pages", lambda pool: pool.pages),
        ("read by rules and near-duplicates (pages, then thinned)", lambda pool: 2 * pool.pages),
        ("written: keys of 14 bands", lambda pool: pool.documents * KEY_BYTES),
        ("written: dataset, a tenth", lambda pool: pool.pages * KEPT),
    )
    rows = [(label, *(size(of(pool)) for pool in POOLS)) for label, of in lines]
    kept = [f"${amount(pool.pages * MONTH_DOLLARS)}" for pool in POOLS]
    rows.append(("keeping the pages a month", *kept))
    return markdown(("", *(pool.name for pool in POOLS)), rows)


def requests_table() -> str:
    """What the exchange of keys and verdicts costs in requests, with and without merging."""
    rows: list[tuple[str, ...]] = [("parts of the keys", *(f"{pool.parts:,}" for pool in POOLS))]
    for label, merge in (("every slice by itself", False), ("files merged before", True)):
        made = [shuffles(pool, merge=merge) for pool in POOLS]
        rows.append((f"{label}: slices", *(amount(each.slices) for each in made)))
        rows.append((f"{label}: requests", *(amount(each.gets + each.puts) for each in made)))
        rows.append((f"{label}: dollars", *(f"${amount(each.dollars)}" for each in made)))
        hours = [each.gets / PREFIX_GETS / 3600 for each in made]
        rows.append((f"{label}: hours of one prefix", *(amount(value) for value in hours)))
    return markdown(("near-duplicates", *(pool.name for pool in POOLS)), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def amount(value: float) -> str:
    """Two figures, as people read them."""
    for scale, word in ((1e9, " billion"), (1e6, " million")):
        if value >= scale:
            return (
                f"{value / scale:,.0f}{word}"
                if value >= 1000 * scale
                else f"{value / scale:.3g}{word}"
            )
    if value < 10:
        return f"{value:.2g}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}"


def size(value: float) -> str:
    for scale, unit in ((1e15, "PB"), (1e12, "TB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e9:.3g} GB"


def filled(page: str, performance: str) -> str:
    """The page with its tables written again."""
    known = rates(performance)
    tables = {
        "rates": rates_table(known),
        "hours": hours_table(known),
        "bytes": bytes_table(),
        "requests": requests_table(),
    }
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- scale\.py: {name} -->\n).*?(\n<!-- end -->)", re.S)
        page, number = pattern.subn(
            lambda match, table=table: f"{match[1]}\n{table}\n{match[2]}", page
        )
        if number != 1:
            raise ValueError(f"docs/scale.md has no place <!-- scale.py: {name} -->")
    return page


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), PERFORMANCE.read_text()))


if __name__ == "__main__":
    main()
