"""open_lm's layout of training data, and its plan of which shards each checkpoint reads.

A shard is `<name>.tar` whose members `*.json.gz` are JSON lists of ids, one sequence each, with
one row `{"shard": name, "num_sequences": n}` in `manifest.jsonl` (older ones say `num_chunks`).
The plan is open_lm's, with everything it loses; training here does not follow it, parity tests and
`dclm plan` do.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.records import Frozen
from pipelines.storage.base import Writer, as_file


class ManifestRow(Frozen):
    """One shard of training data."""

    shard: str
    num_sequences: int


def write_manifest(rows: Sequence[ManifestRow]) -> bytes:
    return b"".join(orjson.dumps(row.model_dump()) + b"\n" for row in rows)


def read_manifest(data: bytes, *, source: str) -> list[ManifestRow]:
    """Rows in file order. ValueError names the line that is not a row."""
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
            count = value["num_sequences"] if "num_sequences" in value else value["num_chunks"]
            rows.append(ManifestRow(shard=value["shard"], num_sequences=count))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{source}, line {number}: {line[:80]!r} is not a row of a manifest ({error!r}); "
                'expected {"shard": NAME, "num_sequences": COUNT}; pack the dataset again'
            ) from None
    return rows


def write_tar(writer: Writer, sequences: NDArray[np.integer], *, stem: str) -> None:
    """Write sequences (num_sequences, length) as a tar of gzipped JSON lists.

    Equal sequences give equal bytes: no times, no owners, no names of files inside gzip.
    """
    with tarfile.open(fileobj=as_file(writer), mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for index, sequence in enumerate(sequences):
            packed = io.BytesIO()
            with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
                file.write(orjson.dumps(sequence.tolist()))
            member = tarfile.TarInfo(f"{stem}_{index:08d}.json.gz")
            member.size = packed.tell()
            member.mode = 0o644
            packed.seek(0)
            archive.addfile(member, packed)


def read_tar(file: BinaryIO, *, source: str, length: int) -> NDArray[np.uint32]:
    """All sequences of a shard, (num_sequences, length).

    ValueError for a damaged archive, for a sequence of another length (open_lm crops or drops
    those) and for values that are not ids (open_lm makes them 0 or counts them from the end).
    """
    rows = []
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                extracted = archive.extractfile(member)
                if extracted is None:
                    continue
                where = f"{source}, member {member.name}"
                rows.append(_sequence(gzip.decompress(extracted.read()), where, length))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{source} is damaged after {len(rows)} sequences ({error}); copy or pack it again"
        ) from None
    return np.stack(rows) if rows else np.empty((0, length), np.uint32)


def _sequence(data: bytes, where: str, length: int) -> NDArray[np.uint32]:
    try:
        ids = orjson.loads(data)
        sequence = np.array(ids, dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where} is not a list of ids ({error})") from None
    if sequence.shape != (length,) or not all(type(value) is int for value in ids):
        raise ValueError(f"{where}: expected {length} whole numbers, found {len(ids)} values")
    if sequence.min() < 0 or sequence.max() > np.iinfo(np.uint32).max:
        raise ValueError(f"{where}: ids must be 0 or more, found {sequence.min()}")
    return sequence.astype(np.uint32)


class CheckpointShards(Frozen):
    """What open_lm reads between two checkpoints, and how far it gets with it."""

    shards: tuple[str, ...]
    num_sequences: int
    num_steps: int
    next_shard: int


def shards_per_checkpoint(
    manifest: Sequence[ManifestRow],
    *,
    sequences_per_checkpoint: int,
    num_steps: int,
    global_batch_size: int,
    num_devices: int,
    num_workers: int,
    seed: int | None,
    multiple_passes: bool,
) -> Iterator[CheckpointShards]:
    """open_lm's choice of shards for one checkpoint after another, until `num_steps` are done.

    Rows are shuffled with `seed` (None: taken as they are). Shards are taken in order until there
    are `sequences_per_checkpoint` sequences and one shard for every worker, then cut to a multiple
    of the workers. A batch is made by one worker, so each reads whole batches only, as many as the
    poorest. When the shards run out: with `multiple_passes` the tail is dropped and the next pass
    begins, shuffled with `seed` plus the number of the pass; otherwise IndexError, as in open_lm,
    where the run dies.
    """
    assert sequences_per_checkpoint > 0, "num_checkpoints is larger than the budget"
    readers = num_devices * num_workers
    start, done = 0, 0
    while done < num_steps:
        taken, following = _take(
            manifest, start, sequences_per_checkpoint, readers, seed, multiple_passes
        )
        sequences = sum(row.num_sequences for row in taken)
        steps = sequences // (global_batch_size * num_workers) * num_workers
        start = following
        done = min(num_steps, done + steps)
        yield CheckpointShards(
            shards=tuple(row.shard for row in taken),
            num_sequences=sequences,
            num_steps=steps,
            next_shard=start,
        )


def _take(
    manifest: Sequence[ManifestRow],
    start: int,
    needed: int,
    readers: int,
    seed: int | None,
    multiple_passes: bool,
) -> tuple[list[ManifestRow], int]:
    """Shards from position `start` (counted over all passes), and the position after them."""
    attempts = 3 if multiple_passes else 1
    for _ in range(attempts):
        number, offset = divmod(start, len(manifest))
        if not multiple_passes and number > 0:
            break
        rows = _shuffled(manifest, None if seed is None else seed + number)[offset:]
        sequences = 0
        for count, row in enumerate(rows, start=1):
            sequences += row.num_sequences
            if count >= readers and sequences >= needed:
                kept = count // readers * readers
                return rows[:kept], start + kept
        start = (number + 1) * len(manifest)
    raise IndexError(
        f"shard {start} was asked for, but there are only {len(manifest)}: too little data for the "
        "token budget in one pass"
        if not multiple_passes
        else f"{len(manifest)} shards in one pass are too few for one checkpoint"
    )


def _shuffled(manifest: Sequence[ManifestRow], seed: int | None) -> list[ManifestRow]:
    order = np.arange(len(manifest))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    return [manifest[index] for index in order.tolist()]
