"""Texts, options, right answers and images of tasks, where their licence lets us show them.

A check writes them once for each task and each version of its data, from the evaluation data that
the service itself has (`leaderboard serve --eval-data DIR`), never from a submission. They are
shown with the answers of submissions whose record names the same data.

    shown/tasks/<task>-<start of the data's identity>.texts     a row for each question
    shown/tasks/<task>-<start of the data's identity>.images    a small WebP for each image
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image
from pydantic import Field

from evals.images.image_tasks import ImageData
from evals.items import Item, TaskData
from evals.kinds import has_data, read_data
from evals.tasks import EvalError, Task, is_secret, load_task
from leaderboard.service.row_blocks import RowReader, RowWriter
from pipelines.errors import DataError
from pipelines.records import Frozen, TaskRef
from pipelines.storage.base import Store as Files

log = logging.getLogger("leaderboard")

LONG = 4000  # characters of one text that are shown: two pages of print
MANY = 30  # options, captions or candidates of one question; more do not fit a table cell
THUMBNAIL = 128  # pixels of the longer side
MOST_IMAGES = 100_000  # of one task: about 300 MB of thumbnails
MOST_PIXELS = 1 << 26  # of an image to decode: 200 MB as RGB

FREE = (
    "AFL-3.0",
    "Apache-2.0",
    "BSD-2-Clause",
    "CC BY",
    "CC BY 4.0",
    "CC BY-SA 3.0",
    "CC BY-SA 4.0",
    "CC-BY-4.0",
    "CC0",
    "MIT",
    "ODC-BY",
    "modified MIT",
    "that of the pool's held-out documents",  # pools may be shared, so may their parts
    "that of the held-out images",
)
"""Licences that let anybody show a question; brackets after one name its source."""


class QuestionText(Frozen):
    """The text of one question."""

    context: str = ""
    options: tuple[str, ...] = ()
    gold: tuple[int, ...] = Field((), description="the right ones of `options`, from 0")
    answer: str = Field("", description="the right answer, where it is not one of `options`")
    also: tuple[str, ...] = Field((), description="other accepted answers")
    image: int | None = Field(None, description="its number among the task's images")


def why_not_shown(task: Task) -> str:
    """Why nobody may see the task's texts here; empty when everybody may."""
    if is_secret(task):
        return "its authors ask that its questions are not published"
    parts = re.sub(r"\([^()]*\)", "", task.licence).split(",")
    if all(part.strip() in FREE for part in parts):
        return ""
    return f"its licence does not clearly allow it ({task.licence})"


def name_of(task: str, identity: str) -> str:
    """The name, without its ending, of what is shown of a version of a task's data."""
    return f"shown/tasks/{task}-{identity[:16]}"


def identity_in(ref: TaskRef) -> str:
    """The hash of a task's data in a record: of its rows, or in old records of its bytes."""
    return ref.identity or ref.data


# ---- writing, in the check


def write_texts(files: Files, folder: str, refs: Sequence[TaskRef]) -> None:
    """Write the missing texts of a submission's tasks, from the data folder of the service.

    Data that cannot be read is logged and left out: it is not the submitter's fault.
    """
    for ref in refs:
        task = load_task(ref.name)
        name = name_of(ref.name, identity_in(ref))
        if why_not_shown(task) or files.exists(f"{name}.texts") or not has_data(task, folder):
            continue
        try:
            data = _data(ref.name, folder)
            if identity_in(ref) in (data.identity, data.sha256):
                _write(files, name, task, data)
        except (DataError, EvalError, OSError) as error:
            log.warning("the texts of task %s are not shown: %s", ref.name, error)


@lru_cache(maxsize=8)
def _data(task: str, folder: str) -> TaskData:
    return read_data(load_task(task), folder)


