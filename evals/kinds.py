"""Kinds: how a task is read, asked and scored. A new kind is a class in a module listed in `KINDS`.

Reading a data file checks every row: a row that is malformed is an error that names the task, the
file and the row, never a row that is left out.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from evals.archives import read_gpqa, tar_rows
from evals.items import Item, Metrics, Tally, TaskData, identity_of
from evals.pins import pin_of
from evals.tasks import PromptedTask, Task, TaskBase
from pipelines.errors import DataError

KINDS = {
    "multiple_choice": "evals.text.language",
    "schema": "evals.text.language",
    "language_modeling": "evals.text.language",
    "generation": "evals.text.language",
    "answer_loss": "evals.text.answer_loss",
    "perplexity": "evals.text.perplexity",
    "token_loss": "evals.text.token_loss",
    "image_classification": "evals.images.zeroshot",
    "image_retrieval": "evals.images.zeroshot",
    "image_association": "evals.images.zeroshot",
    "image_attributes": "evals.images.zeroshot",
    "image_generation": "evals.images.generation",
    "image_memorisation": "evals.images.generation",
    "image_restoration": "evals.images.solving",
    "image_sampling": "evals.images.solving",
    "image_clip": "evals.images.solving",
}
"""The module of each kind; its own `KINDS` maps the name to the kind. Imported on first use."""

Answer: TypeAlias = pa.Table | tuple[pa.Table, dict[str, Any]]
"""A log with one row per question; for image kinds also the features, by name."""

Estimate: TypeAlias = tuple[float, npt.NDArray[np.float64]]
"""A score, and its values on resamples of the questions, (draws,) float64."""

T = TypeVar("T", bound=TaskBase)


class Kind(ABC, Generic[T]):
    """How tasks of one kind are read, asked and scored; `T` is the class of such tasks."""

    whole: ClassVar[bool] = False
    """Whether all questions of a task are asked at once."""

    @abstractmethod
    def item(self, row: Mapping[str, Any], index: int, task: T) -> Item:
        """The item of one JSON row. DataError when the row is not of this kind."""

    def read(self, task: T, folder: str) -> TaskData:
        """The data of a task below a folder: by default files of rows. DataError for bad data."""
        return _read_rows(self, task, Path(folder))

    @abstractmethod
    def answer(
        self, task: T, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> Answer:
        """Ask `model` the questions at positions `rows`: one log row per question, in order."""

    @abstractmethod
    def tally(self, task: T, log: pa.Table) -> Tally:
        """The tally of the log of a whole task."""

    def estimate(self, task: T, log: pa.Table, *, seed: int) -> Estimate | None:
        """The score and its resamples, for a kind whose score is not a ratio of sums; else None."""
        return None

    def metrics(self, task: T, log: pa.Table) -> Metrics | None:
        """All figures of a task that has more than one, else None."""
        return None


def kind_of(task: T) -> Kind[T]:
    """The kind of a task."""
    return cast("Kind[T]", _kind(task.kind))


@cache
def _kind(name: str) -> Kind[Any]:
    kinds: dict[str, Kind[Any]] = importlib.import_module(KINDS[name]).KINDS
    return kinds[name]


def has_data(task: Task, folder: str) -> bool:
    """Whether a folder has the first data file of a task; assumed for remote folders."""
    return "://" in folder or folder == "hub" or (Path(folder) / task.files()[0]).exists()


def read_data(task: Task, folder: Path | str) -> TaskData:
    """Read and check the data of one task.

    Raises DataError when the file is missing, has another number of rows than the task says, or
    holds a malformed row. A file that is well formed but not the recorded bytes is read and marked
    `verified=False`: its scores cannot rank.
    """
    return kind_of(task).read(task, str(folder))


def _read_rows(kind: Kind[T], task: T, folder: Path) -> TaskData:
    items: list[Item] = []
    checksums = []
    for name in task.files():
        data = read_bytes(task, folder, name)
        checksums.append(hashlib.sha256(data).hexdigest())
        items += _parse_items(kind, task, data, where=str(folder / name), first=len(items))
    checksum = checksums[0] if len(checksums) == 1 else checksum_of(checksums)
    if task.rows is not None and len(items) != task.rows:
        raise DataError(
            f"task {task.name}: {folder / task.file} has {len(items)} rows, but the task says "
            f"{task.rows}; get the file again"
        )
    return TaskData(tuple(items), checksum, _is_verified(task, folder, checksum, items))


def checksum_of(checksums: Sequence[str]) -> str:
    """The checksum of several files: the sha256 of theirs, one per line, in order."""
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()


def read_bytes(task: TaskBase, folder: Path, name: str) -> bytes:
    """The bytes of a data file of a task. DataError when the file is missing."""
    path = folder / name
    archive = task.archive if isinstance(task, PromptedTask) else None
    if not path.is_file() and archive and (folder / archive).is_file():
        try:
            return read_gpqa(folder / archive, Path(name).stem)
        except ValueError as error:
            raise DataError(f"task {task.name}: {error}") from None
    if not path.is_file():
        how = f" {task.source}" if task.source else ""
        raise DataError(
            f"task {task.name}: there is no file {path}.{how} Put the file there, or choose "
            "another folder with --data"
        )
    return path.read_bytes()


def _is_verified(task: TaskBase, folder: Path, checksum: str, items: Sequence[Item]) -> bool:
    if task.sha256 is not None and checksum == task.sha256:
        return True
    pin = pin_of(task.name)
    if pin is not None and not task.built:
        return identity_of(items) == pin.identity
    if task.sha256 is not None:
        return False
    built = folder / "built.json"
    if not task.built or not built.is_file():
        return False
    files: dict[str, str] = orjson.loads(built.read_bytes())["files"]
    return files.get(task.file) == checksum


def parse_items(task: Task, data: bytes, *, where: str, first: int = 0) -> list[Item]:
    """The items of a JSONL file or a tar of token sequences, rows counted from `first`.

    Text fields are stripped at both ends; lists are left as is.
    """
    return _parse_items(kind_of(task), task, data, where=where, first=first)


def _parse_items(kind: Kind[T], task: T, data: bytes, *, where: str, first: int) -> list[Item]:
    rows = tar_rows(data) if where.endswith(".tar") else _json_rows(data)
    items: list[Item] = []
    while True:
        try:
            row = next(rows, None)
            if row is None:
                break
            items.append(kind.item(row, first + len(items), task))
        except ValueError as error:
            raise DataError(f"task {task.name}: {where}, row {len(items)}: {error}") from None
    if not items:
        raise DataError(f"task {task.name}: {where} holds no rows; get the file again")
    return items


def _json_rows(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"not JSON ({error}); get the file again") from None
        if not isinstance(row, dict):
            raise DataError("not a JSON object")
        yield {name: v.strip() if isinstance(v, str) else v for name, v in row.items()}
