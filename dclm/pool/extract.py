"""Common Crawl to documents: WARC or WET files in, one shard of documents per file out.

The method is that of DCLM-Pool (Li et al. 2024, section 3.1 and appendix E): resiliparse's plain
text of the main content of every response record. What the reference drops silently (a page that is
not UTF-8) or keeps (error pages, other media) is a parameter here; `ExtractOptions.reference()` has
its choices. Every page is a document or a rejection with a reason, and the counts add up.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.engine.run import RECOVERABLE
from pipelines.engine.run_folder import RUN, RunFailed, RunFile, read_run
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.execution.monitor import Watch
from pipelines.execution.once import once
from pipelines.formats.shards import ShardError, format_of
from pipelines.formats.warc import Extracted, ExtractOptions, documents
from pipelines.formats.writers import TableWriter, suffix_of, write_table
from pipelines.records import (
    JSON,
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    digest,
    made_by,
    now,
    parse_record,
)
from pipelines.schema import STRING
from pipelines.storage.base import Entry, Store, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.open import open_store, split_uri

Format = Literal["parquet", "jsonl.gz", "jsonl.zst"]

DOCUMENTS = pa.schema(
    [("text", STRING), ("url", STRING), ("id", STRING), ("date", STRING), ("extra", STRING)]
)
PAGES = pa.schema([("text", STRING), ("extra", STRING)])
"""The reference's page: `text`, and inside `extra` the fields `metadata` and `warcinfo`."""
REJECTED = pa.schema(
    [("url", STRING), ("reason", STRING), ("detail", STRING), ("offset", pa.int64())]
)
BATCH_PAGES = 1000  # whichever of the two comes first ends a batch
BATCH_CHARACTERS = 16 << 20

TOKENS_PER_WARC = 9.0e7  # of extracted text, as measured for DCLM-Pool on CC-MAIN-2019-18
SELECTION_SEED = 42  # of the drawn WARC files
NOT_IN_THE_POOL = r"CC-MAIN-2023"  # DCLM-Pool takes no crawl of 2023 or later


class ExtractTask(Frozen):
    """One WARC file to one shard of documents."""

    source: str = Field(description="folder or bucket prefix of the WARC file")
    name: str
    out: str
    shard: int
    key: str
    options: ExtractOptions = Field(default_factory=ExtractOptions)
    format: Format = "parquet"
    keep_headers: bool = Field(True, description="whether documents keep the WARC headers")
    quarantine: bool = Field(False, description="note a broken end of the file, and continue")

    @property
    def uri(self) -> str:
        return self.out

    @property
    def step(self) -> int:
        return 0


@once
def extract(task: ExtractTask, store: Store) -> Done:
    """Write the documents of one WARC file as a shard, and what was rejected next to it.

    Counts: pages, documents, bytes (stored), text_bytes, and rejected pages by reason. The sha256
    of the file, taken in passing, is in the statistics. A file that breaks off raises ShardError
    unless `quarantine` is set.
    """
    counts = {"pages": 0, "documents": 0, "bytes": 0, "text_bytes": 0}
    rejected: list[dict[str, Any]] = []
    schema = DOCUMENTS if task.format == "parquet" else PAGES
    stem = f"{task.shard:05d}"
    if task.format != "parquet":
        stem = f"{_stem(task.name)}_{hashlib.md5(task.name.encode()).hexdigest()[:7]}"
    name = attempt_name(f"data/{stem}", suffix_of(task.format))
    writer = TableWriter(store, name, task.format, schema)
    rows: list[dict[str, str | None]] = []
    num_held = 0
    try:
        with open_store(task.source).open(task.name) as file:
            stream = _Hashed(file)
            for page in _pages(stream, task):
                counts["pages"] += 1
                if page.text is None:
                    reason = f"rejected/{page.reason}"
                    counts[reason] = counts.get(reason, 0) + 1
                    rejected.append(_rejection(page))
                    continue
                counts["documents"] += 1
                rows.append(_row(page, task))
                num_held += len(page.text)
                if len(rows) == BATCH_PAGES or num_held > BATCH_CHARACTERS:
                    counts["text_bytes"] += _write(writer, rows)
                    rows, num_held = [], 0
            counts["text_bytes"] += _write(writer, rows)
            sha256 = stream.rest()
            counts["bytes"] = stream.num_bytes
    except BaseException:
        writer.abandon()
        raise
    files = [writer.close()]
    if rejected and task.keep_headers:
        table = pa.Table.from_pylist(rejected, schema=REJECTED)
        files.append(write_table(store, attempt_name(f"rejected/{stem}", ".parquet"), table))
    return Done(key=task.key, files=tuple(files), counts=counts, stats={"sha256": sha256})


