"""Pack: documents to shuffled sequences of one length, the only thing that training reads.

    dataset files -> units: ids of whole documents, cut into sequences -> shards: shuffled sequences

Two-level shuffle. A unit is a fixed group of the dataset's files: its documents are put in a
random order, joined with an end of text after each, cut, and every sequence is sent to a random
shard. A shard gathers its sequences from all units and puts them in a random order. No task holds
more than one unit or one shard. Chance is a hash of the recipe's data seed and the place in the
data, so any number of workers, and any version of any library, writes the same bytes.

In `lossless` mode, which ranking demands, what is left over at the end of a unit is joined with the
other units' and cut too, so at most one sequence of the whole dataset is filled up with the pad
id, which is not a token. `reference` mode fills up every file on its own, as DCLM's tokshuf does,
with an id that is a token; what it makes cannot be submitted.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dclm.packing import tokenizer
from dclm.packing.openlm_format import ManifestRow, read_manifest, write_manifest, write_tar
from dclm.recipe import Recipe, TokenizerSpec
from pipelines.execution.executors import MapTasks
from pipelines.formats import mix
from pipelines.formats.shards import ShardError
from pipelines.kernels.splitmix import draws, permutation
from pipelines.records import (
    DatasetRecord,
    File,
    Frozen,
    PackedRecord,
    PackedWork,
    RecordError,
    digest,
    made_by,
    now,
    parse_record,
    sha256_bytes,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import standing
from pipelines.storage.commits import Done, attempt_name, commit, done_name, find_done
from pipelines.storage.open import open_store

Mode = Literal["lossless", "reference"]
Layout = Literal["npy", "open_lm"]

RECORD, MANIFEST = "record.json", "manifest.jsonl"
UNIT_BYTES = 256 << 20  # of dataset files in one unit, and per shard
ENCODE_ROWS = 256  # documents tokenized at a time

# tokshuf takes the vocabulary of gpt-neox-20b to have 50,254 ids and pads with the second after.
REFERENCE_PAD = 50256


class _Plan(Frozen):
    """What every task of one packing knows."""

    dataset: str
    out: str
    key: str
    tokenizer: TokenizerSpec
    length: int  # ids in a sequence: one more than the model reads, for the shifted targets
    wide: bool  # ids need four bytes
    seed: int
    mode: Mode
    layout: Layout
    num_shards: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype("<u4" if self.wide else "<u2")

    @property
    def pad(self) -> int:
        if self.mode == "reference" and self.tokenizer.name == "gpt-neox-20b":
            return REFERENCE_PAD
        return self.tokenizer.pad


class _Unit(Frozen):
    """Some files of the dataset; or, with `rests`, what earlier units left over."""

    plan: _Plan
    index: int
    files: tuple[File, ...] = ()
    rests: tuple[File, ...] = ()


class _Part(Frozen):
    """Consecutive sequences of a unit's file."""

    file: str
    first: int
    count: int


class _Shard(Frozen):
    plan: _Plan
    index: int
    parts: tuple[_Part, ...]


