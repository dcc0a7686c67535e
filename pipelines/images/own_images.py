"""Images that somebody has on disk become a pool: a folder with captions, or tars of samples.

    OUT/metadata/00000000.parquet   uid, url, text, original_width, original_height, sha256
    OUT/shards/00000000.tar         the images, their captions and uids, as every later stage reads

A folder's captions are files next to the images or tables (`own_captions`). Tars are those of
webdataset or img2dataset; what their json says of uid, url and caption is kept. A pair without a
uid gets that of its url and caption; an image without a url gets one made of its bytes,
`sha256:...`, so no uid depends on a path. Images of a folder are resized like downloaded ones;
images in tars are copied byte for byte. What is left out is counted by reason. (The layouts:
Hugging Face's imagefolder, webdataset, rom1504/img2dataset.)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.tars import END, Member, is_hidden, is_tar, samples, tar_bytes
from pipelines.formats.uid_lists import uid_of
from pipelines.formats.writers import write_table
from pipelines.images import image_tars
from pipelines.images.decode import DECODE_ERRORS, MAX_PIXELS, is_truncated, open_image
from pipelines.images.image_tars import SUCCESS, Row
from pipelines.images.own_captions import (
    CAPTION_COLUMNS,
    SIDECARS,
    TABLE_SUFFIXES,
    captions_of,
    read_text,
    refuse_names,
)
from pipelines.images.resize import ImageRefused, ResizeOptions, keep
from pipelines.images.sample_json import read_json
from pipelines.kernels.uids import is_uid
from pipelines.records import File, Frozen, digest
from pipelines.schema import STRING
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, attempt_name, done_name
from pipelines.storage.local import is_link, names_of_one_file, no_files
from pipelines.storage.open import open_store

IMAGES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
)
IN_TARS = ("jpg", "jpeg", "png", "webp")
"""What training reads in a tar; an image of another extension is counted and left out."""
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
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
    images: tuple[tuple[str, str, str], ...] = ()  # name, caption, the json next to it if any
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

    PoolError where there is no image with a caption, or a table without the two columns. An image
    with several captions becomes as many pairs.
    """
    source = open_store(folder)
    sizes = {entry.name: entry.num_bytes for entry in source.list() if not is_hidden(entry.name)}
    names = sorted(sizes)
    images = sorted(name for name in names if name.lower().endswith(IMAGES))
    if not images:
        tars = any(name.lower().endswith(".tar") for name in names)
        instead = "; of tars: --webdataset or --img2dataset" if tars else ""
        raise PoolError(
            f"there are no images below {source.uri}; looked for {', '.join(IMAGES)}{instead}"
        )
    left_out: Counter[str] = Counter()
    refuse_names(names, source.uri)
    described = {name.rpartition(".")[0]: name for name in names if name.endswith(".json")}
    pairs = captions_of(source, names, images, captions, left_out)
    left_out["other_files"] += _others(names)
    root = source.local_path("")
    left_out["no_file"] += sum(map(len, no_files(root).values())) if root is not None else 0
    triples = [(name, text, described.get(name.rpartition(".")[0], "")) for name, text in pairs]
    parts = [tuple(triples[begin : begin + ROWS]) for begin in range(0, len(triples), ROWS)]
    keys = [
        digest(
            [
                [name, text, sizes[name], *([json, sizes[json]] if json else ())]
                for name, text, json in part
            ]
        )
        for part in parts
    ]
    tasks = [
        ImportTask(uri=out, key=key, shard=number, source=source.uri, images=part)
        for number, (key, part) in enumerate(zip(keys, parts, strict=True))
    ]
    return _import(tasks, source.uri, out, map_tasks, left_out)


def _others(names: Sequence[str]) -> int:
    """How many files are neither images nor anything that describes one."""
    return sum(
        not name.lower().endswith((*IMAGES, *SIDECARS, *TABLE_SUFFIXES, ".json")) for name in names
    )


