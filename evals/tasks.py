"""Tasks and their items: a task is a YAML file, an item is one question of its data file.

A task says what kind it is, how its prompt is put together and which bytes are its data. What a
kind does with a task is in the module that `KINDS` names; adding a kind means adding a module and
one line there. Reading a data file checks every row: a row that is malformed is an error that
names the task, the file and the row, never a row that is left out.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import orjson
import pyarrow as pa
import yaml
from pydantic import Field, ValidationError

from evals.archives import read_gpqa, tar_rows
from evals.pins import pin_of
from pipelines.errors import DataError, UsageError
from pipelines.records import Frozen, canonical_json, digest

FOLDER = Path(__file__).parent / "tasks"

KINDS = {
    "multiple_choice": "evals.text.language",
    "schema": "evals.text.language",
    "language_modeling": "evals.text.language",
    "generation": "evals.text.language",
    "perplexity": "evals.text.perplexity",
    "token_loss": "evals.text.token_loss",
    "image_classification": "evals.images.zeroshot",
    "image_retrieval": "evals.images.zeroshot",
    "image_association": "evals.images.zeroshot",
    "image_attributes": "evals.images.zeroshot",
}

VERSIONS = ("v1", "v2")


class EvalError(UsageError):
    """A request that cannot be met: an unknown name, settings or runs that do not fit."""


class Baselines(Frozen):
    """What guessing scores, in the unit of the metric, by version of the evaluation."""

    v1: float
    v2: float


class Task(Frozen):
    """One task: its kind, its prompt, its data, and what is needed to read its score."""

    name: str
    kind: str = Field(description="how the task is asked and scored; a key of evals.tasks.KINDS")
    description: str
    category: str
    metric: str = Field(description="what the score is")
    higher_is_better: bool = True
    file: str = Field(
        description="path of the data below the data folder; {000..010} stands for several files"
    )
    rows: int | None = Field(None, description="rows that the file must have")
    sha256: str | None = Field(
        None, description="checksum of the reference file or files (see `checksum_of`), where known"
    )
    built: bool = Field(
        False, description="the file is built from a pool; `built.json` beside it vouches for it"
    )
    archive: str | None = Field(
        None, description="GPQA's zip below the data folder, read in memory when there is no `file`"
    )
    secret: bool = Field(
        False, description="texts are not written anywhere: logs keep scores, not prompts"
    )
    source: str = Field("", description="where the data comes from and how to get it")
    licence: str
    shots: int = Field(0, ge=0, description="solved examples shown before the question")
    prelimiter: str = Field("", description="text before every context")
    delimiter: str = Field(" ", description="text between a context and its answer")
    cot_delimiter: str = Field("", description="text between a chain of thought and its answer")
    stop: tuple[str, ...] = Field((), description="patterns that end a generated answer")
    by_category: bool = Field(
        False, description="shots stay in the row's category; the score is the mean of categories"
    )
    random_baseline: Baselines
    groups: tuple[str, ...] = Field((), description="aggregates that this task belongs to")

    key: str = Field("", description="pictures: the dataset's key in DataComp's results")
    title: str = Field("", description="pictures: the dataset's name in DataComp's results")
    classes: int | None = Field(None, description="pictures: how many classes there are")
    metadata: tuple[str, ...] = Field((), description="pictures: what a picture's numbers are")
    group_by: tuple[str, ...] = Field((), description="pictures: the numbers that make groups")
    other_group: int | None = Field(
        None, description="pictures: the group of the remainder; the worst is told without it too"
    )
    ranks: bool = Field(True, description="pictures: whether the metric is the dataset's main one")

    mask_left: int | None = Field(
        None, description="an id up to whose last occurrence nothing is scored; it is taken out"
    )
    mask_single: int | None = Field(None, description="an id that is fed but never scored")

    def files(self) -> list[str]:
        """The names of the data files below the data folder."""
        match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", self.file)
        if match is None:
            return [self.file]
        before, low, high, after = match.groups()
        numbers = range(int(low), int(high) + 1)
        return [f"{before}{number:0{len(low)}}{after}" for number in numbers]

    def definition(self) -> str:
        """The hash of everything that this task says."""
        return digest(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Item:
    """One question. Which fields are filled depends on the kind of its task."""

    row: int
    category: str | None = None
    context: str = ""
    contexts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer: str = ""
    aliases: tuple[str, ...] = ()
    reasoning: str = ""
    gold: int | None = None
    ids: tuple[int, ...] = ()

    def text(self) -> str:
        """The question with its right answer, as a decontamination step should look for it."""
        if self.contexts:
            assert self.gold is not None
            return f"{self.contexts[self.gold]} {self.answer}"
        answer = self.options[self.gold] if self.gold is not None else self.answer
        return f"{self.context} {answer}".strip()


@dataclass(frozen=True)
class Tally:
    """What the items of a task add up to.

    The score is the mean over groups of sum(n) / sum(d), or with `worst` the lowest of them.
    """

    numerator: np.ndarray[Any, np.dtype[np.float64]]
    denominator: np.ndarray[Any, np.dtype[np.float64]]
    group: np.ndarray[Any, np.dtype[np.int64]]
    worst: bool = False


@dataclass(frozen=True, eq=False)
class TaskData:
    """The checked items of a task, and what their bytes are. Equal only to itself."""

    items: tuple[Item, ...]
    sha256: str
    verified: bool

    @cached_property
    def identity(self) -> str:
        """The hash of the canonical rows: equal for equal questions, however they are stored."""
        return identity_of(self.items)

    @property
    def num_rows(self) -> int:
        return len(self.items)

    @property
    def num_duplicated(self) -> int:
        """Questions that offer the same option twice."""
        return sum(len(set(item.options)) < len(item.options) for item in self.items)

    def empty_classes(self) -> list[str]:
        """Pictures: classes that no picture has. They count for nothing in means over classes."""
        return []


def identity_of(items: Iterable[Item]) -> str:
    """sha256 over the canonical JSON of every item's content, one in a line, in order."""
    state = hashlib.sha256()
    for item in items:
        content = [getattr(item, name) for name in IDENTITY_FIELDS]
        state.update(canonical_json(content) + b"\n")
    return state.hexdigest()


