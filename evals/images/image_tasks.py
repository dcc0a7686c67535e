"""Images with labels, captions or associations, in the published WebDataset layout.

    <data>/<folder of the task>/
        classnames.txt  zeroshot_classification_templates.txt  dataset_type.txt
        test/nshards.txt  test/0.tar  test/1.tar ...

A sample has an image (webp, png, jpg or jpeg) and its label (`cls`), its captions (`txt`, one per
line) or, for associations, a `json` with cue, candidates and associations and the candidates'
images as `0.jpg`, `1.jpg`, ...; numbers to group by are a row in `npy`. Class names and templates
are part of the data. Retrieval and association sets may also be parquet files in the hub's layout:
columns image and caption, or cue, candidates, associations and candidates_images.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from evals.items import TaskData
from evals.pins import pin_of
from evals.tasks import ImageTask
from pipelines.errors import DataError
from pipelines.formats.tars import Member, TarError, samples, tar_bytes
from pipelines.records import File, canonical_json
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.open import open_store

IMAGES = ("webp", "png", "jpg", "jpeg")
CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
BUILT = "built.json"
CLASS_MARK = "{c}"  # in a template: where the name of the class goes
MAX_GROUPS = 100_000  # each is a line of the results; more means a wrong column
MAX_NUMBER = 2**53  # float64 cannot represent every whole number above
HUB = "hub"  # as a data folder: every dataset is read from its repository on Hugging Face
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Instance:
    """A cue, and which of its candidates it is associated with. (Bitton et al. 2022, WinoGAViL)"""

    cue: str
    candidates: tuple[str, ...]
    associated: tuple[bool, ...]
    images: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """One tar and the (start, bytes) of each image in it; or one parquet file, without `places`."""

    name: str
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class ImageData(TaskData):
    """The checked images of a task: labels and locations; `images` reads their bytes.

    `gold` (images,) is -1 where there is no label; `metadata` (images, numbers). `classes` and
    `templates` are by objective, which is "" where there is only one.
    """

    uri: str
    shards: tuple[Shard, ...]
    keys: tuple[str, ...]
    gold: Ints
    metadata: Ints
    classes: dict[str, tuple[str, ...]]
    templates: dict[str, tuple[str, ...]]
    captions: tuple[tuple[str, ...], ...]
    instances: tuple[Instance, ...]
    content: str

    @cached_property
    def identity(self) -> str:
        """The hash over every encoded image, label, caption, class name and template, in order."""
        return self.content

    @property
    def num_rows(self) -> int:
        return len(self.instances) or len(self.keys)

    @property
    def num_duplicated(self) -> int:
        return 0

    def images(self) -> Iterator[bytes]:
        """The encoded images in order, read shard by shard."""
        for shard in self.shards:
            yield from shard_images(self.uri, shard)

    def empty_classes(self) -> list[str]:
        """Names of classes without images."""
        if list(self.classes) != [""] or not len(self.gold):
            return []
        counts = np.bincount(self.gold, minlength=len(self.classes[""]))
        return [name for name, n in zip(self.classes[""], counts.tolist(), strict=True) if not n]


def shard_images(uri: str, shard: Shard) -> Iterator[bytes]:
    """The encoded images of one shard of a task's data, in order."""
    store = open_store(uri)
    if shard.name.endswith(".parquet"):
        yield from _parquet_images(store, shard.name)
        return
    with tar_bytes(store, shard.name) as data:
        for start, size in shard.places:
            yield bytes(data[start : start + size])


def image_folder(task: ImageTask, folder: str) -> str:
    """The URI of a task's data: below the data folder, or for `hub` its repository there.

    DataError for a task without a repository on the hub.
    """
    if folder != HUB:
        return f"{folder.rstrip('/')}/{task.file}"
    home = re.search(r"huggingface\.co/datasets/([\w.-]+/[\w.-]*\w)", task.source)
    if home is None:
        raise DataError(f"task {task.name} is not on the hub. {task.source}")
    return f"hf://datasets/{home[1]}"


@lru_cache(maxsize=64)
def read_images(task: ImageTask, folder: str) -> ImageData:
    """Read and check everything about a task's images except the images themselves.

    DataError names what is missing or malformed: the file, the member, the value.
    """
    uri = image_folder(task, folder)
    store = open_store(uri)
    tars = store.exists("test/nshards.txt")
    names = [] if tars else [e.name for e in store.list() if e.name.endswith(".parquet")]
    if not tars and not names:
        hint = f" {task.source}" if task.source else ""
        raise DataError(
            f"task {task.name}: there is no dataset in {uri} (test/nshards.txt is missing)."
            f"{hint} Put it there, or choose another folder with --data"
        )
    reader = _Reader(task, store)
    if tars:
        reader.read_tars(reader.number("test/nshards.txt"))
    else:
        reader.read_parquet(names)
    return reader.finish(uri)