def _write(writer: TableWriter, rows: list[dict[str, str | None]]) -> int:
    """Write the rows; returns the bytes of their text."""
    table = pa.Table.from_pylist(rows, schema=writer.schema)
    writer.write(table)
    return int(pc.sum(pc.binary_length(table.column("text"))).as_py() or 0)


def _pages(stream: _Hashed, task: ExtractTask) -> Iterator[Extracted]:
    where = f"{task.source}/{task.name}"
    try:
        for page in documents(stream, options=task.options):
            if page.reason == "broken_record" and not task.quarantine:
                raise ShardError(
                    f"{where} breaks off at byte {page.offset}: {page.detail}; fetch it again, or "
                    "extract with --quarantine to take the pages before that"
                )
            yield page
    except ShardError:
        raise
    except ValueError as error:  # no WARC file at all
        raise ShardError(f"{where}: {error}") from None


def _row(page: Extracted, task: ExtractTask) -> dict[str, str | None]:
    if task.format != "parquet":
        fields: dict[str, JSON] = {"metadata": page.headers, "warcinfo": page.warcinfo}
        return {"text": page.text, "extra": orjson.dumps(fields).decode()}
    extra = orjson.dumps({"metadata": page.headers}).decode() if task.keep_headers else None
    return {
        "text": page.text,
        "url": page.url,
        "id": page.headers.get("WARC-Record-ID"),
        "date": page.headers.get("WARC-Date"),
        "extra": extra,
    }


def _rejection(page: Extracted) -> dict[str, Any]:
    return {
        "url": page.url,
        "reason": page.reason,
        "detail": page.detail,
        "offset": page.offset,
    }


def _stem(name: str) -> str:
    leaf = name.rpartition("/")[2]
    return re.sub(r"\.(warc|wet)(\.gz)?$", "", leaf)


