"""Write tables and arrays to storage, deterministically: the same rows give the same bytes."""

from __future__ import annotations

import gzip
import io
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.formats.json_rows import to_json_rows
from pipelines.records import File
from pipelines.schema import ROW
from pipelines.storage.base import Store, as_file

ROW_GROUP_ROWS = 64 << 10  # a row group ends at this many rows or bytes, whichever is first
ROW_GROUP_BYTES = 64 << 20
ZSTD_LEVEL = 3  # zstd's own default

FORMATS = {"parquet": ".parquet", "jsonl.zst": ".jsonl.zst", "jsonl.gz": ".jsonl.gz"}


def suffix_of(kind: str) -> str:
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}; expected one of {', '.join(FORMATS)}")
    return FORMATS[kind]


class TableWriter:
    """Writes tables of one schema to one file; row group boundaries depend on the rows alone."""

    def __init__(self, store: Store, name: str, kind: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_rows = 0
        self._writer = store.create(name)
        self._kind = kind
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        if kind == "parquet":
            self._parquet = pq.ParquetWriter(
                as_file(self._writer),
                schema,
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                write_statistics=["row"] if "row" in schema.names else False,
            )
        elif kind == "jsonl.zst":
            compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=0)
            self._stream: Any = compressor.stream_writer(as_file(self._writer), closefd=False)
        else:
            self._stream = gzip.GzipFile(
                filename="", mode="wb", compresslevel=6, fileobj=as_file(self._writer), mtime=0
            )

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self._held.append(table)
        self._held_rows += table.num_rows
        self._held_bytes += table.nbytes
        self.num_rows += table.num_rows
        if self._held_rows >= ROW_GROUP_ROWS or self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held).combine_chunks()
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        if self._kind == "parquet":
            self._parquet.write_table(table, row_group_size=table.num_rows)
        else:
            for line in to_json_rows(table):
                self._stream.write(line)

    def close(self) -> File:
        """Finish the file: it becomes visible, but is used only once committed."""
        try:
            self._flush()
            (self._parquet if self._kind == "parquet" else self._stream).close()
        except BaseException as error:
            self._give_up(error)
            raise
        self._writer.__exit__(None, None, None)
        return self._writer.file(num_rows=self.num_rows)

    def abandon(self) -> None:
        """Stop writing and leave no file."""
        self._give_up(RuntimeError("abandoned"))

    def _give_up(self, error: BaseException) -> None:
        if self._kind == "parquet":
            self._parquet.is_open = False  # else it writes its footer when garbage-collected
        else:
            with suppress(OSError):  # the disk may be full
                self._stream.close()
        self._writer.__exit__(type(error), error, None)


def write_table(store: Store, name: str, table: pa.Table, *, kind: str = "parquet") -> File:
    """One table as one file."""
    writer = TableWriter(store, name, kind, table.schema)
    try:
        writer.write(table)
    except BaseException:
        writer.abandon()
        raise
    return writer.close()


def write_row_list(store: Store, name: str, table: pa.Table) -> File:
    """Write a table of many rows whose columns are mostly empty or of few distinct values.

    Ascending row numbers are stored as differences: this takes a quarter of the time and a tenth
    of the bytes of the general writer.
    """
    words = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    buffer = io.BytesIO()  # a few bytes per row; parquet makes hundreds of small writes
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=1,
        use_dictionary=words,
        column_encoding={ROW: "DELTA_BINARY_PACKED"},
        write_statistics=False,
    )
    writer = store.create(name)
    with writer:
        writer.write(buffer.getbuffer())
    return writer.file(num_rows=table.num_rows)


def write_array(store: Store, name: str, array: npt.NDArray[Any]) -> File:
    """One numpy array as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with store.create(name) as writer:
        writer.write(buffer.getbuffer())
    return writer.file(num_rows=len(array))