def vouch(store: Store, folder: str) -> File:
    """Write `built.json`, the checksum of a dataset built here from a pool, into its folder."""
    sha256 = hashlib.sha256()

    def add(name: str) -> bytes:
        data = store.read_bytes(f"{folder}/{name}")
        sha256.update(hashlib.sha256(data).digest())
        return data

    for name in (CLASSES, TEMPLATES):
        if store.exists(f"{folder}/{name}"):
            add(name)
    for number in range(int(add("test/nshards.txt"))):
        add(f"test/{number}.tar")
    content = orjson.dumps({"sha256": sha256.hexdigest()})
    return write_bytes(store, f"{folder}/{BUILT}", content)


class _Reader:
    """Collects a dataset file by file."""

    def __init__(self, task: ImageTask, store: Store) -> None:
        self.task, self.store = task, store
        self.sha256 = hashlib.sha256()
        self.images = hashlib.sha256()
        self.shards: list[Shard] = []
        self.keys: list[str] = []
        self.gold: list[int] = []
        self.metadata: list[Ints] = []
        self.captions: list[tuple[str, ...]] = []
        self.instances: list[Instance] = []
        self.num_images = 0
        labelled = task.kind in ("image_classification", "image_attributes")
        self.classes = self.lists(CLASSES) if labelled else {}
        self.templates = self.lists(TEMPLATES) if labelled else {}

    def fault(self, what: str) -> DataError:
        return DataError(f"task {self.task.name}: {self.store.uri}/{what}; get the dataset again")

    def lines(self, name: str) -> list[str]:
        try:
            data = self.store.read_bytes(name)
        except FileNotFoundError:
            hint = ", or try `evals names`" if name in (CLASSES, TEMPLATES) else ""
            raise self.fault(f"{name} is missing{hint}") from None
        self.sha256.update(hashlib.sha256(data).digest())
        try:
            text = data.decode("utf-8-sig")  # Windows editors write a byte order mark
        except UnicodeDecodeError as error:
            raise self.fault(f"{name} is not UTF-8 ({error})") from None
        lines = [line.strip() for line in text.split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def number(self, name: str) -> int:
        lines = self.lines(name)
        if len(lines) != 1 or not (lines[0].isascii() and lines[0].isdigit()):
            raise self.fault(f"{name}: expected one number, found {lines[:2]}")
        return int(lines[0])

    def lists(self, name: str) -> dict[str, tuple[str, ...]]:
        """The lines of a file by objective: "" or, for attributes, the text before the colon."""
        lines = self.lines(name)
        for number, line in enumerate(lines, start=1):
            if not line:
                raise self.fault(f"{name}: line {number} is empty")
            if name == TEMPLATES and CLASS_MARK not in line:
                raise self.fault(
                    f"{name}: line {number}, {line!r}, has no {CLASS_MARK} where the class goes"
                )
        if self.task.kind != "image_attributes":
            if name == CLASSES and self.task.classes not in (None, len(lines)):
                raise self.fault(
                    f"{name} has {len(lines)} classes, the task has {self.task.classes}"
                )
            return {"": tuple(lines)}
        values_of: dict[str, list[str]] = {}
        for number, line in enumerate(lines, start=1):
            objective, colon, value = line.partition(":")
            if not colon or not value:
                raise self.fault(f"{name}: line {number} is {line!r}, expected objective:value")
            values_of.setdefault(objective, []).append(value)
        return {objective: tuple(values) for objective, values in values_of.items()}

    # ---- tars

    def read_tars(self, count: int) -> None:
        for number in range(count):
            name = f"test/{number}.tar"
            places: list[tuple[int, int]] = []
            try:
                with tar_bytes(self.store, name) as data:
                    self.sha256.update(hashlib.sha256(data).digest())
                    for sample in samples(data, f"{self.store.uri}/{name}"):
                        self.sample(sample, data, name, places)
            except FileNotFoundError:
                raise self.fault(f"{name} is missing; nshards.txt says {count}") from None
            except (TarError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"task {self.task.name}: {error}; get the dataset again") from None
            self.shards.append(Shard(name, tuple(places)))

    def sample(
        self,
        sample: Sequence[Member],
        data: memoryview,
        shard: str,
        places: list[tuple[int, int]],
    ) -> None:
        def read(member: Member) -> bytes:
            return bytes(data[member.start : member.start + member.size])

        members = {member.extension.lower(): member for member in sample}
        key = sample[0].key.decode("utf-8", "replace")
        where = f"{shard}, sample {key}"
        if self.task.kind == "image_association":
            self.association(members, read, key, where, places)
            return
        images = [members[extension] for extension in IMAGES if extension in members]
        if len(images) != 1:
            raise self.fault(f"{where}: {len(images)} images, expected one of {IMAGES}")
        places.append((images[0].start, images[0].size))
        self.image(read(images[0]))
        self.num_images += 1
        self.keys.append(key)
        if self.task.kind == "image_retrieval":
            self.caption(read(self.member(members, "txt", where)), where)
            return
        if self.task.kind == "image_classification":
            self.label(read(self.member(members, "cls", where)), where)
        if self.task.metadata:
            self.numbers(read(self.member(members, "npy", where)), where)

    def image(self, data: bytes) -> None:
        """Count the bytes of an encoded image for the identity, wherever it is stored."""
        self.images.update(hashlib.sha256(data).digest())

    def identity(self) -> str:
        """The hash over images, labels, numbers, captions, instances, class names, templates."""
        content = canonical_json(
            {
                "classes": self.classes,
                "templates": self.templates,
                "images": self.images.hexdigest(),
                "gold": self.gold,
                "metadata": [row.tolist() for row in self.metadata],
                "captions": self.captions,
                "instances": [[i.cue, i.candidates, i.associated] for i in self.instances],
            }
        )
        return hashlib.sha256(content).hexdigest()

    def member(self, members: dict[str, Member], extension: str, where: str) -> Member:
        if extension not in members:
            raise self.fault(f"{where} has no .{extension}")
        return members[extension]

    def label(self, value: bytes, where: str) -> None:
        try:
            label = int(value)
        except ValueError:
            raise self.fault(f"{where}: the label is {value[:20]!r}, not a number") from None
        if not 0 <= label < len(self.classes[""]):
            raise self.fault(
                f"{where}: the label {label} is out of range; {CLASSES} has "
                f"{len(self.classes[''])} classes"
            )
        self.gold.append(label)

    def numbers(self, value: bytes, where: str) -> None:
        try:
            row = np.load(io.BytesIO(value), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self.fault(f"{where}: .npy cannot be read ({error})") from None
        if row.shape != (len(self.task.metadata),) or row.dtype.kind not in "iuf":
            raise self.fault(
                f"{where}: .npy is {row.dtype} {row.shape}, expected the "
                f"{len(self.task.metadata)} numbers {', '.join(self.task.metadata)}"
            )
        whole = np.isfinite(row) & (row == np.trunc(row)) if row.dtype.kind == "f" else row == row
        groups = self.task.metadata if self.task.kind == "image_attributes" else self.task.group_by
        numbers: list[Any] = row.tolist()
        for name, number, good in zip(self.task.metadata, numbers, whole, strict=True):
            if not good or not -MAX_NUMBER <= number <= MAX_NUMBER:
                raise self.fault(f"{where}: {name} is {number}, expected a whole number")
            if name in groups and not 0 <= number < MAX_GROUPS:
                raise self.fault(
                    f"{where}: {name} is {number}, expected a group from 0 to {MAX_GROUPS - 1}"
                )
        self.metadata.append(row.astype(np.int64))

    def caption(self, value: bytes, where: str) -> None:
        """The captions of a text file, one per line; only \\n ends a line."""
        split = (line.removesuffix("\r") for line in value.decode("utf-8", "replace").split("\n"))
        self.listed(tuple(line for line in split if line), where)

    def listed(self, lines: tuple[str, ...], where: str) -> None:
        if not lines:
            raise self.fault(f"{where} has no caption")
        self.captions.append(lines)

    def association(
        self, members: dict[str, Member], read: Any, key: str, where: str, places: Any
    ) -> None:
        fields = orjson.loads(read(self.member(members, "json", where)))
        missing = [k for k in ("cue", "candidates", "associations") if k not in fields]
        if missing:
            raise self.fault(f"{where}: the json has no {', '.join(missing)}")
        names = [
            next((f"{n}.{e}" for e in IMAGES if f"{n}.{e}" in members), None)
            for n in range(len(fields["candidates"]))
        ]
        if None in names:
            raise self.fault(f"{where}: no image of candidate {names.index(None)}")
        for name in names:
            places.append((members[str(name)].start, members[str(name)].size))
            self.image(read(members[str(name)]))
        self.instance(fields["cue"], fields["candidates"], fields["associations"], where)
        self.keys += [f"{key}.{n}" for n in range(len(names))]

    def instance(
        self, cue: str, candidates: list[str], associations: list[str], where: str
    ) -> None:
        if not associations or not set(associations) <= set(candidates):
            raise self.fault(f"{where}: the associations {associations} are not all candidates")
        first = self.num_images
        self.num_images += len(candidates)
        self.instances.append(
            Instance(
                cue=cue,
                candidates=tuple(candidates),
                associated=tuple(candidate in associations for candidate in candidates),
                images=tuple(range(first, self.num_images)),
            )
        )

    # ---- parquet

    def read_parquet(self, names: Sequence[str]) -> None:
        if self.task.kind not in ("image_retrieval", "image_association"):
            raise self.fault("test/nshards.txt is missing")
        for name in names:
            with self.store.open(name) as file:
                self.sha256.update(hashlib.sha256(file.read()).digest())
                file.seek(0)
                try:
                    self.rows(pq.ParquetFile(file), name)
                    for data in _parquet_images(self.store, name):
                        self.image(data)
                except (pa.ArrowException, KeyError) as error:
                    raise self.fault(f"{name}: {error}") from None
            self.shards.append(Shard(name))

    def rows(self, file: pq.ParquetFile, name: str) -> None:
        association = self.task.kind == "image_association"
        columns = ["cue", "candidates", "associations"] if association else ["caption"]
        missing = [c for c in columns if c not in file.schema_arrow.names]
        if missing:
            raise self.fault(f"{name} has no column {', '.join(missing)}")
        row = 0
        for batch in file.iter_batches(batch_size=512, columns=columns):
            for entry in batch.to_pylist():
                where = f"{name}, row {row}"
                if association:
                    self.instance(entry["cue"], entry["candidates"], entry["associations"], where)
                    self.keys += [f"{row}.{n}" for n in range(len(entry["candidates"]))]
                else:
                    captions = entry["caption"]
                    listed = captions if isinstance(captions, list) else [captions]
                    if not all(isinstance(caption, str) for caption in listed):
                        raise self.fault(f"{where}: the captions are {listed}, expected texts")
                    self.listed(tuple(listed), where)
                    self.num_images += 1
                    self.keys.append(f"{row}")
                row += 1

    # ---- the end

    def finish(self, uri: str) -> ImageData:
        if not self.num_images:
            raise self.fault("test has no images")
        if self.task.kind == "image_attributes" and set(self.classes) != set(self.templates):
            raise self.fault(
                f"{CLASSES} has the objectives {sorted(self.classes)}, but {TEMPLATES} has "
                f"{sorted(self.templates)}"
            )
        sha256 = self.sha256.hexdigest()
        return ImageData(
            items=(),
            sha256=sha256,
            verified=self.verified(sha256),
            uri=uri,
            shards=tuple(self.shards),
            keys=tuple(self.keys),
            gold=np.array(self.gold, dtype=np.int64),
            metadata=np.array(self.metadata, dtype=np.int64).reshape(
                -1 if self.metadata else 0, len(self.task.metadata)
            ),
            classes=self.classes,
            templates=self.templates,
            captions=tuple(self.captions),
            instances=tuple(self.instances),
            content=self.identity(),
        )

    def verified(self, sha256: str) -> bool:
        """Whether the data has the task's checksum, the pinned identity or, if built, its own."""
        if self.task.sha256 is not None:
            return sha256 == self.task.sha256
        pin = pin_of(self.task.name)
        if pin is not None and (not self.task.built or self.identity() == pin.identity):
            return self.identity() == pin.identity
        if self.task.built:  # from a pool that is not pinned: it ranks separately, by its identity
            if not self.store.exists(BUILT):
                return False
            built = orjson.loads(self.store.read_bytes(BUILT))
            return bool(built.get("sha256") == sha256)
        return False


def _parquet_images(store: Store, name: str) -> Iterator[bytes]:
    with store.open(name) as file:
        parquet = pq.ParquetFile(file)
        several = "candidates_images" in parquet.schema_arrow.names
        column = "candidates_images" if several else "image"
        for batch in parquet.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0).to_pylist():
                for image in value if several else [value]:
                    yield image["bytes"]