def pack(
    dataset: str,
    *,
    recipe: Recipe,
    out: str,
    map_tasks: MapTasks,
    mode: Mode = "lossless",
    layout: Layout = "npy",
    unit_bytes: int = UNIT_BYTES,
) -> PackedRecord:
    """Tokenize, shuffle and cut a dataset; finished tasks of an earlier, killed run are kept.

    `dataset` holds `record.json` and the parquet files it names, with a column `text`. `out` gets
    `data/`, `manifest.jsonl` and `record.json`. Counts: documents, tokens (ends of text included),
    sequences, padding.

    RecordError when `dataset` holds no finished dataset; ShardError names the file that is
    missing, changed or damaged; ValueError when there is not one token.
    """
    started = now()
    source, target = open_store(dataset), open_store(out)
    parent = _dataset_record(source)
    encoder = tokenizer.load(recipe.tokenizer)
    sizes = {file.name: _num_bytes(source, file) for file in parent.outputs}
    total_bytes = sum(sizes.values())
    work = PackedWork(
        tokenizer=encoder.ref,
        sequence_length=recipe.model.seq_len,
        seed=recipe.data_seed,
        mode=mode,
        layout=layout,
        parameters={
            "end_of_text": recipe.tokenizer.end_of_text,
            "pad": recipe.tokenizer.pad,
            "vocab_size": recipe.model.vocab_size,
            "unit_bytes": unit_bytes,
            "version": 1,
        },
    )
    parents = {"dataset": parent.id}
    plan = _Plan(
        dataset=source.uri,
        out=target.uri,
        key=PackedRecord.key_of(work=work, parents=parents),
        tokenizer=recipe.tokenizer,
        length=recipe.model.seq_len + 1,
        wide=recipe.model.vocab_size > 1 << 16,
        seed=recipe.data_seed,
        mode=mode,
        layout=layout,
        num_shards=max(1, -(-total_bytes // unit_bytes)),
    )
    before = standing(
        target, key=plan.key, kind=PackedRecord, other="another dataset, recipe or layout"
    )
    if before is not None:
        return before

    groups = _groups(parent.outputs, sizes, 1 if mode == "reference" else unit_bytes)
    units = map_tasks(
        _pack_unit, [_Unit(plan=plan, index=i, files=files) for i, files in enumerate(groups)]
    )
    if mode == "lossless":
        rests = tuple(unit.files[1] for unit in units)
        units = [*units, _pack_unit(_Unit(plan=plan, index=len(units), rests=rests))]
    shards = map_tasks(_pack_shard, _shard_tasks(plan, units))

    counts = {
        name: sum(unit.counts[name] for unit in units)
        for name in ("documents", "tokens", "sequences", "padding")
    }
    if counts["tokens"] == 0:
        raise ValueError(f"{source.uri} holds no text to pack; curate a dataset with documents")
    files = [shard.files[0] for shard in shards if shard.counts["sequences"]]
    rows = [
        ManifestRow(shard=_shard_name(shard), num_sequences=shard.counts["sequences"])
        for shard in shards
        if shard.counts["sequences"]
    ]
    manifest = write_bytes(target, MANIFEST, write_manifest(rows))
    record = PackedRecord.seal(
        work=work,
        parents=parents,
        outputs=[*files, manifest],
        counts=counts,
        made_by=made_by(
            started,
            locations={"dataset": source.uri, "out": target.uri},
            figures={"task_seconds": sum(done.seconds for done in [*units, *shards])},
        ),
    )
    write_bytes(target, RECORD, record.to_json())
    for unit in units:  # no longer needed: the shards hold everything
        target.remove(done_name(unit.key))
        for file in unit.files:
            target.remove(file.name)
    return record


def register(folder: str, *, recipe: Recipe) -> PackedRecord:
    """Write the record that lets shards of open_lm's own tools be trained on.

    `folder` holds `manifest.jsonl` and the tars it names. The tokenizer is taken on trust, so the
    record says `reference` and what is trained on it cannot be submitted.

    ShardError for a manifest or a tar that is missing; RecordError when there is a record already.
    """
    started = now()
    store = open_store(folder)
    if store.exists(RECORD):
        raise RecordError(f"{store.uri}/{RECORD} exists already; nothing is left to register")
    if not store.exists(MANIFEST):
        raise ShardError(f"{store.uri}/{MANIFEST} is missing; name a folder of open_lm shards")
    data = store.read_bytes(MANIFEST)
    rows = read_manifest(data, source=f"{store.uri}/{MANIFEST}")
    files = []
    for row in rows:
        try:
            with store.open(f"{row.shard}.tar") as file:
                sha256, num_bytes = _sha256(file)
        except FileNotFoundError:
            raise ShardError(
                f"{store.uri}/{row.shard}.tar is missing, but the manifest names it"
            ) from None
        name = f"{row.shard}.tar"
        files.append(
            File(name=name, sha256=sha256, num_bytes=num_bytes, num_rows=row.num_sequences)
        )
    manifest = File(name=MANIFEST, sha256=sha256_bytes(data), num_bytes=len(data))
    record = PackedRecord.seal(
        work=PackedWork(
            tokenizer=tokenizer.load(recipe.tokenizer).ref,
            sequence_length=recipe.model.seq_len,
            seed=recipe.data_seed,
            mode="reference",
            layout="open_lm",
            parameters={
                "end_of_text": recipe.tokenizer.end_of_text,
                "pad": recipe.tokenizer.pad,
                "vocab_size": recipe.model.vocab_size,
                "external": True,
            },
        ),
        parents={},
        outputs=[*files, manifest],
        counts={"sequences": sum(row.num_sequences for row in rows)},
        made_by=made_by(started, locations={"out": store.uri}),
    )
    write_bytes(store, RECORD, record.to_json())
    return record


def _sha256(file: BinaryIO) -> tuple[str, int]:
    """Of an open file, and its length."""
    sha256, num_bytes = hashlib.sha256(), 0
    while data := file.read(1 << 20):
        sha256.update(data)
        num_bytes += len(data)
    return sha256.hexdigest(), num_bytes


def _dataset_record(store: Store) -> DatasetRecord:
    where = f"{store.uri}/{RECORD}"
    try:
        data = store.read_bytes(RECORD)
    except FileNotFoundError:
        raise RecordError(
            f"there is no {where}; name the folder of a finished dataset, or register one"
        ) from None
    record = parse_record(data, source=where)
    if not isinstance(record, DatasetRecord):
        raise RecordError(f"{where} is a {record.kind} record; packing needs a dataset")
    if record.status != "done":
        raise RecordError(f"{where} is of a run that failed: {record.error}; finish it first")
    return record


def _num_bytes(store: Store, file: File) -> int:
    """Bytes that are read for a file: of a shard of a mixture, those that it takes."""
    if not file.name.endswith(mix.SUFFIX):
        return file.num_bytes
    where = f"{store.uri}/{file.name}"
    return mix.read_mix_shard(store.read_bytes(file.name), where=where).num_bytes


def _groups(
    files: tuple[File, ...], sizes: Mapping[str, int], unit_bytes: int
) -> list[tuple[File, ...]]:
    """Consecutive files, as many as fit into `unit_bytes`, at least one."""
    groups: list[list[File]] = []
    size = 0
    for file in files:
        if not groups or size + sizes[file.name] > unit_bytes:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += sizes[file.name]
    return [tuple(group) for group in groups]


# ---- Units: from documents to sequences ---------------------------------------------------------


def _pack_unit(unit: _Unit) -> Done:
    """Two files: sequences ordered by their shard, and the ids left over."""
    plan = unit.plan
    store = open_store(plan.out)
    key = digest([plan.key, "unit", unit.index, [file.content() for file in unit.rests]])
    if (done := find_done(store, key)) is not None:
        return done
    if unit.rests:
        documents, num_documents = _rests(store, unit), 0
    else:
        documents = list(_documents(unit))
        num_documents = len(documents)
    is_last = bool(unit.rests)
    if plan.mode == "lossless" and not is_last:
        order = permutation(plan.seed, "documents", unit.index, len(documents))
        documents = [documents[index] for index in order]
    ids = np.concatenate([np.empty(0, plan.dtype), *documents])
    num_tokens = 0 if is_last else len(ids)
    rest = ids[:0]
    padding = 0
    if plan.mode == "reference":
        padding = plan.length - len(ids) % plan.length  # a whole sequence when nothing is over
    elif is_last:
        padding = -len(ids) % plan.length
    else:
        whole = len(ids) // plan.length * plan.length
        ids, rest = ids[:whole], ids[whole:]
    ids = np.concatenate([ids, np.full(padding, plan.pad, plan.dtype)])
    sequences = ids.reshape(-1, plan.length)

    shard = draws(plan.seed, "shards", unit.index, len(sequences)) % np.uint64(plan.num_shards)
    order = np.argsort(shard, kind="stable")
    per_shard = np.bincount(shard.astype(np.int64), minlength=plan.num_shards).tolist()
    stem = f"stage/{unit.index:08d}"
    files = []
    for name, array in ((f"{stem}.sequences", sequences[order]), (f"{stem}.rest", rest)):
        with store.create(attempt_name(name, ".bin")) as writer:
            writer.write(array.tobytes())
        files.append(writer.file(num_rows=len(array)))
    counts = {
        "documents": num_documents,
        "tokens": num_tokens,
        "sequences": len(sequences),
        "padding": padding,
    }
    stats = {"per_shard": per_shard}
    return commit(store, Done(key=key, files=tuple(files), counts=counts, stats=stats))


def _rests(store: Store, unit: _Unit) -> list[NDArray[np.unsignedinteger]]:
    return [np.frombuffer(store.read_bytes(file.name), unit.plan.dtype) for file in unit.rests]


def _documents(unit: _Unit) -> Iterator[NDArray[np.unsignedinteger]]:
    """Ids of each document of the unit's files, with the end of text."""
    plan = unit.plan
    encoder = tokenizer.load(plan.tokenizer)
    store = open_store(plan.dataset)
    for file in unit.files:
        where = f"{store.uri}/{file.name}"
        number = 0
        for batch in _texts(store, file, where):
            texts = batch.to_pylist()
            if None in texts:
                raise ShardError(
                    f"{where}, row {number + texts.index(None)}: the text is null; a dataset's "
                    "documents have text, so drop such rows when curating"
                )
            ids, offsets = encoder.encode_flat(texts)
            ids = np.insert(ids.astype(plan.dtype), offsets[1:], plan.tokenizer.end_of_text)
            for row, (begin, end) in enumerate(pairwise(offsets.tolist())):
                yield ids[begin + row : end + row + 1]
            number += len(texts)


def _texts(store: Store, file: File, where: str) -> Iterator[pa.Array]:
    try:
        data = store.read_bytes(file.name)
    except FileNotFoundError:
        raise ShardError(f"{where} is missing, but the dataset's record names it") from None
    if sha256_bytes(data) != file.sha256:
        raise ShardError(
            f"{where} is not the file that the dataset's record names: it has {len(data)} bytes, "
            f"expected {file.num_bytes}, and another sha256; copy or curate the dataset again"
        )
    if file.name.endswith(mix.SUFFIX):
        try:
            for mixed in mix.mixed_tables(mix.read_mix_shard(data, where=where)):
                for batch in mixed.to_batches(max_chunksize=ENCODE_ROWS):
                    yield batch.column("text")
        except (ValueError, FileNotFoundError) as error:
            raise ShardError(f"{where}: {error}") from None
        return
    try:
        table = pq.ParquetFile(io.BytesIO(data))
        if "text" not in table.schema_arrow.names:
            raise ShardError(f"{where} has no column 'text', only {table.schema_arrow.names}")
        for batch in table.iter_batches(batch_size=ENCODE_ROWS, columns=["text"]):
            yield batch.column(0)
    except pa.ArrowException as error:
        raise ShardError(f"{where} is not a parquet file: {error}") from None


# ---- Shards: from all units' sequences to shuffled ones -----------------------------------------


def _shard_tasks(plan: _Plan, units: list[Done]) -> list[_Shard]:
    parts: list[list[_Part]] = [[] for _ in range(plan.num_shards)]
    for unit in units:
        first = 0
        for index, count in enumerate(unit.stats["per_shard"]):
            if count:
                parts[index].append(_Part(file=unit.files[0].name, first=first, count=count))
            first += count
    return [_Shard(plan=plan, index=i, parts=tuple(units)) for i, units in enumerate(parts)]


def _shard_name(done: Done) -> str:
    return done.files[0].name.removeprefix("data/").rpartition(".")[0]


def _pack_shard(shard: _Shard) -> Done:
    plan = shard.plan
    store = open_store(plan.out)
    key = digest([plan.key, "shard", shard.index])
    if (done := find_done(store, key)) is not None:
        return done
    row_bytes = plan.length * plan.dtype.itemsize
    pieces = [np.empty((0, plan.length), plan.dtype)]
    for part in shard.parts:
        with store.open(part.file) as file:
            file.seek(part.first * row_bytes)
            data = file.read(part.count * row_bytes)
        pieces.append(np.frombuffer(data, plan.dtype).reshape(part.count, plan.length))
    sequences = np.concatenate(pieces)
    order = permutation(plan.seed, "sequences", shard.index, len(sequences))
    sequences = sequences[order]
    # No attempt in these names: they are what other tools read. Attempts write equal bytes.
    stem = f"{shard.index:08d}"
    if plan.layout == "open_lm":
        with store.create(f"data/{stem}.tar") as writer:
            write_tar(writer, sequences, stem=stem)
    else:
        with store.create(f"data/{stem}.npy") as writer:
            np.lib.format.write_array(writer, sequences, allow_pickle=False)  # type: ignore[arg-type]
    file_ = writer.file(num_rows=len(sequences))
    counts = {"sequences": len(sequences)}
    return commit(store, Done(key=key, files=(file_,), counts=counts))
