"""The embedded tiny text pool: real pages from package registries, packed as a small crawl.

`build` writes, from the sources in `tiny_pool.yaml`:

- `warc/tiny-00000.warc.gz` ...: the pool, eight WARC files of equal page counts, every one a mix of
  all sources, to be read as Common Crawl is read (`pipelines.formats.warc`);
- `heldout.jsonl.gz`: prose that models are evaluated on, rows {id, source, text, licence};
- `positives.jsonl.gz`: prose that trains the quality classifier, same rows;
- `lid.176.ftz`: fastText's language identification model.

Held-out prose comes from packages that supply neither positives nor the pool's prose, and whatever
shares a run of words with it is left out of both. The same packages give the same bytes: no clock,
no random source, gzip time 0. `docs/tiny-pool.md` describes the sources.
"""

import base64
import hashlib
import json
import os
import struct
import uuid
import zlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dclm.pool.tiny_pages import Page, Row, ngrams, pages, rows, shares_text
from dclm.pool.tiny_sources import DEFAULT, Source, load_sources
from pipelines.assets.packages import Fetched, Progress, fetch, members

__all__ = [
    "DEFAULT",
    "Fetched",
    "ProseFile",
    "Source",
    "SourceReport",
    "TinyPool",
    "WarcFile",
    "build",
    "fetch",
    "load_sources",
]

NUM_WARCS = 8  # files, so that work can be spread and killed between them
LID = "lid.176.ftz"
WARC_DATE = "2024-01-01T00:00:00Z"
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace of URLs


class WarcFile(BaseModel):
    """One WARC file of the pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="path below the pool's folder")
    sha256: str = Field(description="of the file")
    num_bytes: int = Field(description="length of the file")
    num_pages: int = Field(description="response records")
    content_sha256: str = Field(
        description="of the records before compression: equal pages give an equal one even where "
        "another zlib compresses them differently"
    )


class ProseFile(BaseModel):
    """A file of prose rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="path below the pool's folder")
    sha256: str = Field(description="of the file")
    num_bytes: int = Field(description="length of the file")
    num_documents: int = Field(description="rows")


class ModelFile(BaseModel):
    """The language identification model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="path below the pool's folder")
    sha256: str = Field(description="of the file")
    num_bytes: int = Field(description="length of the file")


class SourceReport(BaseModel):
    """What became of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["pool", "positives", "heldout", "lid"]
    kind: str = Field(description="what sort of text it is")
    client: Literal["apt", "npm", "pip"]
    package: str
    version: str | None = Field(description="version found; null when missing")
    sha256: str | None = Field(description="of the file found; null when missing")
    expected_sha256: str = Field(description="of the pinned file")
    status: Literal["pinned", "changed", "missing"]
    reason: str | None = Field(description="why it is changed or missing; null when pinned")
    licence: str
    num_pages: int = Field(description="pages in the pool, or rows of prose; 1 for the model")
    num_dropped: int = Field(description="pages or rows left out because they share held-out text")


