"""The captions of a folder of images: files next to them, or tables of names and captions.

A caption's file is `a.txt`, `a.caption` or `a.jpg.txt` next to `a.jpg`. A table is `metadata` or
`captions` as .csv, .tsv, .jsonl or .parquet in the folder or in one below it, with names relative
to the table's own folder (the layout of Hugging Face's imagefolder), or a file that the caller
names, with names relative to the folder of images. A table's caption comes before a file's. An
image may have several captions: each is a pair. Text is UTF-8, or UTF-16 with its byte order mark;
what is neither is counted, never guessed.
"""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import DataError, PoolError
from pipelines.formats.plain_files import Value, csv_values, json_line_values
from pipelines.images.pairs import DAMAGED
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

SIDECARS = (".txt", ".caption")
TABLES = ("metadata", "captions")  # of names and captions, when no other is named
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
NAME_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "name")
CAPTION_COLUMNS = ("text", "caption", "captions", "title", "description", "prompt")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NULS = 4  # a text of which more than one byte in so many is NUL is no UTF-8
Captions = dict[str, list[str]]  # by the name of the image


def read_text(data: bytes) -> str | None:
    """A file's text; None where it is not UTF-8, and no mark says that it is UTF-16."""
    if data.count(0) * NULS > len(data) and not data.startswith(tuple(MARKS)):
        return None  # UTF-16 without a mark is valid UTF-8, with a NUL behind every letter
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def refuse_names(names: Iterable[str], uri: str) -> None:
    """PoolError for a name that is not UTF-8: records and tables cannot hold it."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise PoolError(f"{uri}: the name {name!a} is not UTF-8; rename the file") from None


def captions_of(
    source: Store,
    names: Iterable[str],
    images: Sequence[str],
    table: str | None,
    left_out: Counter[str],
) -> list[tuple[str, str]]:
    """Image and caption of every pair, in the order of the images' names.

    `table` names one outside the folder's rules. PoolError for a table that cannot be read, and
    where none of the images has a caption.
    """
    names = set(names)
    listed: Captions = {}
    tables = 0
    if table is not None:
        folder, _, name = table.rpartition("/")
        _read(open_store(folder or "."), name, "", listed, left_out)
        tables = 1
    else:
        for folder, name in _tables_in(names, source.uri):
            _read(source, name, folder, listed, left_out)
            tables += 1
    known = {_normal(image): image for image in images}
    by_image = {known[name]: texts for name, texts in listed.items() if name in known}
    left_out["listed_without_image"] += len(listed) - len(by_image)
    sidecars = _sidecars(names)
    pairs: list[tuple[str, str]] = []
    for image in images:
        texts = by_image.get(image) or _beside(source, sidecars, image, left_out)
        if texts == []:
            left_out["no_caption"] += 1
        pairs += [(image, text) for text in dict.fromkeys(texts or ())]
    if not pairs:
        raise PoolError(_none(source.uri, images, listed, tables, left_out))
    return pairs


def _none(
    uri: str, images: Sequence[str], listed: Captions, tables: int, left_out: Counter[str]
) -> str:
    counts = ", ".join(f"{reason} {n:,}" for reason, n in sorted(left_out.items()) if n)
    text = f"none of the {len(images):,} images below {uri} has a caption ({counts})"
    if tables and listed:
        return (
            f"{text}: the table lists {next(iter(listed))!r}, the folder holds {images[0]!r}; "
            "names of a table are relative to its folder, those of --captions to the images' folder"
        )
    return (
        f"{text}: put a file a.txt (UTF-8) next to a.jpg, or name a table of names and captions "
        "with --captions"
    )


def _normal(name: str) -> str:
    """A name as it is compared: with slashes, and letters composed as macOS does not write them."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


# ---- files next to the images


def _sidecars(names: Iterable[str]) -> dict[str, str]:
    """The names of captions' files, by their stem and suffix in lower case."""
    files: dict[str, str] = {}
    for name in sorted(names):
        stem, dot, suffix = name.rpartition(".")
        if f".{suffix.lower()}" in SIDECARS:
            files.setdefault(f"{stem}{dot}{suffix.lower()}", name)
    return files


def _beside(
    source: Store, sidecars: Mapping[str, str], image: str, left_out: Counter[str]
) -> list[str] | None:
    """The caption in the file next to an image, [] without one, None for a file that is no text."""
    for stem in (image.rpartition(".")[0], image):
        for suffix in SIDECARS:
            name = sidecars.get(f"{stem}{suffix}")
            if name is None:
                continue
            text = read_text(source.read_bytes(name))
            if text is None:
                left_out["caption_not_utf8"] += 1
                return None
            return [text.strip()] if text.strip() else []
    return []


# ---- tables


def _tables_in(names: Iterable[str], uri: str) -> list[tuple[str, str]]:
    """Folder and name of every table of captions. PoolError for two in one folder."""
    tables: dict[str, str] = {}
    for name in sorted(names):
        folder, _, leaf = name.rpartition("/")
        stem, dot, suffix = leaf.lower().rpartition(".")
        if stem not in TABLES or f"{dot}{suffix}" not in TABLE_SUFFIXES:
            continue
        if folder in tables:
            raise PoolError(
                f"{uri} holds two tables of captions, {tables[folder]} and {name}; name one of "
                "them with --captions"
            )
        tables[folder] = name
    return list(tables.items())