def _write(files: Files, name: str, task: Task, data: TaskData) -> None:
    classes: tuple[str, ...] = ()
    if isinstance(data, ImageData):
        classes = data.classes.get("", ())
        with files.create(f"{name}.images") as target:
            writer = RowWriter(target)
            for number, image in enumerate(data.images()):
                if number == MOST_IMAGES:
                    break
                writer.add({"webp": thumbnail(image)})
            writer.finish()
    with files.create(
        f"{name}.texts"
    ) as target:  # last: its presence means the images are complete
        writer = RowWriter(target)
        for text in _texts(task, data):
            writer.add(text.model_dump(exclude_defaults=True))
        writer.finish(classes=tuple(label[:100] for label in classes))


def _texts(task: Task, data: TaskData) -> Iterator[QuestionText]:
    if not isinstance(data, ImageData):
        yield from (_of_item(item) for item in data.items)
    elif data.instances:
        for instance in data.instances:
            right = [k for k, is_right in enumerate(instance.associated) if is_right]
            options = tuple(map(_cut, instance.candidates[:MANY]))
            yield QuestionText(context=_cut(instance.cue), options=options, gold=tuple(right))
    elif task.kind == "image_retrieval":
        for number, captions in enumerate(data.captions):
            yield from (QuestionText(context=_cut(caption), image=number) for caption in captions)
        for number, captions in enumerate(data.captions):
            shown = tuple(map(_cut, captions[:MANY]))
            yield QuestionText(answer=shown[0] if shown else "", also=shown[1:], image=number)
    else:
        names = data.classes.get("", ())
        for number, gold in enumerate(data.gold.tolist()):
            label = names[gold] if 0 <= gold < len(names) else ""
            yield QuestionText(answer=_cut(label), image=number)


def _of_item(item: Item) -> QuestionText:
    return QuestionText(
        context=_cut(item.context),
        options=tuple(map(_cut, (item.options or item.contexts)[:MANY])),
        gold=(item.gold,) if item.gold is not None else (),
        answer=_cut(item.answer),
        also=tuple(map(_cut, item.aliases[:MANY])),
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONG else text[:LONG] + "..."


def thumbnail(data: bytes) -> str:
    """A thumbnail as WebP in base64; empty for an image that cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                return ""
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "webp", quality=80)
    return base64.b64encode(out.getvalue()).decode()


# ---- reading, for a page


class Texts(Frozen):
    """Texts of some questions; `why` is the reason when they are not shown."""

    texts: tuple[QuestionText | None, ...] = ()
    classes: tuple[str, ...] = ()
    why: str = ""


def read_texts(files: Files, task: str, identity: str, numbers: Sequence[int]) -> Texts:
    """The questions of these numbers."""
    try:
        why = why_not_shown(load_task(task))
    except EvalError:
        why = "the task is not installed here"
    if why:
        return Texts(why=why)
    try:
        with files.open(f"{name_of(task, identity)}.texts") as file:
            reader = RowReader(file)
            there = [number for number in numbers if 0 <= number < reader.index.total]
            rows: dict[int, Any] = dict(zip(there, reader.rows(there), strict=True))
            classes = reader.index.classes
    except FileNotFoundError:
        return Texts(why="this service does not have the data that these questions are of")
    texts = [
        QuestionText.model_validate(rows[number]) if number in rows else None for number in numbers
    ]
    return Texts(texts=tuple(texts), classes=classes)


def read_image(files: Files, task: str, identity: str, number: int) -> bytes:
    """One thumbnail, as WebP. KeyError when it is missing or may not be shown."""
    if why_not_shown(load_task(task)):
        raise KeyError(f"the images of task {task} are not shown")
    try:
        with files.open(f"{name_of(task, identity)}.images") as file:
            reader = RowReader(file)
            rows = reader.rows([number]) if 0 <= number < reader.index.total else []
    except FileNotFoundError:
        rows = []
    if not rows or not rows[0]["webp"]:
        raise KeyError(f"task {task} has no image {number} here")
    return base64.b64decode(rows[0]["webp"])
