"""Which items of image tasks occur in a dataset of image-text pairs, by their content.

Images are matched by appearance (`pipelines.images.likeness`), which detects copies of another size
or quality but not crops; captions by n-grams, like all texts. What makes an item occur: for a
classification its image, for an association its images, for a caption of a retrieval task the
caption or its image, for an image of a retrieval task the image.

The suite's images are described once, in parallel over the shards of their data; each shard of the
dataset is then compared with all of them. A suite of 600,000 images takes 240 MB in each worker;
one tar of the dataset is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.decontamination import ITEMS, Match, Overlap
from evals.images.image_tasks import IMAGES, ImageData, Shard, read_images, shard_images
from evals.overlap_report import Items, TaskOverlap, task_overlaps
from evals.reports import Run
from evals.tasks import ImageTask
from pipelines.errors import DataError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.execution.progress import say
from pipelines.formats.tars import is_tar, samples, tar_bytes
from pipelines.images.decode import DECODE_ERRORS, fault_of
from pipelines.images.likeness import Bytes, Floats, Likeness, copies, likeness, stacked
from pipelines.storage.open import open_store
from pipelines.text.contamination import NGRAM

BATCH = 1024  # images of the dataset compared at a time
CAPTION = "txt"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """One task's items: the images of each row, by their numbers in the suite.

    `owners` (rows, images) is padded with -1; the first `num_captions` rows are captions.
    """

    task: str
    owners: Ints
    num_captions: int


@dataclass(frozen=True, eq=False)
class SuiteImages:
    """The images and captions of a suite, which shards of a dataset are compared with."""

    parts: tuple[Part, ...]
    images: Likeness
    captions: Overlap


@dataclass(frozen=True)
class Hits:
    """Images and n-grams of the suite in one shard of a dataset, by their numbers."""

    images: Ints
    grams: Ints
    num_unreadable: int


class ImageOverlap:
    """Which items of a suite occur in the shards searched so far."""

    def __init__(self, suite: SuiteImages) -> None:
        self.suite = suite
        self._seen = np.zeros(len(suite.images.shape), bool)
        self.matches: list[Match] = []  # always empty: images have no passage to show

    def mark(self, hits: Hits) -> None:
        """Add the result of one shard."""
        self._seen[hits.images] = True
        self.suite.captions.mark(hits.grams)

    def items(self) -> Iterator[Items]:
        """For each task its rows and the fraction of each that occurs, NaN if unknown."""
        plain = self.suite.images.plain
        texts = self.suite.captions.fractions()
        first_text = 0
        for part in self.suite.parts:
            counted = (part.owners >= 0) & ~plain[part.owners]
            seen = (counted & self._seen[part.owners]).sum(axis=1)
            count = counted.sum(axis=1)
            fractions = np.where(count > 0, seen / np.maximum(count, 1), np.nan)
            captions = texts[first_text : first_text + part.num_captions]
            here = slice(part.num_captions)
            fractions[here] = np.fmax(fractions[here], captions)
            first_text += part.num_captions
            yield Items(part.task, np.arange(len(fractions)), fractions)

    def report(self, run: Run | None = None) -> list[TaskOverlap]:
        """The overlap of each task; with a run also its score on the items that do not occur."""
        return list(task_overlaps(self.items(), run))


def image_overlap(
    dataset: str,
    tasks: Sequence[ImageTask],
    data: str,
    *,
    ngram: int = NGRAM,
    map_tasks: MapTasks = map_here,
) -> ImageOverlap:
    """Search the tars of a packed dataset for the items of image tasks, tars in parallel.

    DataError for a folder without tars, and for an image of the suite that does not decode;
    ShardError names a tar that is damaged.
    """
    store = open_store(dataset)
    names = sorted(entry.name for entry in store.list() if is_tar(entry.name))
    if not names:
        raise DataError(
            f"{dataset} has no tars of images; give the packed dataset, or a folder of webdataset "
            "tars"
        )
    overlap = ImageOverlap(suite_images(tasks, data, ngram=ngram, map_tasks=map_tasks))
    look = partial(look_through, dataset=dataset, suite=overlap.suite)
    num_unreadable = 0
    for hits in map_tasks(look, names):
        overlap.mark(hits)
        num_unreadable += hits.num_unreadable
    if num_unreadable:
        say(f"{num_unreadable:,} images of {dataset} do not decode and were not compared")
    return overlap


def suite_images(
    tasks: Sequence[ImageTask], data: str, *, ngram: int = NGRAM, map_tasks: MapTasks = map_here
) -> SuiteImages:
    """Describe every image of the tasks. DataError names one that does not decode."""
    parts, shards, texts = [], [], []
    first = 0
    for task in tasks:
        loaded = read_images(task, data)
        owners = first + _owners(loaded)
        owners[_owners(loaded) < 0] = -1
        captions = [text for several in loaded.captions for text in several]
        parts.append(Part(task.name, owners, len(captions)))
        texts += [
            {"task": task.name, "item": row, "text": text} for row, text in enumerate(captions)
        ]
        shards += [(task.name, loaded.uri, shard) for shard in loaded.shards]
        first += len(loaded.keys)
    described = map_tasks(describe, shards)
    images = Likeness(
        np.concatenate([some.shape for some in described]),
        np.concatenate([some.colours for some in described]),
    )
    captions_ = Overlap(pa.Table.from_pylist(texts, schema=ITEMS), ngram=ngram)
    return SuiteImages(tuple(parts), images, captions_)


def _owners(data: ImageData) -> Ints:
    """The images of each row of a task's log, (rows, images), padded with -1."""
    if data.instances:
        owners = np.full((len(data.instances), max(len(i.images) for i in data.instances)), -1)
        for row, instance in enumerate(data.instances):
            owners[row, : len(instance.images)] = instance.images
        return owners
    own = np.arange(len(data.keys))
    of_captions = np.repeat(own, [len(texts) for texts in data.captions] or 0)
    return np.concatenate([of_captions, own]).astype(np.int64)[:, None]


def describe(item: tuple[str, str, Shard]) -> Likeness:
    """The images of one shard of a task's data (in a worker)."""
    task, uri, shard = item
    described = []
    for number, image in enumerate(shard_images(uri, shard)):
        try:
            described.append(likeness(image))
        except DECODE_ERRORS as error:
            raise DataError(
                f"task {task}: {uri}/{shard.name}, image {number} does not decode "
                f"({fault_of(error)}); get the dataset again"
            ) from None
    return stacked(described)


def look_through(name: str, *, dataset: str, suite: SuiteImages) -> Hits:
    """The images and n-grams of a suite in one tar of a dataset (in a worker)."""
    images, grams = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    num_unreadable = 0
    store = open_store(dataset)
    with tar_bytes(store, name) as data:
        described: list[tuple[Floats, Bytes]] = []
        captions: list[str] = []

        def compare() -> None:
            images.append(copies(suite.images, stacked(described)))
            grams.append(suite.captions.numbers(captions))
            described.clear()
            captions.clear()

        for sample in samples(data, f"{store.uri}/{name}"):
            for member in sample:
                content = data[member.start : member.start + member.size]
                extension = member.extension.rpartition(".")[2]  # of `0.jpg`, too
                if extension == CAPTION:
                    captions.append(bytes(content).decode("utf-8", "replace"))
                elif extension in IMAGES:
                    try:
                        described.append(likeness(bytes(content)))
                    except DECODE_ERRORS:
                        num_unreadable += 1
            if len(described) >= BATCH:
                compare()
        compare()
    return Hits(np.unique(np.concatenate(images)), np.unique(np.concatenate(grams)), num_unreadable)