class TinyPool(BaseModel):
    """What a build made, and from what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warcs: list[WarcFile]
    heldout: ProseFile
    positives: ProseFile
    lid: ModelFile | None = Field(description="null when its source is missing")
    sources: list[SourceReport]
    dropped_near_heldout: int = Field(
        description="pool pages left out because they share a run of words with held-out text"
    )

    @property
    def identity(self) -> str:
        """A sha256 over the content of the pool and its prose files, whatever zlib made of them."""
        parts = [file.content_sha256 for file in self.warcs]
        parts += [self.heldout.sha256, self.positives.sha256]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def build(
    out: Path,
    *,
    cache: Path,
    sources: list[Source] | None = None,
    progress: Progress | None = None,
) -> TinyPool:
    """Fetch what is not in `cache` yet, and write the pool below `out`.

    A missing source leaves its pages out, a changed one is used as found; both are said in the
    report. Raises ValueError when nothing is left of the pool, the held-out prose or the positives.
    """
    sources = load_sources() if sources is None else sources
    fetched = fetch(sources, cache=cache, progress=progress)
    (out / "warc").mkdir(parents=True, exist_ok=True)
    counts = {source.name: [0, 0] for source in sources}  # kept, dropped

    def files(item: Fetched[Source]) -> list[tuple[str, bytes]]:
        if progress is not None:
            progress(f"read {item.source.name}", fetched.index(item), len(fetched))
        assert item.path is not None, "missing sources have been taken out"
        return members(item.path, source=item.source)

    def with_role(role: str) -> list[Fetched[Source]]:
        return [item for item in fetched if item.source.role == role and item.path is not None]

    heldout: list[tuple[Source, Row]] = []
    for item in with_role("heldout"):
        made = [
            (item.source, row)
            for row in rows(_chosen(files(item), item.source), source=item.source)
        ]
        counts[item.source.name][0] = len(made)
        heldout += made
    protected: set[str] = set()
    for _, row in heldout:
        protected |= ngrams(row.text, stride=1)

    positives: list[tuple[Source, Row]] = []
    for item in with_role("positives"):
        for row in rows(_chosen(files(item), item.source), source=item.source):
            shared = shares_text(row.text, protected=protected)
            counts[item.source.name][shared] += 1
            if not shared:
                positives.append((item.source, row))

    records: dict[str, _Record] = {}
    for item in with_role("pool"):
        for page in pages(_chosen(files(item), item.source), source=item.source):
            shared = shares_text(page.text(), protected=protected)
            counts[item.source.name][shared] += 1
            if shared:
                continue
            if page.url in records:
                raise ValueError(f"source {item.source.name!r}: {page.url} is there twice")
            records[page.url] = _Record(page)

    for role, role_rows in (("heldout", heldout), ("positives", positives), ("pool", records)):
        if not role_rows:
            raise ValueError(
                f"no source with the role {role!r} is available: {_why(fetched, role)}"
            )

    if progress is not None:
        progress("write", len(fetched), len(fetched))
    lid = None
    for item in with_role("lid"):
        [(_, data)] = files(item)
        lid = ModelFile(name=LID, sha256=_write(out / LID, data), num_bytes=len(data))
        counts[item.source.name][0] = 1
    return TinyPool(
        warcs=_write_warcs(out, records),
        heldout=_write_prose(out, "heldout.jsonl.gz", heldout),
        positives=_write_prose(out, "positives.jsonl.gz", positives),
        lid=lid,
        sources=[_report(item, *counts[item.source.name]) for item in fetched],
        dropped_near_heldout=sum(
            counts[item.source.name][1] for item in fetched if item.source.role == "pool"
        ),
    )


def _chosen(files: list[tuple[str, bytes]], source: Source) -> list[tuple[str, bytes]]:
    """At most `max_pages` files, the ones whose URL has the smallest hash, in order of path."""
    if source.max_pages is None or len(files) <= source.max_pages:
        return files
    ranked = sorted(files, key=lambda file: _hash(source.url + file[0]))
    return sorted(ranked[: source.max_pages])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _why(fetched: list[Fetched[Source]], role: str) -> str:
    mine = [item for item in fetched if item.source.role == role]
    if not mine:
        return "none is listed"
    return "; ".join(
        f"{item.source.name}: {item.reason or 'it has no usable text'}" for item in mine
    )


def _report(item: Fetched[Source], num_pages: int, num_dropped: int) -> SourceReport:
    source = item.source
    return SourceReport(
        name=source.name,
        role=source.role,
        kind=source.kind,
        client=source.client,
        package=source.package,
        version=item.version,
        sha256=item.sha256,
        expected_sha256=source.sha256,
        status=item.status,
        reason=item.reason,
        licence=source.licence,
        num_pages=num_pages,
        num_dropped=num_dropped,
    )


# Writing


class _Record:
    """A response record, compressed at once so that the pool fits in memory."""

    def __init__(self, page: Page) -> None:
        block = page.block()
        digest = hashlib.sha256(page.url.encode() + b"\0" + block).hexdigest()
        payload = base64.b32encode(hashlib.sha1(page.body).digest()).decode()
        record = _record(
            block,
            kind="response",
            record_id=uuid.uuid5(_NAMESPACE, digest),
            content_type="application/http; msgtype=response",
            extra={"WARC-Target-URI": page.url, "WARC-Payload-Digest": f"sha1:{payload}"},
        )
        self.member = _gzip_member(record)
        self.content_digest = hashlib.sha256(record).digest()


def _record(
    block: bytes, *, kind: str, record_id: uuid.UUID, content_type: str, extra: dict[str, str]
) -> bytes:
    """A WARC/1.0 record (ISO 28500:2009)."""
    headers = {
        "WARC-Type": kind,
        "WARC-Date": WARC_DATE,
        "WARC-Record-ID": f"<urn:uuid:{record_id}>",
        **extra,
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"WARC/1.0\r\n" + head.encode("utf-8") + b"\r\n" + block + b"\r\n\r\n"


def _gzip_member(data: bytes) -> bytes:
    """One gzip member with time 0 and, whatever the machine, the same operating system byte."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _write_warcs(out: Path, records: dict[str, _Record]) -> list[WarcFile]:
    """Deal the pages, in the order of a hash of their URLs, to the files in turn."""
    order = sorted(records, key=_hash)
    written = []
    for index in range(NUM_WARCS):
        name = f"warc/tiny-{index:05d}.warc.gz"
        info = (
            "software: dclm.tiny_pool\r\nformat: WARC File Format 1.0\r\n"
            "description: tiny pool, documentation and mails from package registries\r\n"
        )
        first = _record(
            info.encode(),
            kind="warcinfo",
            record_id=uuid.uuid5(_NAMESPACE, name),
            content_type="application/warc-fields",
            extra={"WARC-Filename": Path(name).name},
        )
        mine = [records[url] for url in order[index::NUM_WARCS]]
        content = hashlib.sha256(first)
        for record in mine:
            content.update(record.content_digest)
        data = b"".join([_gzip_member(first), *(record.member for record in mine)])
        sha256 = _write(out / name, data)
        written.append(
            WarcFile(
                name=name,
                sha256=sha256,
                num_bytes=len(data),
                num_pages=len(mine),
                content_sha256=content.hexdigest(),
            )
        )
    return written


def _write_prose(out: Path, name: str, rows: list[tuple[Source, Row]]) -> ProseFile:
    """Rows sorted by id, one JSON object a line."""
    lines = [
        json.dumps(
            {"id": row.id, "source": source.name, "text": row.text, "licence": source.licence},
            ensure_ascii=False,
        )
        for source, row in sorted(rows, key=lambda pair: pair[1].id)
    ]
    data = _gzip_member("".join(line + "\n" for line in lines).encode("utf-8"))
    sha256 = _write(out / name, data)
    return ProseFile(name=name, sha256=sha256, num_bytes=len(data), num_documents=len(lines))


def _write(path: Path, data: bytes) -> str:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return hashlib.sha256(data).hexdigest()
