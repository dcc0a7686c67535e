"""Publish a dataset so that others can build on it: its data, record, funnel and licences.

    README.md      a card: where it comes from, what each step rejected, licences, how to use it
    record.json    the dataset's record; chain.json its ancestors; stats.json the funnel
    data/...       the files that the record names, each checked while it is copied

README.md is written last: a folder without it is not whole. Doing it again copies only what is
missing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leaderboard.board.describe import funnel, pipeline_yaml
from pipelines.errors import RuleError
from pipelines.execution.progress import step
from pipelines.records import DatasetRecord, File, PoolRecord
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import CHAIN, RECORD, read_chain
from pipelines.storage.open import open_store

CARD, STATS = "README.md", "stats.json"
CHUNK = 1 << 20  # bytes copied at a time


def publish(dataset: str, to: str, *, benchmark: str, url: str = "") -> str:
    """Copy a dataset to a folder, to `s3://`, or to a dataset repository `hf://OWNER/NAME`.

    Returns the address of its card. RuleError for a folder that holds no curated dataset, or whose
    files are not those of its record.
    """
    source = open_store(dataset)
    records = read_chain(source)
    record = records[-1]
    if not isinstance(record, DatasetRecord):
        raise RuleError(f"{dataset} holds a {record.kind} record; publish a dataset's folder")
    pools = [record_ for record_ in records if isinstance(record_, PoolRecord)]
    card = card_of(record, pools, benchmark=benchmark, url=url)
    if to.startswith("hf://"):
        return _to_hub(source, record, card, to.removeprefix("hf://"))
    target = open_store(to)
    if target.exists(RECORD) and target.read_bytes(RECORD) != source.read_bytes(RECORD):
        raise RuleError(f"{to} holds another dataset; choose another place")
    _copy_all(source, target, record)
    write_bytes(target, CARD, card.encode())
    return f"{to.rstrip('/')}/{CARD}"


def _copy_all(source: Store, target: Store, record: DatasetRecord) -> None:
    for name in (RECORD, CHAIN, STATS):
        if source.exists(name):
            write_bytes(target, name, source.read_bytes(name))
    sizes = {entry.name: entry.num_bytes for entry in target.list()}
    with step("publish", total=len(record.outputs), unit="files") as bar:
        for file in record.outputs:
            if sizes.get(file.name) != file.num_bytes:
                _copy(source, target, file)
            bar.advance()


def _copy(source: Store, target: Store, file: File) -> None:
    """Copy one file; it appears only when its bytes are those that the record names."""
    sha256 = hashlib.sha256()
    with source.open(file.name) as data, target.create(file.name) as out:
        while chunk := data.read(CHUNK):
            sha256.update(chunk)
            out.write(chunk)
        if sha256.hexdigest() != file.sha256:
            raise RuleError(
                f"{source.uri}/{file.name} has sha256 {sha256.hexdigest()[:16]}, its record says "
                f"{file.sha256[:16]}: the file was changed; curate again"
            )


def _to_hub(source: Store, record: DatasetRecord, card: str, repository: str) -> str:
    """Upload to a dataset repository of the Hugging Face hub, with the token of its own client."""
    from huggingface_hub import HfApi

    if repository.count("/") != 1:
        raise RuleError(f"hf://{repository} is not a repository; write hf://OWNER/NAME")
    api = HfApi()
    api.create_repo(repository, repo_type="dataset", exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-") as folder:
        target = open_store(folder)
        _copy_all(source, target, record)
        (Path(folder) / CARD).write_text(card, encoding="utf-8")
        api.upload_folder(repo_id=repository, folder_path=folder, repo_type="dataset")
    return f"https://huggingface.co/datasets/{repository}"


# ---- the card


def card_of(
    record: DatasetRecord, pools: list[PoolRecord], *, benchmark: str, url: str = ""
) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads."""
    name = str(record.work.pipeline.get("name", "dataset"))
    return "\n".join(
        [
            "---",
            f"pretty_name: {_quoted(name)}",
            "license: other",
            "license_name: that-of-each-source",
            f"tags: [data-curation, {benchmark}]",
            "---",
            "",
            f"# {name}",
            "",
            *_origin(record, pools, url),
            "## What was rejected",
            "",
            *_funnel(record),
            "",
            "## The pipeline",
            "",
            "```yaml",
            pipeline_yaml(record.work.pipeline).rstrip(),
            "```",
            "",
            *_modules(record),
            "## Licences",
            "",
            *_licences(record, pools),
            "",
            "## Use it",
            "",
            "```",
            f"{benchmark} pack --scale SCALE --dataset THIS_FOLDER --out packed",
            "```",
            "",
            "`record.json` names every file with its sha256, `chain.json` the pool it came from; "
            "the dataset keeps its id wherever it is copied.",
            "",
        ]
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _origin(record: DatasetRecord, pools: list[PoolRecord], url: str) -> Iterator[str]:
    counts = record.counts
    size = sum(file.num_bytes for file in record.outputs)
    kept = f"{counts.get('rows_out', 0):,} of {counts.get('rows_in', 0):,} rows"
    yield f"Dataset `{record.id}`: {kept}, {len(record.outputs)} files, {size:,} bytes."
    for pool in pools:
        yield f"Curated from the pool {pool.work.name}, `{pool.id}`."
    if record.work.external:
        yield "It was curated elsewhere and registered: what made it is not recorded."
    if url:
        yield f"Write-up: {url}"
    yield ""


def _funnel(record: DatasetRecord) -> Iterator[str]:
    steps = funnel(record)
    if not steps:
        yield "Nothing: the pipeline has no steps."
        return
    yield "| step | operator | rows in | rows out | rejected |"
    yield "| --- | --- | --- | --- | --- |"
    for row in steps:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in row["reasons"]) or "-"
        shown = [_count(row["rows_in"]), _count(row["rows_out"])]
        yield f"| {row['step']} | {row['operator']} | {shown[0]} | {shown[1]} | {reasons} |"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _modules(record: DatasetRecord) -> Iterator[str]:
    for module in record.work.modules:
        yield f"Operators of its own, `{module.name}` (sha256 {module.sha256[:16]}):"
        yield ""
        yield "```python"
        yield module.text.rstrip()
        yield "```"
        yield ""


def _licences(record: DatasetRecord, pools: list[PoolRecord]) -> Iterator[str]:
    sources = [source for pool in pools for source in pool.work.sources]
    if not sources:
        yield "The pool names no sources; the licence of its documents is not known."
        return
    counted = Counter(source.licence or "unknown" for source in sources)
    yield "Documents keep the licences of their sources:"
    yield ""
    yield "| licence | sources | for example |"
    yield "| --- | --- | --- |"
    first: Mapping[str, Any] = {source.licence or "unknown": source for source in reversed(sources)}
    for licence, number in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        source = first[licence]
        yield f"| {licence} | {number:,} | {source.name} {source.version}".rstrip() + " |"
    for asset in record.work.assets:
        yield ""
        yield f"Made with the asset {asset.name} (sha256 {asset.sha256[:16]})."
