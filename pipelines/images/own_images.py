"""Images that somebody has on disk become a pool: a folder with captions, or tars of samples.

    OUT/metadata/00000000.parquet   uid, url, text, original_width, original_height, sha256
    OUT/shards/00000000.tar         the images, their captions and uids, as every later stage reads

A folder's captions are files next to the images (`a.txt` or `a.caption` next to `a.jpg`), or a
table of names and captions (.csv, .jsonl, .parquet). Tars are those of webdataset or img2dataset;
what their json says of uid, url and caption is kept. A pair without a uid gets that of its url and
caption; an image without a url gets one made of its bytes, `sha256:...`, so no uid depends on a
path. Images of a folder are resized like downloaded ones; images in tars are copied byte for byte.
What is left out is counted by reason. (The layouts: Hugging Face's imagefolder, webdataset,
rom1504/img2dataset.)
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.tars import END, Member, is_hidden, samples, tar_bytes
from pipelines.formats.uid_lists import uid_of
from pipelines.formats.writers import write_table
from pipelines.images import image_tars
from pipelines.images.decode import DECODE_ERRORS, open_image
from pipelines.images.image_tars import SUCCESS, Row
from pipelines.images.pairs import DAMAGED
from pipelines.images.resize import ImageRefused, ResizeOptions, keep
from pipelines.images.sample_json import read_json
from pipelines.kernels.uids import is_uid
from pipelines.records import File, Frozen, digest
from pipelines.schema import STRING
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, attempt_name, done_name
from pipelines.storage.open import open_store

IMAGES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
)
IN_TARS = ("jpg", "jpeg", "png", "webp")
"""What training reads in a tar; an image of another extension is counted and left out."""
SIDECARS = (".txt", ".caption")
TABLES = ("metadata", "captions")  # of names and captions, when no other is named
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
NAME_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "name")
CAPTION_COLUMNS = ("text", "caption", "captions", "title", "description", "prompt")
ROWS = 10_000  # images of one shard
STATE = "import.json"
SCHEMA = pa.schema(
    [
        *((name, STRING) for name in ("uid", "url", "text")),
        *((name, pa.int32()) for name in ("original_width", "original_height")),
        ("sha256", STRING),
    ]
)


class ImportTask(Frozen):
    """One shard of the pool: some images of a folder, or one tar."""

    uri: str
    key: str
    shard: int
    source: str
    tar: str | None = None
    images: tuple[tuple[str, str], ...] = ()  # name and caption
    resize: ResizeOptions = ResizeOptions(blur_faces=False)
    step: int = 0


class Imported(Frozen):
    """What became a pool: its folder, and images taken and left out by reason."""

    uri: str
    counts: dict[str, int]


def import_folder(
    folder: str, *, out: str, map_tasks: MapTasks, captions: str | None = None
) -> Imported:
    """Make a pool of a folder's images. `captions`: a table of names and captions.

    PoolError where there is no image with a caption, or a table without the two columns.
    """
    source = open_store(folder)
    names = [entry.name for entry in source.list() if not is_hidden(entry.name)]
    images = sorted(name for name in names if name.lower().endswith(IMAGES))
    if not images:
        raise PoolError(f"there are no images below {source.uri}; looked for {', '.join(IMAGES)}")
    left_out: Counter[str] = Counter()
    pairs = _captions(source, set(names), images, captions, left_out)
    if not pairs:
        raise PoolError(
            f"none of the {len(images):,} images below {source.uri} has a caption: put a file "
            "a.txt next to a.jpg, or name a table of names and captions with --captions"
        )
    parts = [tuple(pairs[begin : begin + ROWS]) for begin in range(0, len(pairs), ROWS)]
    sizes = {entry.name: entry.num_bytes for entry in source.list()}
    keys = [digest([[name, text, sizes[name]] for name, text in part]) for part in parts]
    tasks = [
        ImportTask(uri=out, key=key, shard=number, source=source.uri, images=part)
        for number, (key, part) in enumerate(zip(keys, parts, strict=True))
    ]
    return _import(tasks, source.uri, out, map_tasks, left_out)


def import_tars(folder: str, *, out: str, map_tasks: MapTasks) -> Imported:
    """Make a pool of tars of samples, as webdataset, img2dataset or a resharder writes them."""
    source = open_store(folder)
    tars = sorted(
        (entry.name, entry.num_bytes)
        for entry in source.list()
        if entry.name.endswith(".tar") and not is_hidden(entry.name)
    )
    if not tars:
        raise PoolError(f"there are no .tar files below {source.uri}")
    tasks = [
        ImportTask(uri=out, key=digest([name, size]), shard=number, source=source.uri, tar=name)
        for number, (name, size) in enumerate(tars)
    ]
    return _import(tasks, source.uri, out, map_tasks, Counter())


def _import(
    tasks: Sequence[ImportTask],
    source: str,
    out: str,
    map_tasks: MapTasks,
    left_out: Counter[str],
) -> Imported:
    store = open_store(out)
    work = digest([source, [task.key for task in tasks]])
    _claim(store, work)
    tasks = [
        task.model_copy(
            update={"uri": store.uri, "key": f"i-{task.shard:08d}-{digest([work, task.key])[:16]}"}
        )
        for task in tasks
    ]
    counts = Counter(left_out)
    with progress_step("read images", total=len(tasks), unit="shards") as bar:
        done = map_tasks(run_import, tasks, on_result=lambda *_: bar.advance())
    for result in done:
        counts.update(result.counts)
    if not counts["images"]:
        raise PoolError(f"no image of {source} can be used ({_listed(counts)})")
    for task, result in zip(tasks, done, strict=True):
        _settle(store, task.shard, result)
    for result in done:
        store.remove(done_name(result.key))
    return Imported(
        uri=store.uri, counts={name: counts[name] for name in sorted(counts) if counts[name]}
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()) if number)


def _claim(store: Store, work: str) -> None:
    """Make the folder that of this import. PoolError when it holds something else."""
    state = orjson.dumps({"work": work})
    if store.exists(STATE):
        if store.read_bytes(STATE) != state:
            raise PoolError(f"{store.uri} holds the pool of other images; choose another --out")
        return
    there = next(iter(store.list()), None)
    if there is not None:
        raise PoolError(f"{store.uri} is not empty (it has {there.name}); choose another --out")
    write_bytes(store, STATE, state)


def _settle(store: Store, shard: int, done: Done) -> None:
    """Give the files of a shard their names. Done again after a crash, it changes nothing."""
    stem = image_tars.shard_name(shard)
    for file, name in zip(
        done.files, (f"shards/{stem}.tar", f"metadata/{stem}.parquet"), strict=True
    ):
        store.move(file.name, name)


# ---- captions of a folder


def _captions(
    source: Store,
    names: set[str],
    images: Sequence[str],
    table: str | None,
    left_out: Counter[str],
) -> list[tuple[str, str]]:
    """Name and caption of every image that has one, in the order of the names."""
    if table is None:
        table = next(
            (
                f"{stem}{end}"
                for stem in TABLES
                for end in TABLE_SUFFIXES
                if f"{stem}{end}" in names
            ),
            None,
        )
        listed = _read_captions(source, table) if table else {}
    else:
        folder, _, name = table.rpartition("/")
        listed = _read_captions(open_store(folder or "."), name)
    known = set(images)
    left_out["listed_without_image"] += sum(name not in known for name in listed)
    pairs = []
    for image in images:
        caption = listed.get(image) or _sidecar(source, names, image)
        if not caption:
            left_out["no_caption"] += 1
            continue
        pairs.append((image, caption))
    return pairs


def _sidecar(source: Store, names: set[str], image: str) -> str | None:
    """The text of the file next to an image: `a.txt` or `a.jpg.txt` for `a.jpg`."""
    for stem in (image.rpartition(".")[0], image):
        for suffix in SIDECARS:
            if f"{stem}{suffix}" in names:
                return source.read_bytes(f"{stem}{suffix}").decode("utf-8-sig", "replace").strip()
    return None


def _read_captions(store: Store, name: str) -> dict[str, str]:
    """Captions by the names of images, from a table. PoolError names the columns it has."""
    where = f"{store.uri}/{name}"
    try:
        table = _table(store.read_bytes(name), name)
    except FileNotFoundError:
        raise PoolError(f"there is no table of captions {where}") from None
    except (*DAMAGED, orjson.JSONDecodeError) as error:
        raise PoolError(f"{where} is not a table of captions: {error}") from None
    column = _column(table, NAME_COLUMNS, where, "image names")
    caption = _column(table, CAPTION_COLUMNS, where, "captions")
    rows = zip(table.column(column).to_pylist(), table.column(caption).to_pylist(), strict=True)
    captions: dict[str, str] = {}
    for image, text in rows:
        if isinstance(image, str) and isinstance(text, str) and text.strip():
            captions.setdefault(image.removeprefix("./"), text)
    return captions


def _table(data: bytes, name: str) -> pa.Table:
    if name.endswith(".parquet"):
        return pq.read_table(io.BytesIO(data))
    if name.endswith(".jsonl"):
        rows = [orjson.loads(line) for line in data.splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a JSON object")
        names = sorted({key for row in rows for key in row})
        return pa.table({key: _texts([row.get(key) for row in rows]) for key in names})
    if name.endswith(".csv"):
        header = data.removeprefix(b"\xef\xbb\xbf")
        names = pacsv.read_csv(io.BytesIO(header), parse_options=_CSV).column_names
        return pacsv.read_csv(
            io.BytesIO(header),
            parse_options=_CSV,
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    raise ValueError(f"expected {', '.join(TABLE_SUFFIXES)}")


_CSV = pacsv.ParseOptions(newlines_in_values=True)


def _texts(values: Sequence[Any]) -> pa.Array:
    return pa.array([value if isinstance(value, str) else None for value in values], pa.string())


def _column(table: pa.Table, known: Sequence[str], where: str, what: str) -> str:
    lower = {name.lower(): name for name in reversed(table.column_names)}
    for name in known:
        if name in lower:
            return lower[name]
    raise PoolError(
        f"{where} has no column of {what}; it has {', '.join(table.column_names)}, expected one of "
        f"{', '.join(known)}"
    )


# ---- one shard


@once
def run_import(task: ImportTask, store: Store) -> Done:
    """Write one shard: a tar of samples, and the table of its pairs."""
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    source = open_store(task.source)
    stem = f"work/{image_tars.shard_name(task.shard)}"
    with store.create(attempt_name(stem, ".tar")) as tar:
        for row, data, extension in _rows(task, source, counts):
            tar.write(image_tars.sample(row, data, extension=extension))
            rows.append({**row.model_dump(include=set(SCHEMA.names)), "text": row.caption})
        tar.write(END)
    counts["images"] = len(rows)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    files: tuple[File, ...] = (
        tar.file(num_rows=len(rows)),
        write_table(store, attempt_name(stem, ".parquet"), table),
    )
    return Done(key=task.key, files=files, counts={k: v for k, v in sorted(counts.items()) if v})


Sample = tuple[Row, bytes, str]  # with the image as it is stored, and its extension


def _rows(task: ImportTask, source: Store, counts: Counter[str]) -> Iterator[Sample]:
    """The samples of a shard; what gives none is counted."""
    if task.tar is None:
        for number, (name, caption) in enumerate(task.images):
            sample = _from_folder(task, source.read_bytes(name), number, caption, counts)
            if sample is not None:
                yield sample
        return
    with tar_bytes(source, task.tar) as data:
        for number, members in enumerate(samples(data, f"{source.uri}/{task.tar}", counts)):
            sample = _from_tar(task, data, members, number, counts)
            if sample is not None:
                yield sample


def _from_folder(
    task: ImportTask, data: bytes, number: int, caption: str, counts: Counter[str]
) -> Sample | None:
    """A file as a sample: resized, as a JPEG."""
    try:
        kept = keep(data, None, task.resize)
    except ImageRefused as error:
        counts[error.reason] += 1
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    url = f"sha256:{sha256}"
    row = Row(
        uid=uid_of(url, caption),
        caption=caption,
        url=url,
        key=f"{task.shard:08d}{number:04d}",
        status=SUCCESS,
        width=kept.width,
        height=kept.height,
        original_width=kept.original_width,
        original_height=kept.original_height,
        exif=kept.exif,
        sha256=sha256,
    )
    return row, kept.data, "jpg"


def _from_tar(
    task: ImportTask, data: memoryview, members: Sequence[Member], number: int, counts: Counter[str]
) -> Sample | None:
    """A sample of a tar, its image untouched."""
    parts = {m.extension: data[m.start : m.start + m.size] for m in members}
    extension = next((name for name in IN_TARS if name in parts), None)
    if extension is None:
        counts["no_image"] += 1
        return None
    try:
        known = read_json(parts["json"]) if "json" in parts else {}
    except ValueError:
        counts["broken_json"] += 1
        return None
    known = known if isinstance(known, dict) else {}
    caption = _caption(parts, known)
    if not caption:
        counts["no_caption"] += 1
        return None
    image = bytes(parts[extension])
    try:
        with open_image(image) as opened:
            width, height = opened.size
            opened.load()
    except DECODE_ERRORS:
        counts["not_a_picture"] += 1
        return None
    sha256 = hashlib.sha256(image).hexdigest()
    url = known.get("url")
    url = url if isinstance(url, str) and url else f"sha256:{sha256}"
    uid = known.get("uid")
    if uid is not None and not (isinstance(uid, str) and is_uid(uid)):
        counts["no_uid"] += 1
        return None
    row = Row(
        uid=uid or uid_of(url, caption),
        caption=caption,
        url=url,
        key=f"{task.shard:08d}{number:04d}",
        status=SUCCESS,
        width=width,
        height=height,
        original_width=_size(known.get("original_width"), width),
        original_height=_size(known.get("original_height"), height),
        sha256=sha256,
    )
    return row, image, extension


def _caption(parts: dict[str, memoryview], known: dict[str, Any]) -> str:
    """The caption of a sample: its txt, or what its json calls one."""
    if "txt" in parts:
        return bytes(parts["txt"]).decode("utf-8-sig", "replace")
    texts = (known.get(name) for name in CAPTION_COLUMNS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _size(value: Any, measured: int) -> int:
    """A size that the json gives, else the measured one."""
    return value if type(value) is int and 0 < value < 1 << 31 else measured
