"""Mixtures of datasets: a manifest that says how often which rows come, and no copy of any text.

A mixture is a dataset whose shards are small JSON files (`.mix.json`), each naming a parquet shard
of a source and the part of it that is taken. Whatever reads shards reads them: a pipeline, packing.
`repeat: 2.5` takes all rows twice and half of them once more; the half is those whose hash of seed
and row is below 0.5, so it does not depend on how the work is cut.

    sources:
      - {dataset: runs/web, name: web, repeat: 1.5}
      - {dataset: runs/code, name: code, share: 0.2}     # of the tokens, when total_tokens is given
    total_tokens: 8_000_000_000
    seed: 0
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field, ValidationError, field_validator

from pipelines.batch import MAX_BATCH_ROWS
from pipelines.records import (
    JSON,
    DatasetRecord,
    DatasetWork,
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    RecordError,
    made_by,
    now,
    parse_record,
    sha256_bytes,
)
from pipelines.schema import ROW
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, read_chain, write_chain
from pipelines.storage.open import open_store
from pipelines.yaml_text import load_yaml

SUFFIX = ".mix.json"
SOURCE = "source"
TOKEN_COLUMN = "num_tokens"
BYTES_PER_TOKEN = 4.2  # of English text under gpt-neox-20b, where nothing counts tokens


class Source(Frozen):
    """One dataset: `repeat` times, or a `share` of the tokens."""

    dataset: str = Field(description="folder or prefix of a finished dataset")
    name: str = Field(min_length=1, description="what `source` says of its rows")
    repeat: float | None = Field(None, gt=0)
    share: float | None = Field(None, gt=0, le=1)


class Mixture(Frozen):
    """What a mixture's YAML file says."""

    sources: tuple[Source, ...] = Field(min_length=1)
    total_tokens: int | None = Field(None, gt=0)
    bytes_per_token: float = Field(BYTES_PER_TOKEN, gt=0)
    max_repeat: float = Field(4.0, gt=0, description="more often than this is refused")
    seed: int = Field(0, ge=0)

    @field_validator("total_tokens", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """8e9, which YAML reads as a string."""
        try:
            return int(float(value)) if isinstance(value, str) else value
        except ValueError:
            return value


class MixShard(Frozen):
    """A `.mix.json` file: which shard, and which of its rows. `num_bytes` are those taken."""

    uri: str
    file: File
    source: str
    copy_number: int
    below: float  # rows whose hash of seed, copy and row is below this
    seed: int
    num_bytes: int


def load_mixture(path: Path) -> Mixture:
    """A mixture from YAML. ValueError says which key is wrong."""
    try:
        mixture = Mixture.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a mixture: {error}") from None
    for source in mixture.sources:
        if (source.repeat is None) == (source.share is None):
            raise ValueError(f"{path}: source {source.name!r}: give repeat or share, not both")
        if source.share is not None and mixture.total_tokens is None:
            raise ValueError(f"{path}: source {source.name!r} has a share: total_tokens is missing")
    shares = [source.share for source in mixture.sources if source.share is not None]
    total = math.fsum(shares)
    if shares and (total > 1 + 1e-6 or (len(shares) == len(mixture.sources) and total < 1 - 1e-6)):
        raise ValueError(f"{path}: the shares add up to {total:g}, expected 1")
    names = [source.name for source in mixture.sources]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two sources have one name: {', '.join(sorted(names))}")
    return mixture


def mix(mixture: Mixture, *, name: str, out: str) -> DatasetRecord:
    """Write the manifest of a mixture and its record; the texts stay where they are.

    RecordError for a source that is not a finished dataset in parquet; ValueError where a share
    needs more repeats than `max_repeat`.
    """
    started = now()
    target = open_store(out)
    known, chains, sources = [], [], []
    for source in mixture.sources:
        store = open_store(source.dataset)
        record = _dataset(store)
        repeat = _repeat(mixture, source, record)
        known.append((source, store, record, repeat))
        chains.append(read_chain(store))
        sources.append({"name": source.name, "record": record.id, "repeat": repeat})
    pool = _pool(name, known)
    work = DatasetWork(
        pipeline={"name": name, "mix": {"seed": mixture.seed, "sources": sources}},
        external=any(record.work.external for _, _, record, _ in known),
        output={"format": "mix"},
    )
    outputs: list[File] = []
    rows, size = 0, 0
    for source, store, record, repeat in known:
        for shard in _shards(source, store.uri, record, repeat, mixture.seed):
            data = orjson.dumps(shard.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
            file = f"data/{len(outputs):06d}{SUFFIX}"
            written = write_bytes(target, file, data)
            taken = round((shard.file.num_rows or 0) * shard.below)
            outputs.append(written.model_copy(update={"num_rows": taken}))
            rows, size = rows + taken, size + shard.num_bytes
    record = DatasetRecord.seal(
        work=work,
        parents={"pool": pool.id},
        outputs=outputs,
        counts={"rows_out": rows, "file_bytes": size},
        made_by=made_by(started, locations={"out": target.uri}),
    )
    for source, chain in zip(mixture.sources, chains, strict=True):
        lines = [record.model_dump(mode="json") for record in chain]
        write_bytes(target, f"sources/{source.name}.json", orjson.dumps(lines))
    write_chain(target, [pool])
    write_bytes(target, RECORD, record.to_json())
    return record


def _dataset(store: Store) -> DatasetRecord:
    where = f"{store.uri}/{RECORD}"
    if not store.exists(RECORD):
        raise RecordError(f"there is no {where}; a source is the folder of a finished dataset")
    record = parse_record(store.read_bytes(RECORD), source=where)
    if not isinstance(record, DatasetRecord):
        raise RecordError(f"{where} is a {record.kind} record; a source is a dataset")
    wrong = [file.name for file in record.outputs if not file.name.endswith(".parquet")]
    if wrong:
        raise RecordError(
            f"{where}: {wrong[0]} is not a parquet file; curate with --format parquet"
        )
    return record


def _tokens(mixture: Mixture, record: DatasetRecord) -> float:
    if TOKEN_COLUMN in record.counts:
        return record.counts[TOKEN_COLUMN]
    return record.counts["text_bytes"] / mixture.bytes_per_token


def _repeat(mixture: Mixture, source: Source, record: DatasetRecord) -> float:
    if source.repeat is not None:
        repeat = source.repeat
    else:
        assert source.share is not None
        assert mixture.total_tokens is not None
        repeat = source.share * mixture.total_tokens / max(_tokens(mixture, record), 1.0)
    if repeat > mixture.max_repeat:
        raise ValueError(
            f"source {source.name!r} would be repeated {repeat:.2f} times, more than max_repeat "
            f"({mixture.max_repeat:g}): give it a smaller share, or raise max_repeat"
        )
    return round(repeat, 6)


def _pool(name: str, known: list[tuple[Source, Store, DatasetRecord, float]]) -> PoolRecord:
    """The datasets together as the pool of the mixture."""
    sources = tuple(
        PoolSource(name=source.name, version=record.id, sha256=record.id, licence="of its sources")
        for source, _, record, _ in known
    )
    work = PoolWork(name=f"{name}: sources", variant="mix", sources=sources)
    return PoolRecord.seal(work=work, parents={}, outputs=[], made_by=made_by(now()))


def _shards(
    source: Source, uri: str, record: DatasetRecord, repeat: float, seed: int
) -> Iterator[MixShard]:
    for number in range(math.ceil(repeat)):
        below = min(1.0, repeat - number)
        for file in record.outputs:
            yield MixShard(
                uri=uri,
                file=file,
                source=source.name,
                copy_number=number,
                below=below,
                seed=seed,
                num_bytes=round(file.num_bytes * below),
            )


# ---- reading


def read_mix_shard(data: bytes, *, where: str) -> MixShard:
    """The contents of a `.mix.json` file. ValueError when it is something else."""
    try:
        return MixShard.model_validate(orjson.loads(data))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{where} is not a shard of a mixture: {error}") from None


def mixed_tables(shard: MixShard) -> Iterator[pa.Table]:
    """The rows that a shard of a mixture takes, in order, with its name in `source`.

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
        if shard.below < 1:
            table = table.filter(pa.array(_chance(shard, rows) < shard.below))
        names = pa.array([shard.source] * table.num_rows, pa.large_string())
        if SOURCE in table.column_names:
            table = table.drop_columns([SOURCE])
        yield table.append_column(SOURCE, names)


def _chance(shard: MixShard, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A number from 0 to 1 for each row, from seed, source, copy and row alone."""
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
    """What a mixture takes of each source, for people."""
    return list(record.work.pipeline["mix"]["sources"])
