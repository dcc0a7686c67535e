"""Which files of a folder are shards, in which order, and the columns that their paths imply."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import DataError
from pipelines.formats.dolma import ATTRIBUTES, documents_only
from pipelines.formats.plain_files import Value, csv_values, json_values, text_values
from pipelines.schema import EXTRA, KNOWN, ROW, STRING
from pipelines.storage.base import Entry, Store
from pipelines.storage.local import is_link, names_of_one_file, no_files

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json.gz": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".jsonl.zstd": "jsonl",
    ".jsonl.xz": "jsonl",
    ".jsonl.bz2": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".wet": "warc",
    ".wet.gz": "warc",
    ".mix.json": "mix",
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "csv"),
    ".json": "json",
    ".txt": "text",
}
PLAIN: dict[str, Callable[[BinaryIO, str], Iterator[Value]]] = {
    "csv": csv_values,
    "json": json_values,
    "text": text_values,
}
"""Formats of files that are shards only where a folder has none of another format."""
ABOUT = ("dataset_info.json", "dataset_dict.json", "state.json")  # as `save_to_disk` leaves them


log = logging.getLogger(__name__)


class ShardError(DataError):
    """A shard that cannot be read; the message names the shard and what to do."""


def format_of(name: str) -> str | None:
    """The format by the suffix, as `jsonl` or `parquet`; None for a file that is not a shard."""
    lower = name.lower()
    for suffix, format_ in SUFFIXES.items():
        if lower.endswith(suffix):
            return format_
    return None


def shards_of(store: Store) -> list[Entry]:
    """The shards in a store, sorted by name: shard numbers follow this order.

    Left out, with a warning, are files of unknown format, hidden ones, those in folders whose
    name begins with `.` or `_` (as Spark writes), links to nothing or to another shard, pipes, and
    the files of runs in the folder; Dolma's attributes belong to their documents. ShardError when
    no shard is left.
    """
    entries = list(store.list())
    runs = {e.name.removesuffix("run.json") for e in entries if e.name.endswith("run.json")}
    runs = {prefix for prefix in runs if not prefix or prefix.endswith("/")}
    kept: list[Entry] = []
    root = store.local_path("")
    left_out = {} if root is None else no_files(root)
    there = {entry.name for entry in entries}
    for entry in entries:
        if entry.name.endswith(".npz") and f"{entry.name.removesuffix('.npz')}.parquet" in there:
            continue  # features of a table of pairs, which are read with it
        if why := _left_out(entry.name, runs):
            left_out.setdefault(why, []).append(entry.name)
        else:
            kept.append(entry)
    if any(format_of(entry.name) not in PLAIN for entry in kept):
        plain = [entry.name for entry in kept if format_of(entry.name) in PLAIN]
        kept = [entry for entry in kept if format_of(entry.name) not in PLAIN]
        if plain:
            left_out["plain files next to shards of another format"] = plain
    shards = documents_only(kept)
    if root is not None:
        links = _links_to_shards(store.uri, root, [shard.name for shard in shards])
        shards = [shard for shard in shards if shard.name not in links]
        if links:
            left_out["a link to another shard"] = sorted(links)
    for why, names in left_out.items():
        log.warning("%s: %d files are left out (%s): %s", store.uri, len(names), why, _some(names))
    if not shards:
        raise ShardError(_nothing_in(store, left_out))
    for shard in shards:
        if any("\ud800" <= letter <= "\udfff" for letter in shard.name):
            raise ShardError(
                f"{store.uri}: the file name {shard.name!r} is not UTF-8, as records need names to "
                "be; rename the file"
            )
    return shards


UNKNOWN = "not a format of shards"


def _left_out(name: str, runs: set[str]) -> str | None:
    """Why a file of a folder is not a shard of the pool; None if it is."""
    if any(name.startswith(run) for run in runs):
        return "part of a run"
    *folders, leaf = name.split("/")
    if leaf.startswith(".") or any(folder.startswith((".", "_")) for folder in folders):
        return "hidden, or of an unfinished job"
    if (format_of(name) is None and not name.startswith(ATTRIBUTES)) or leaf in ABOUT:
        return UNKNOWN
    return None


def _links_to_shards(uri: str, root: Path, names: list[str]) -> set[str]:
    """The shards that are symbolic links to another shard: the file is read once, by its own name.

    Of a file outside of the pool each link is a shard, since in a cache of the Hugging Face hub
    equal shards are links to one file, and the hub lists them all. So is each hard link, of which
    none is the file's own name. A warning names both.
    """
    links: set[str] = set()
    for group in names_of_one_file(root, names):
        own = [name for name in group if not is_link(root, name)]
        links |= set(group) - set(own or group)
        read = own or group
        if len(read) > 1:
            log.warning(
                "%s: %d shards are one file, which is read as often (%s); remove what is too much",
                uri,
                len(read),
                _some(read),
            )
    return links


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _nothing_in(store: Store, left_out: Mapping[str, list[str]]) -> str:
    path = store.local_path("")
    if path is not None and path.is_file():
        return f"{store.uri} is a file; give its folder"
    if path is not None and not path.exists():
        return f"there is no folder {store.uri}"
    other = left_out.get(UNKNOWN, [])
    here = f" (it has {_some(other)})" if other else ""
    return (
        f"there are no shards below {store.uri}{here}; expected files ending in "
        f"{', '.join(SUFFIXES)}; write other formats as JSON lines, one object with `text` a line"
    )


HIVE = re.compile(r"([A-Za-z_]\w*)=([^/]+)/")


HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # what Hive and Spark name the folder of null


def hive_columns(name: str) -> dict[str, str | None]:
    """Columns from the folder names of a shard, as `lang=en/` (Hive, Spark)."""
    values = {key: unquote(value) for key, value in HIVE.findall(name)}
    return {key: None if value == HIVE_NULL else value for key, value in values.items()}


def with_folders(table: pa.Table, folders: Mapping[str, str | None]) -> pa.Table:
    """The table with a column for each such folder; what a row says itself stays as it is."""
    for key, value in folders.items():
        if key not in (*table.column_names, ROW):
            table = table.append_column(key, _folder_column(table, key, value))
        elif key in KNOWN and value is not None:
            column = pc.fill_null(table.column(key), pa.scalar(value, type=STRING))
            table = table.set_column(table.column_names.index(key), key, column)
    return table


def _folder_column(table: pa.Table, key: str, value: str | None) -> pa.Array:
    """The folder's value for each row that has no such field in `extra`; null for the others."""
    values = [value] * table.num_rows
    if EXTRA in table.column_names:
        extras = table.column(EXTRA)
        named = pc.fill_null(pc.match_substring(extras, f'"{key}"'), False)
        for row in pc.indices_nonzero(named).to_pylist():
            if orjson.loads(extras[row].as_py()).get(key) is not None:
                values[row] = None
    return pa.array(values, STRING)