class _Hashed:
    """A stream whose bytes are hashed and counted in passing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.num_bytes += len(data)
        return data

    def rest(self) -> str:
        """Read to the end; the sha256 of everything."""
        while self.read(1 << 20):
            pass
        return self._sha256.hexdigest()


# ---- which files


def select_warcs(
    names: Sequence[str], number: int, *, seed: int = SELECTION_SEED, exclude: str | None = None
) -> list[str]:
    """A random sample of WARC files, as DCLM-Pool was drawn: `random.sample` after the exclusion.

    The order of `names` matters: give all crawls' `warc.paths` one after the other. PoolError when
    there are fewer than `number`.
    """
    left = [name for name in names if not (exclude and re.search(exclude, name))]
    if number > len(left):
        raise PoolError(
            f"{number:,} WARC files are asked for, and there are {len(left):,}"
            + (f" without {exclude!r}" if exclude else "")
        )
    return random.Random(seed).sample(left, number)


def warcs_for(tokens: float, *, tokens_per_warc: float = TOKENS_PER_WARC) -> int:
    """How many WARC files hold about so many tokens of extracted text."""
    return max(1, int(tokens / tokens_per_warc))


def read_list(uri: str) -> list[str]:
    """The names of a list of files, one a line; empty lines and `#` comments are left out."""
    store, leaf = split_uri(uri)
    lines = store.read_bytes(leaf).decode().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def warcs_below(store: Store) -> list[Entry]:
    """The WARC and WET files below a place, by name. PoolError when there are none."""
    warcs = [entry for entry in store.list() if format_of(entry.name) == "warc"]
    if not warcs:
        raise PoolError(
            f"there are no WARC files below {store.uri}; expected names ending in .warc, .warc.gz, "
            ".wet or .wet.gz"
        )
    return warcs


# ---- a whole extraction


def extract_all(
    source: str,
    *,
    out: str,
    name: str,
    names: Sequence[str] | None = None,
    options: ExtractOptions | None = None,
    format: Format = "parquet",
    quarantine: bool = False,
    map_tasks: MapTasks = map_here,
    max_failed_shards: int = 0,
    parameters: dict[str, JSON] | None = None,
) -> PoolRecord:
    """Extract every WARC file below `source` (or those of `names`) into the folder `out`.

    Run again, it resumes where it stopped. `parameters` (how the files were chosen) go into the
    record; where the files were fetched as a published pool, so do its name and the hash of its
    list. RunFailed when `out` holds other work.
    """
    options = options or ExtractOptions()
    started = now()
    warc_store, store = open_store(source), open_store(out)
    entries = warcs_below(warc_store)
    if names is not None:
        known = {entry.name: entry for entry in entries}
        missing = [listed for listed in names if listed not in known]
        if missing:
            raise PoolError(
                f"{len(missing)} listed files are not below {warc_store.uri}: {missing[0]}"
            )
        entries = sorted((known[listed] for listed in names), key=lambda entry: entry.name)
    work = {
        "extraction": options.model_dump(mode="json"),
        "format": format,
        **_raw_pool(warc_store),
        **(parameters or {}),
    }
    key = digest([name, work, [entry.model_dump() for entry in entries]])
    if store.exists(RECORD):
        return _standing(store, key)
    _claim(
        store, key=key, name=name, source=warc_store.uri, num_shards=len(entries), started=started
    )
    tasks = [
        ExtractTask(
            source=warc_store.uri,
            name=entry.name,
            out=store.uri,
            shard=shard,
            key=f"x-{shard:05d}-{digest([entry.model_dump(), work])[:16]}",
            options=options,
            format=format,
            quarantine=quarantine,
        )
        for shard, entry in enumerate(entries)
    ]
    with Watch(
        store,
        name=name,
        key=key,
        map_tasks=map_tasks,
        failures_allowed=max_failed_shards,
        recoverable=RECOVERABLE,
    ) as watch:
        done = watch.stage(
            f"{name}: extract",
            extract,
            tasks,
            unit="files",
            names=[entry.name for entry in entries],
            weights=[float(entry.num_bytes) for entry in entries],
        )
        record = _record(name, work, entries, done, key=key, started=started, uri=store.uri)
        write_bytes(store, RECORD, record.to_json())
        watch.event("finished", id=record.id)
    return record


def _raw_pool(store: Store) -> dict[str, JSON]:
    """What a pool that is made from a fetched one says of it: nothing where there is no record."""
    if not store.exists(RECORD):
        return {}
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    if not isinstance(record, PoolRecord):
        return {}
    return {"raw": record.work.name, "raw_keys": record.work.parameters.get("keys")}


def _record(
    name: str,
    work: dict[str, JSON],
    entries: Sequence[Entry],
    done: Sequence[Done],
    *,
    key: str,
    started: str,
    uri: str,
) -> PoolRecord:
    counts: dict[str, int] = {}
    for result in done:
        for what, number in result.counts.items():
            counts[what] = counts.get(what, 0) + number
    outputs: list[File] = [result.files[0] for result in done]
    sources = tuple(
        PoolSource(name=entry.name, version="", sha256=result.stats["sha256"], licence="unknown")
        for entry, result in zip(entries, done, strict=True)
    )
    return PoolRecord.seal(
        work=PoolWork(
            name=name, variant="extracted", sources=sources, parameters={**work, "asked": key}
        ),
        parents={},
        outputs=outputs,
        counts=counts,
        made_by=made_by(started, locations={"out": uri}),
    )


def _claim(
    store: Store, *, key: str, name: str, source: str, num_shards: int, started: str
) -> None:
    file = RunFile(
        key=key,
        pipeline=name,
        input_uri=source,
        num_shards=num_shards,
        num_passes=1,
        started=started,
    )
    if not store.put_if_absent(RUN, file.model_dump_json(indent=2).encode()):
        known = read_run(store)
        if known.key != key:
            raise RunFailed(
                f"{store.uri} holds other work ({known.pipeline!r}): the files, their selection or "
                "the options changed; choose another --out"
            )


def _standing(store: Store, key: str) -> PoolRecord:
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    if not isinstance(record, PoolRecord) or record.work.parameters.get("asked") != key:
        raise RunFailed(f"{store.uri} holds another finished run; choose another --out")
    return record
