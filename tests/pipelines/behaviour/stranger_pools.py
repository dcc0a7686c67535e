"""Pools of files as strangers write them, and the rows that a run over them gives."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline

AT = {"text": "same text"}


def jsonl(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def made(folder: Path, *steps: Any, **options: Any) -> list[dict[str, Any]]:
    """The documents that a pipeline over `folder`/pool gives, as JSON."""
    result = run(
        Pipeline.from_steps(steps),
        open_pool(str(folder / "pool")),
        out=str(folder / "out"),
        format="jsonl.gz",
        **options,
    )
    names = [file.name for file in result.record.outputs]
    data = b"".join(gzip.decompress((folder / "out" / name).read_bytes()) for name in names)
    return [orjson.loads(line) for line in data.splitlines()]
