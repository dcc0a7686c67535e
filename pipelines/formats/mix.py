"""Mixtures of datasets: a manifest of which rows are used how often, without copies of texts.

A mixture is a dataset whose shards are small JSON files (`.mix.json`), each naming a parquet shard
of a source and the part of it that is taken. Pipelines and packing read them like other shards.
`repeat: 2.5` takes all rows twice and half of them once more; the half is those whose hash of seed
and row is below 0.5, so it does not depend on how the work is divided.

The YAML file that defines a mixture is described in `mixture`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.batch import MAX_BATCH_ROWS
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.mix_parts import By
from pipelines.formats.mix_shares import Counted, Unit, count_sources, decide, units_of
from pipelines.formats.mixture import Mixture, Source
from pipelines.records import (
    JSON,
    DatasetRecord,
    DatasetWork,
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    made_by,
    now,
    sha256_bytes,
)
from pipelines.schema import ROW
from pipelines.storage.base import write_bytes
from pipelines.storage.chain import RECORD, read_chain, write_chain
from pipelines.storage.open import open_store

SUFFIX = ".mix.json"
SOURCE = "source"


class MixShard(Frozen):
    """A `.mix.json` file: which shard, and which of its rows. `num_bytes`: about those taken."""

    uri: str
    file: File
    source: str
    copy_number: int
    below: float  # rows whose hash of seed, copy and row is below this
    seed: int
    num_bytes: int
    by: By | None = None
    parts: dict[str, float] | None = None  # with `by`: `below` of each part

    def to_json(self) -> bytes:
        """The bytes of the file; without `by` the same as before parts were introduced."""
        values = self.model_dump(mode="json", exclude={"by", "parts"} if self.by is None else None)
        return orjson.dumps(values, option=orjson.OPT_INDENT_2)


def mix(mixture: Mixture, *, name: str, out: str, map_tasks: MapTasks = map_here) -> DatasetRecord:
    """Write the manifest of a mixture and its record; no text is copied.

    RecordError for a source that is not a finished dataset in parquet; ValueError where a share
    needs more repeats than `max_repeat`.
    """
    counted = count_sources(mixture, map_tasks=map_tasks)
    units = decide(mixture, units_of(mixture, counted))
    return write_mix(mixture, counted, units, name=name, out=out)


def write_mix(
    mixture: Mixture,
    counted: Sequence[Counted],
    units: Sequence[Unit],
    *,
    name: str,
    out: str,
) -> DatasetRecord:
    """Write a mixture whose repeats are decided."""
    started = now()
    target = open_store(out)
    pool = _pool(name, mixture, counted)
    work = DatasetWork(
        pipeline={
            "name": name,
            "mix": {"seed": mixture.seed, "sources": [_row(mixture, counted, u) for u in units]},
        },
        external=any(own.record.work.external for own in counted),
        output={"format": "mix"},
    )
    outputs: list[File] = []
    rows, size = 0, 0
    for number, (source, own) in enumerate(zip(mixture.sources, counted, strict=True)):
        repeats = {unit.part: unit.repeat for unit in units if unit.source == number}
        for shard, taken in _shards(source, own, repeats, mixture.seed):
            file = f"data/{len(outputs):06d}{SUFFIX}"
            written = write_bytes(target, file, shard.to_json())
            outputs.append(written.model_copy(update={"num_rows": taken}))
            rows, size = rows + taken, size + shard.num_bytes
    record = DatasetRecord.seal(
        work=work,
        parents={"pool": pool.id},
        outputs=outputs,
        counts={"rows_out": rows, "file_bytes": size},
        made_by=made_by(started, locations={"out": target.uri}),
    )
    for source, own in zip(mixture.sources, counted, strict=True):
        chain = read_chain(open_store(own.uri))
        lines = [each.model_dump(mode="json") for each in chain]
        write_bytes(target, f"sources/{source.name}.json", orjson.dumps(lines))
    write_chain(target, [pool])
    write_bytes(target, RECORD, record.to_json())
    return record


def _row(mixture: Mixture, counted: Sequence[Counted], unit: Unit) -> dict[str, Any]:
    """The entry of a source or part in the record."""
    row: dict[str, Any] = {
        "name": unit.name,
        "record": counted[unit.source].record.id,
        "repeat": unit.repeat,
    }
    by = mixture.sources[unit.source].parts
    return row if by is None else row | {"by": by.model_dump(mode="json"), "part": unit.part}


def _pool(name: str, mixture: Mixture, counted: Sequence[Counted]) -> PoolRecord:
    """A pool record that lists the mixed datasets as its sources."""
    sources = tuple(
        PoolSource(
            name=source.name,
            version=own.record.id,
            sha256=own.record.id,
            licence="of its sources",
        )
        for source, own in zip(mixture.sources, counted, strict=True)
    )
    work = PoolWork(name=f"{name}: sources", variant="mix", sources=sources)
    return PoolRecord.seal(work=work, parents={}, outputs=[], made_by=made_by(now()))


def _shards(
    source: Source, own: Counted, repeats: Mapping[str | None, float], seed: int
) -> Iterator[tuple[MixShard, int]]:
    """One shard for each file and copy of a source, and about how many rows it takes."""
    for number in range(math.ceil(max(repeats.values(), default=0.0))):
        below = {part: min(1.0, max(0.0, repeat - number)) for part, repeat in repeats.items()}
        for at, file in enumerate(own.record.outputs):
            if own.files is None:
                share, rows = below[None], round((file.num_rows or 0) * below[None])
                parts = None
            else:
                there = own.files[at]
                parts = {part: below[part] for part in there if below[part] > 0}
                if not parts:
                    continue
                share = sum(there[p].amount * parts[p] for p in parts)
                share /= max(1, sum(size.amount for size in there.values()))
                rows = sum(round(there[p].rows * parts[p]) for p in parts)
            shard = MixShard(
                uri=own.uri,
                file=file,
                source=source.name,
                copy_number=number,
                below=below[None] if own.files is None else 1.0,
                seed=seed,
                num_bytes=round(file.num_bytes * share),
                by=source.parts,
                parts=parts,
            )
            yield shard, rows


# ---- reading


def read_mix_shard(data: bytes, *, where: str) -> MixShard:
    """The contents of a `.mix.json` file. ValueError when it is something else."""
    try:
        return MixShard.model_validate(orjson.loads(data))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{where} is not a shard of a mixture: {error}") from None


def mixed_tables(shard: MixShard) -> Iterator[pa.Table]:
    """The rows that a shard of a mixture takes, in order, with the source's name in `source`.

    FileNotFoundError or ValueError when the source's file was removed or changed.
    """
    store = open_store(shard.uri)
    data = store.read_bytes(shard.file.name)
    if sha256_bytes(data) != shard.file.sha256:
        raise ValueError(
            f"{shard.uri}/{shard.file.name} is not the file that was mixed: make the mixture again"
        )
    parquet = pq.ParquetFile(pa.BufferReader(data))
    number = 0
    for batch in parquet.iter_batches(batch_size=16 * MAX_BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        rows = (
            table[ROW].to_numpy()
            if ROW in table.column_names
            else np.arange(number, number + table.num_rows)
        )
        number += table.num_rows
        names = pa.array([shard.source] * table.num_rows, pa.large_string())
        if shard.by is not None:
            keep, names = _of_parts(shard, table, rows)
            table = table.filter(keep)
        elif shard.below < 1:
            keep = pa.array(_chance(shard, rows) < shard.below)
            table, names = table.filter(keep), names.filter(keep)
        if SOURCE in table.column_names:
            table = table.drop_columns([SOURCE])
        yield table.append_column(SOURCE, names)


def _of_parts(shard: MixShard, table: pa.Table, rows: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """A mask of the rows taken, and `source/part` for each of these."""
    assert shard.by is not None
    where = f"{shard.uri}/{shard.file.name}"
    parts = shard.by.of(table, where=where).dictionary_encode()
    known = parts.dictionary.to_pylist()
    below = np.array([(shard.parts or {}).get(part, 0.0) for part in known] or [0.0])
    keep = pa.array(_chance(shard, rows) < below[parts.indices.to_numpy()])
    names = pa.array([f"{shard.source}/{part}" for part in known], pa.large_string())
    return keep, names.take(parts.indices).filter(keep)


def _chance(shard: MixShard, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row, from seed, source, copy and row alone."""
    salt = int(sha256_bytes(f"{shard.seed}:{shard.source}:{shard.copy_number}".encode())[:16], 16)
    mixed = _mixed(rows.astype(np.uint64), np.uint64(salt))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mixed(values: npt.NDArray[np.uint64], salt: np.uint64) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = values + salt
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def plan_rows(record: DatasetRecord) -> list[Mapping[str, JSON]]:
    """What a mixture takes of each source, for printing."""
    return list(record.work.pipeline["mix"]["sources"])