IDENTITY_FIELDS = (
    "category",
    "context",
    "contexts",
    "options",
    "answer",
    "aliases",
    "reasoning",
    "gold",
    "ids",
)
"""What of an item is content; its row is its place."""


class Kind(Protocol):
    """How tasks of one kind are read, asked and scored.

    A kind whose data is no file of rows has `read(task, folder)` besides; one whose questions are
    asked all at once has `whole = True`; one with more than one metric has `metrics(task, log)`.
    """

    def item(self, row: Mapping[str, Any], index: int, task: Task) -> Item:
        """The item of one JSON row. DataError when the row is not of this kind."""
        ...

    def answer(
        self, task: Task, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> pa.Table:
        """Ask `model` the questions at positions `rows`: one log row per question, in order."""
        ...

    def tally(self, task: Task, log: pa.Table) -> Tally:
        """What the log of the whole task adds up to."""
        ...


@cache
def kind_of(name: str) -> Kind:
    """The kind of this name."""
    if name not in KINDS:
        raise EvalError(f"unknown kind of task {name!r}; known: {', '.join(sorted(KINDS))}")
    kinds: dict[str, Kind] = importlib.import_module(KINDS[name]).KINDS
    return kinds[name]


@cache
def load_task(name: str) -> Task:
    """The task of this name, from `evals/tasks/`."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        near = [known for known in task_names() if name in known or known in name]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise EvalError(f"unknown task {name!r}{hint}; see the files in {FOLDER}")
    return read_task(path)


def read_task(path: Path) -> Task:
    """The task in one YAML file; its name must be the file's."""
    try:
        task = Task.model_validate(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise EvalError(f"{path}: {error}") from None
    if task.name != path.stem:
        raise EvalError(f"{path}: the task is named {task.name!r}; name the file after it")
    kind_of(task.kind)
    return task


def task_names() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_data(task: Task, folder: Path | str) -> TaskData:
    """Read and check the data of one task.

    Raises DataError when the file is missing, has another number of rows than the task says, or
    holds a malformed row. A file that is well formed but not the recorded bytes is read and marked
    `verified=False`: its scores cannot rank.
    """
    reader = getattr(kind_of(task.kind), "read", None)
    if reader is not None:
        data: TaskData = reader(task, str(folder))
        return data
    return _read_rows(task, Path(folder))


def _read_rows(task: Task, folder: Path) -> TaskData:
    items: list[Item] = []
    checksums = []
    for name in task.files():
        data = read_bytes(task, folder, name)
        checksums.append(hashlib.sha256(data).hexdigest())
        items += parse_items(task, data, where=str(folder / name), first=len(items))
    checksum = checksums[0] if len(checksums) == 1 else checksum_of(checksums)
    if task.rows is not None and len(items) != task.rows:
        raise DataError(
            f"task {task.name}: {folder / task.file} has {len(items)} rows, but the task says "
            f"{task.rows}; get the file again"
        )
    return TaskData(tuple(items), checksum, _is_verified(task, folder, checksum, items))


def checksum_of(checksums: Sequence[str]) -> str:
    """The checksum of several files: the sha256 of theirs, one in a line, in order."""
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()


def read_bytes(task: Task, folder: Path, name: str) -> bytes:
    """The bytes of a data file of a task. A file that is not there is an error, never a gap."""
    path = folder / name
    if not path.is_file() and task.archive and (folder / task.archive).is_file():
        try:
            return read_gpqa(folder / task.archive, Path(name).stem)
        except ValueError as error:
            raise DataError(f"task {task.name}: {error}") from None
    if not path.is_file():
        how = f" {task.source}" if task.source else ""
        raise DataError(
            f"task {task.name}: there is no file {path}.{how} Put the file there, or choose "
            "another folder with --data"
        )
    return path.read_bytes()


def _is_verified(task: Task, folder: Path, checksum: str, items: Sequence[Item]) -> bool:
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
    kind = kind_of(task.kind)
    rows = tar_rows(data) if where.endswith(".tar") else _json_rows(data)
    items: list[Item] = []
    while True:
        place = f"task {task.name}: {where}, row {len(items)}"
        try:
            row = next(rows, None)
            if row is None:
                break
            items.append(kind.item(row, first + len(items), task))
        except ValueError as error:
            raise DataError(f"{place}: {error}") from None
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


def text_field(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    """A text of a row; empty texts are refused unless `empty`."""
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"field {name!r} should be a text, found {_shown(value)}")
    if not value and not empty:
        raise DataError(f"field {name!r} is empty")
    return value


def texts_field(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts of a row, none of them blank."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"field {name!r} should be a list of texts, found {_shown(value)}")
    for number, text in enumerate(value):
        if not text.strip():
            raise DataError(f"field {name!r} has an empty text at position {number}")
    return tuple(value)


def gold_field(row: Mapping[str, Any], num_options: int) -> int:
    """The index of the right option of a row."""
    gold = row.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool):
        raise DataError(f"field 'gold' should be an index, found {_shown(gold)}")
    if not 0 <= gold < num_options:
        raise DataError(f"field 'gold' is {gold}, but the row has {num_options} options")
    return gold


def category_field(row: Mapping[str, Any], task: Task) -> str | None:
    """The category of a row, where the task is split by category."""
    return text_field(row, "category") if task.by_category else None


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Finding(Frozen):
    """Something about a data file that a person should know."""

    task: str
    level: Literal["error", "warning", "note"]
    message: str


def check_data(task: Task, folder: Path | str) -> list[Finding]:
    """What is wrong or odd with the data of one task; empty when nothing is."""
    try:
        data = read_data(task, folder)
    except DataError as error:
        return [Finding(task=task.name, level="error", message=str(error))]
    found = []
    if not data.verified:
        found.append(Finding(task=task.name, level="warning", message=_unverified(task, data)))
    found += [Finding(task=task.name, level="note", message=m) for m in _oddities(data.items)]
    empty = data.empty_classes()
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        message = f"{len(empty)} classes have no picture, and count for nothing: {shown}"
        found.append(Finding(task=task.name, level="note", message=message))
    return found


def _unverified(task: Task, data: TaskData) -> str:
    if task.sha256 is None and pin_of(task.name) is None and not task.built:
        return (
            f"not pinned: its identity is {data.identity[:16]}, none is recorded; scores rank only "
            "beside scores on data of the same identity"
        )
    wanted = f"not the recorded {task.sha256[:16]}" if task.sha256 else "not the recorded data"
    return f"unverified: the sha256 is {data.sha256[:16]}, {wanted}; scores cannot rank"


def _oddities(items: Sequence[Item]) -> Iterable[str]:
    repeated = [item.row for item in items if len(set(item.options)) < len(item.options)]
    if repeated:
        yield f"{len(repeated)} rows have duplicated options (first: row {repeated[0]})"
    golds = {item.gold for item in items}
    if len(items) > 1 and len(golds) == 1 and None not in golds:
        yield f"the right answer is option {golds.pop()} in every row: a model that ties wins"
    seen: dict[bytes, int] = {}
    copies = 0
    for item in items:
        key = canonical_json([item.context, item.contexts, item.options, item.answer])
        copies += key in seen
        seen[key] = item.row
    if copies:
        yield f"{copies} rows repeat an earlier row"