def _read(store: Store, name: str, folder: str, captions: Captions, left_out: Counter[str]) -> None:
    """Add a table's captions by the images' names. PoolError names the columns it has."""
    where = f"{store.uri}/{name}"
    before = f"{folder}/" if folder else ""
    try:
        for image, texts in _rows(store.read_bytes(name), name, where, left_out):
            kept = [text for text in texts if text.strip()]
            if image and kept:
                captions.setdefault(_normal(before + image.removeprefix("./")), []).extend(kept)
            else:
                left_out["row_without_caption"] += 1
    except FileNotFoundError:
        raise PoolError(f"there is no table of captions {where}") from None
    except PoolError:
        raise
    except (*DAMAGED, DataError) as error:
        raise PoolError(f"{where} is not a table of captions: {error}") from None


def _rows(
    data: bytes, name: str, where: str, left_out: Counter[str]
) -> Iterator[tuple[str, list[str]]]:
    """Name and captions of each row; a row that cannot be read is counted."""
    suffix = next((end for end in TABLE_SUFFIXES if name.lower().endswith(end)), None)
    if suffix is None:
        raise DataError(f"expected {', '.join(TABLE_SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet_rows(data, where)
        return
    text = read_text(data)
    if text is None:
        raise DataError("it is not UTF-8; convert it, as with iconv")
    rows = io.BytesIO(text.encode())
    if suffix == ".jsonl":
        yield from _json_rows(json_line_values(rows, "captions.jsonl"), where, left_out)
        return
    delimiter = "\t" if suffix == ".tsv" else ","
    header = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
    if not header:
        raise DataError("it has no header; its first line should name the columns")
    columns = _columns([name.strip("\ufeff") for name in header], where)
    for _, row, problem, _ in csv_values(rows, f"captions{suffix}"):
        if problem is None:
            yield row.get(columns[0], ""), _texts(row.get(columns[1]))
        else:
            left_out["unreadable_row"] += 1


def _json_rows(
    rows: Iterator[Value], where: str, left_out: Counter[str]
) -> Iterator[tuple[str, list[str]]]:
    """The same of JSON lines, of which each names its own columns."""
    names: dict[str, None] = {}
    complete, first = False, ""
    for number, row, problem, _ in rows:
        if problem is not None:
            first = first or f"row {number}: {problem}"
            left_out["unreadable_row"] += 1
            continue
        names |= dict.fromkeys(row)
        name, caption = (_column(list(row), known) for known in (NAME_COLUMNS, CAPTION_COLUMNS))
        complete = complete or (name is not None and caption is not None)
        image = row[name] if name is not None else ""
        yield image if isinstance(image, str) else "", _texts(row.get(caption or ""))
    if not complete:
        if first and not names:
            raise DataError(first)
        _columns(list(names), where)


def _texts(value: Any) -> list[str]:
    """A caption, or a list of captions; a number is none."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _parquet_rows(data: bytes, where: str) -> Iterator[tuple[str, list[str]]]:
    table = pq.read_table(io.BytesIO(data))
    if len(set(table.column_names)) < len(table.column_names):
        raise DataError(f"it has a column twice: {', '.join(table.column_names)}")
    columns = _columns(table.column_names, where)
    values = [_strings(table.column(column), column, where) for column in columns]
    for image, caption in zip(*values, strict=True):
        yield image if isinstance(image, str) else "", _texts(caption)


def _strings(column: pa.ChunkedArray, name: str, where: str) -> Iterator[Any]:
    """The values of a column of text, or of lists of it. PoolError for another type."""
    type = column.type
    if pa.types.is_dictionary(type):
        type = type.value_type
    inner = type.value_type if pa.types.is_list(type) or pa.types.is_large_list(type) else type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if pa.types.is_binary(type) or pa.types.is_large_binary(type):
        data = (value for chunk in column.chunks for value in chunk.to_pylist())
        return (None if value is None else read_text(value) for value in data)
    if not any(test(inner) for test in texts):
        raise PoolError(f"{where}: the column {name!r} holds {type}, expected text")
    return (value for chunk in column.chunks for value in chunk.to_pylist())


def _columns(names: Sequence[str], where: str) -> tuple[str, str]:
    """The columns of images' names and of captions. PoolError where one is missing."""
    image, caption = (_column(names, known) for known in (NAME_COLUMNS, CAPTION_COLUMNS))
    if image is None or caption is None:
        known, what = (
            (NAME_COLUMNS, "image names") if image is None else (CAPTION_COLUMNS, "captions")
        )
        raise PoolError(
            f"{where} has no column of {what}; it has {', '.join(names)}, expected one of "
            f"{', '.join(known)}"
        )
    return image, caption


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the known names that is there, whatever its case."""
    lower = {name.lower().strip(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)
