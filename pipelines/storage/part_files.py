"""Files of many parts: record batches one after the other, and at the end where each part is.

A shuffle between tasks is one such file per writer; every reader takes its own part of each by two
or three range reads, and a writer holds one batch at a time, whatever the number of parts. Where
the slices are many and small, files are merged before they are read (`global_steps/merged_files`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from pipelines.records import File
from pipelines.storage.base import StorageError, Store, Writer
from pipelines.storage.local import LocalStore

ALL = -1  # in place of a part's number: every part
_TAIL = struct.Struct("<Q")  # bytes of the index, the last thing in the file
READERS = 16  # threads
SLICE_REQUESTS = 3  # of a bucket, for one part of one file: its size, the index, the part
_FIRST_READ = 64 << 10  # bytes from a file's end: one request gets most indexes


class PartsWriter:
    """Writes batches of one schema, each for a part. Used with `with`; `file` afterwards."""

    def __init__(self, store: Store, name: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_rows = 0
        self._writer = store.create(name)
        self._index: list[tuple[int, int, int]] = []  # part, first byte, bytes

    def add(self, part: int, columns: Sequence[Any]) -> None:
        """Append rows to a part; an empty batch leaves no trace."""
        arrays = [
            arrow_of(column, field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        if not len(arrays[0]):
            return
        data = pa.record_batch(arrays, schema=self.schema).serialize()
        self._index.append((part, self._writer.tell(), data.size))
        self._writer.write(memoryview(data))
        self.num_rows += len(arrays[0])

    def file(self) -> File:
        return self._writer.file(num_rows=self.num_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            _write_index(self._writer, self._index)
        self._writer.__exit__(kind, error, trace)


def write_by(
    store: Store,
    name: str,
    schema: pa.Schema,
    parts: npt.NDArray[np.int64],
    columns: Sequence[npt.NDArray[Any]],
) -> File:
    """A file of these columns, each row in the part of its number; inside a part in order."""
    order = np.argsort(parts, kind="stable")
    numbers, begins = np.unique(parts[order], return_index=True)
    with PartsWriter(store, name, schema) as out:
        borders = pairwise([*begins.tolist(), len(order)])
        for part, (begin, end) in zip(numbers.tolist(), borders, strict=True):
            out.add(part, [values[order[begin:end]] for values in columns])
    return out.file()


def merge_files(store: Store, names: Sequence[str], name: str) -> File:
    """One file of the parts of several: inside a part, the batches of one file after another.

    Each file is read whole, by one request; all of them are in memory.
    """
    slices: dict[int, list[memoryview]] = {}
    for source in names:
        data = store.read_bytes(source)
        for part, at, size in _index(data):
            slices.setdefault(part, []).append(memoryview(data)[at : at + size])
    index: list[tuple[int, int, int]] = []
    with store.create(name) as writer:
        for part in sorted(slices):
            for batch in slices[part]:
                index.append((part, writer.tell(), len(batch)))
                writer.write(batch)
        _write_index(writer, index)
    return writer.file()


def _index_size(tail: bytes) -> int:
    """Bytes of the index at the end of a file, with the number that says how many they are."""
    (length,) = _TAIL.unpack(tail[-_TAIL.size :])
    return int(length) + _TAIL.size


def _index(tail: bytes) -> list[tuple[int, int, int]]:
    """Part, first byte and bytes of each batch, from the end of a file that holds the index."""
    index: list[tuple[int, int, int]] = orjson.loads(tail[-_index_size(tail) : -_TAIL.size])
    return index


def _write_index(writer: Writer, index: Sequence[tuple[int, int, int]]) -> None:
    data = orjson.dumps(index)
    writer.write(data + _TAIL.pack(len(data)))


def read_part(store: Store, name: str, part: int, schema: pa.Schema) -> list[pa.RecordBatch]:
    """The batches of one part, in the order they were written; only their bytes are read."""
    with store.open(name) as buffered:
        file = getattr(buffered, "raw", buffered)  # a buffer would fetch megabytes around a part
        size = file.seek(0, 2)
        tail = _exactly(file, max(0, size - _FIRST_READ), size)
        if (needed := _index_size(tail)) > len(tail):
            tail = _exactly(file, size - needed, size)
        index = _index(tail)
        batches = []
        for start, stop, sizes in _ranges((at, size) for p, at, size in index if part in (p, ALL)):
            data = pa.py_buffer(_exactly(file, start, stop))
            begin = 0
            for num_bytes in sizes:
                batches.append(pa.ipc.read_record_batch(data.slice(begin, num_bytes), schema))
                begin += num_bytes
        return batches


def read_parts(
    store: Store, names: Iterable[str], part: int, schema: pa.Schema
) -> list[npt.NDArray[Any]]:
    """The columns of one part of several files, one after the other, as numpy arrays.

    Where each file costs requests, several are asked for at a time: a part may be a few hundred
    bytes of each of 100,000 files.
    """
    names = list(names)

    def read(name: str) -> list[pa.RecordBatch]:
        return read_part(store, name, part, schema)

    if isinstance(store, LocalStore):
        batches = [batch for name in names for batch in read(name)]
    else:
        with ThreadPoolExecutor(READERS) as readers:
            batches = [batch for some in readers.map(read, names) for batch in some]
    table = pa.Table.from_batches(batches, schema=schema)
    return [numpy_of(table.column(number)) for number in range(len(schema))]


def _exactly(file: Any, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop`, no others."""
    file.seek(start)
    parts = []
    while start < stop:
        data = file.read(stop - start)
        if not data:
            raise StorageError(f"a file of parts ends at byte {start}, expected {stop}")
        parts.append(data)
        start += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _ranges(places: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int, list[int]]]:
    """Neighbouring byte ranges as one: begin, end, and the sizes inside."""
    numbered: list[tuple[int, int, int]] = []
    run, stop = -1, -1
    for at, size in places:
        run += at != stop
        stop = at + size
        numbered.append((run, at, size))
    for _, members in groupby(numbered, key=lambda entry: entry[0]):
        ranges = list(members)
        yield ranges[0][1], ranges[-1][1] + ranges[-1][2], [size for _, _, size in ranges]


def arrow_of(values: Any, type_: pa.DataType) -> pa.Array:
    """A numpy array (fixed-width bytes too) or an Arrow array as an Arrow array of this type."""
    if isinstance(values, pa.Array):
        return values
    if pa.types.is_fixed_size_binary(type_):
        flat = np.ascontiguousarray(values)
        return pa.Array.from_buffers(type_, len(flat), [None, pa.py_buffer(flat.view(np.uint8))])
    return pa.array(values, type=type_)


def numpy_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The reverse of `arrow_of`; binary columns of any width as objects."""
    if not pa.types.is_fixed_size_binary(column.type):
        return column.to_numpy()  # type: ignore[no-any-return]
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], f"S{width}")[chunk.offset : chunk.offset + len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, f"S{width}")