def import_tars(folder: str, *, out: str, map_tasks: MapTasks) -> Imported:
    """Make a pool of tars of samples, as webdataset, img2dataset or a resharder writes them.

    A folder of images, each with a json next to it, is img2dataset's other output: it is read as
    `import_folder` does.
    """
    source = open_store(folder)
    entries = {entry.name: entry.num_bytes for entry in source.list() if not is_hidden(entry.name)}
    left_out: Counter[str] = Counter()
    tars = _tars_in(source, entries, left_out)
    packed = next((name for name in sorted(entries) if name.lower().endswith(PACKED)), None)
    if packed is not None:
        raise PoolError(f"{source.uri}/{packed} is a compressed tar; unpack it to a plain .tar")
    if not tars:
        images = any(name.lower().endswith(IMAGES) for name in entries)
        if images and any(name.endswith(".json") for name in entries):
            return import_folder(folder, out=out, map_tasks=map_tasks)
        hint = "; a folder of images is read with --folder" if images else ""
        raise PoolError(f"there are no .tar files below {source.uri}{hint}")
    refuse_names(entries, source.uri)
    tasks = [
        ImportTask(
            uri=out, key=digest([name, entries[name]]), shard=number, source=source.uri, tar=name
        )
        for number, name in enumerate(tars)
    ]
    return _import(tasks, source.uri, out, map_tasks, left_out)


BESIDE = ("_stats.json", ".parquet")
"""What img2dataset writes next to `00000.tar`, by what follows the number."""


def _tars_in(source: Store, entries: Mapping[str, int], left_out: Counter[str]) -> list[str]:
    """The tars of a folder that are read, by name.

    Counted are those of unfinished jobs (below a folder `_x`), links to another tar or to nothing,
    and shards of img2dataset of which a table or statistics are here and no tar.
    """
    tars = sorted(name for name in entries if is_tar(name.lower()))
    whole = [name for name in tars if not any(f.startswith("_") for f in name.split("/")[:-1])]
    left_out["of_an_unfinished_job"] += len(tars) - len(whole)
    root = source.local_path("")
    if root is not None:
        left_out["no_file"] += sum(map(len, no_files(root).values()))
        links = {
            name
            for group in names_of_one_file(root, whole)
            if any(not is_link(root, name) for name in group)
            for name in group
            if is_link(root, name)
        }
        left_out["link_to_another_tar"] += len(links)
        whole = [name for name in whole if name not in links]
    stems = {name.removesuffix(end) for name in entries for end in BESIDE if name.endswith(end)}
    tarred = {name[: -len(".tar")] for name in tars}
    left_out["shard_without_its_tar"] += len(stems - tarred) if tars else 0
    return whole


def _import(
    tasks: Sequence[ImportTask],
    source: str,
    out: str,
    map_tasks: MapTasks,
    left_out: Counter[str],
) -> Imported:
    store = open_store(out)
    if f"{store.uri}/".startswith(f"{source.rstrip('/')}/"):
        raise PoolError(
            f"--out {out} is inside {source}, which is read; choose a folder next to it"
        )
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
    counts["uid_in_another_shard"] += _repeats(store, len(tasks))
    for result in done:
        store.remove(done_name(result.key))
    return Imported(
        uri=store.uri, counts={name: counts[name] for name in sorted(counts) if counts[name]}
    )


def _repeats(store: Store, shards: int) -> int:
    """How many pairs have the uid of a pair of an earlier shard: packing takes the first."""
    uids = []
    for shard in range(shards):
        with store.open(f"metadata/{image_tars.shard_name(shard)}.parquet") as file:
            uids.append(pq.read_table(file, columns=["uid"]).column("uid"))
    return sum(map(len, uids)) - pc.count_distinct(pa.chunked_array(uids, STRING)).as_py()


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


# ---- one shard


@once
def run_import(task: ImportTask, store: Store) -> Done:
    """Write one shard: a tar of samples, and the table of its pairs."""
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    source = open_store(task.source)
    stem = f"work/{image_tars.shard_name(task.shard)}"
    with store.create(attempt_name(stem, ".tar")) as tar:
        uids: set[str] = set()
        for row, data, extension in _rows(task, source, counts):
            if row.uid in uids:
                counts["repeated_uid"] += 1
                continue
            uids.add(row.uid)
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
        for number, (name, caption, json) in enumerate(task.images):
            described = source.read_bytes(json) if json else b"{}"
            sample = _from_folder(task, source.read_bytes(name), number, caption, described, counts)
            if sample is not None:
                yield sample
        return
    with tar_bytes(source, task.tar) as data:
        number = -1
        for number, members in enumerate(samples(data, f"{source.uri}/{task.tar}", counts)):
            sample = _from_tar(task, data, members, number, counts)
            if sample is not None:
                yield sample
    counts["fewer_than_img2dataset_counted"] += max(0, _counted(source, task.tar) - (number + 1))


def _counted(source: Store, tar: str) -> int:
    """The samples that img2dataset wrote into a tar, by its statistics; 0 without them."""
    name = f"{tar[: -len('.tar')]}_stats.json"
    if not source.exists(name):
        return 0
    try:
        successes = orjson.loads(source.read_bytes(name))["successes"]
    except (ValueError, KeyError, TypeError):
        return 0
    return successes if isinstance(successes, int) else 0


def _from_folder(
    task: ImportTask,
    data: bytes,
    number: int,
    caption: str,
    described: bytes,
    counts: Counter[str],
) -> Sample | None:
    """A file as a sample: resized, as a JPEG."""
    known = _known(described, counts)
    if known is None:
        return None
    try:
        kept = keep(data, None, task.resize)
    except ImageRefused as error:
        counts[error.reason] += 1
        return None
    size, original = (kept.width, kept.height), (kept.original_width, kept.original_height)
    row = _row(task, number, caption, data, known, size, original, counts)
    return None if row is None else (row.model_copy(update={"exif": kept.exif}), kept.data, "jpg")


def _from_tar(
    task: ImportTask, data: memoryview, members: Sequence[Member], number: int, counts: Counter[str]
) -> Sample | None:
    """A sample of a tar, its image untouched."""
    parts = {m.extension: data[m.start : m.start + m.size] for m in members}
    images = [name for name in IN_TARS if name in parts]
    counts["second_image"] += max(0, len(images) - 1)
    extension = images[0] if images else None
    if extension is None:
        counts["no_image"] += 1
        return None
    known = _known(parts.get("json", b"{}"), counts)
    if known is None:
        return None
    caption = _caption(parts, known)
    if caption is None or not caption.strip():
        counts["caption_not_utf8" if caption is None else "no_caption"] += 1
        return None
    image = bytes(parts[extension])
    try:
        with open_image(image) as opened:
            size = opened.size
            if size[0] * size[1] > MAX_PIXELS:
                counts["too_many_pixels"] += 1
                return None
            opened.load()
    except DECODE_ERRORS as error:
        counts["truncated" if is_truncated(error) else "not_a_picture"] += 1
        return None
    row = _row(task, number, caption, image, known, size, size, counts)
    return None if row is None else (row, image, extension)


def _known(described: bytes | memoryview, counts: Counter[str]) -> dict[str, Any] | None:
    """The fields of a sample's json; None, and counted, where it is broken."""
    try:
        known = read_json(described)
    except ValueError:
        counts["broken_json"] += 1
        return None
    return known if isinstance(known, dict) else {}


def _row(
    task: ImportTask,
    number: int,
    caption: str,
    data: bytes,
    known: dict[str, Any],
    size: tuple[int, int],
    original: tuple[int, int],
    counts: Counter[str],
) -> Row | None:
    """The pair: uid and url as the json has them, else of the image's bytes and its caption."""
    sha256 = hashlib.sha256(data).hexdigest()
    url = known.get("url")
    url = url if isinstance(url, str) and url else f"sha256:{sha256}"
    uid = known.get("uid")
    if uid is not None and not (isinstance(uid, str) and is_uid(uid)):
        counts["no_uid"] += 1
        return None
    if not (_is_unicode(caption) and _is_unicode(url)):
        counts["caption_not_utf8"] += 1
        return None
    return Row(
        uid=uid or uid_of(url, caption),
        caption=caption,
        url=url,
        key=f"{task.shard:08d}{number:04d}",
        status=SUCCESS,
        width=size[0],
        height=size[1],
        original_width=_size(known.get("original_width"), original[0]),
        original_height=_size(known.get("original_height"), original[1]),
        sha256=sha256,
    )


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: json may hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _caption(parts: dict[str, memoryview], known: dict[str, Any]) -> str | None:
    """The caption of a sample: its txt, or what its json calls one; None for a txt of bytes."""
    if "txt" in parts:
        return read_text(bytes(parts["txt"]))
    texts = (known.get(name) for name in CAPTION_COLUMNS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _size(value: Any, measured: int) -> int:
    """A size that the json gives, else the measured one."""
    return value if type(value) is int and 0 < value < 1 << 31 else measured
