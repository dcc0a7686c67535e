"""Tasks: the questions of a suite, as YAML files in `evals/tasks/`. One class per family of kinds.

A task states its kind, how its prompt is built and the checksum of its data. The items of a task
are in `evals.items`; what each kind does with a task is in `evals.kinds`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.errors import UsageError
from pipelines.records import Frozen, digest
from pipelines.yaml_text import load_plain

FOLDER = Path(__file__).parent / "tasks"

VERSIONS = ("v1", "v2")


class EvalError(UsageError):
    """A request that cannot be met: an unknown name, settings or runs that do not fit."""


class Baselines(Frozen):
    """What guessing scores, in the unit of the metric, by version of the evaluation."""

    v1: float
    v2: float


class TaskBase(Frozen):
    """What every task has: its name and kind, its data, and what is needed to read its score."""

    name: str
    kind: str = Field(description="how the task is asked and scored; a key of evals.kinds.KINDS")
    description: str
    category: str
    metric: str = Field(description="what the score is")
    higher_is_better: bool = True
    file: str = Field(
        description="path of the data below the data folder; {000..010} expands to several files"
    )
    rows: int | None = Field(None, description="rows that the file must have")
    sha256: str | None = Field(
        None, description="checksum of the reference file or files (see `checksum_of`), where known"
    )
    built: bool = Field(
        False, description="the file is built from a pool; `built.json` next to it vouches for it"
    )
    source: str = Field("", description="where the data comes from and how to get it")
    licence: str
    random_baseline: Baselines
    groups: tuple[str, ...] = Field((), description="aggregates that this task belongs to")

    def files(self) -> list[str]:
        """The names of the data files below the data folder."""
        match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", self.file)
        if match is None:
            return [self.file]
        before, low, high, after = match.groups()
        numbers = range(int(low), int(high) + 1)
        return [f"{before}{number:0{len(low)}}{after}" for number in numbers]

    def definition(self) -> str:
        """The hash of every field of this task.

        The fields of the other kinds are hashed with their defaults, because hashes in published
        records come from a single class with the fields of all kinds.
        """
        return digest({**OTHER_KINDS, **self.model_dump(mode="json")})


class PromptedTask(TaskBase):
    """Fields of tasks that are asked in text, with solved examples before the question."""

    archive: str | None = Field(
        None, description="GPQA's zip below the data folder, read in memory when there is no `file`"
    )
    secret: bool = Field(
        False, description="texts are not written anywhere: logs keep scores, not prompts"
    )
    shots: int = Field(0, ge=0, description="solved examples shown before the question")
    prelimiter: str = Field("", description="text before every context")
    delimiter: str = Field(" ", description="text between a context and its answer")
    cot_delimiter: str = Field("", description="text between a chain of thought and its answer")
    stop: tuple[str, ...] = Field((), description="patterns that end a generated answer")
    by_category: bool = Field(
        False, description="shots stay in the row's category; the score is the mean of categories"
    )


class LanguageTask(PromptedTask):
    """Questions with options or answers in text, scored right or wrong."""

    kind: Literal["multiple_choice", "schema", "language_modeling", "generation"]


class AnswerLossTask(PromptedTask):
    """The same questions, scored by the bits that a model needs for each byte of a right answer.

    A loss falls smoothly where accuracy is still at chance, so it orders small models.
    """

    kind: Literal["answer_loss"]
    asked: Literal["multiple_choice", "schema", "language_modeling"] = Field(
        description="the kind that the data's rows have and that the question is asked as"
    )

    def question(self) -> LanguageTask:
        """The task whose prompts are used."""
        values = self.model_dump(mode="json") | {"kind": self.asked, "metric": "accuracy"}
        del values["asked"]
        return LanguageTask.model_validate(values)


class PerplexityTask(TaskBase):
    """Documents, scored in bits per byte."""

    kind: Literal["perplexity"]
    by_category: bool = Field(False, description="rows carry a category")


class TokenLossTask(TaskBase):
    """Sequences of token ids, scored in nats per token."""

    kind: Literal["token_loss"]
    mask_left: int | None = Field(
        None, description="nothing up to the last occurrence of this id is scored; it is removed"
    )
    mask_single: int | None = Field(None, description="an id that is fed but never scored")


class ImageTask(TaskBase):
    """Images, with classes, captions or associations."""

    kind: Literal[
        "image_classification", "image_retrieval", "image_association", "image_attributes"
    ]
    key: str = Field("", description="the dataset's key in its benchmark's results file")
    title: str = Field("", description="the dataset's name in its benchmark's results file")
    classes: int | None = Field(None, description="how many classes there are")
    metadata: tuple[str, ...] = Field((), description="names of the numbers stored with an image")
    group_by: tuple[str, ...] = Field((), description="metadata columns to group by")
    other_group: int | None = Field(
        None, description='index of the "other" group; the worst is also reported without it'
    )
    ranks: bool = Field(True, description="whether the metric is the dataset's main one")


class GenerationTask(TaskBase):
    """Images that a generator draws, compared with held-out ones."""

    kind: Literal["image_generation", "image_memorisation"]
    seed: int = Field(0, ge=0, description="seed of the sampler's noise")


EVALUATIONS_A_STEP = 2  # of the denoiser, that a sampler may take: a second-order one's


class RestorationTask(TaskBase):
    """Held-out images restored from measurements, with the model as the prior."""

    kind: Literal["image_restoration"]
    measured: Literal["fourier lines", "pixels", "block means"]
    factor: int = Field(
        ge=2, description="one line or pixel in this many is measured; or the side of a block"
    )
    noise: float = Field(0.02, ge=0, description="standard deviation of the measurement noise")
    zeta: float = Field(gt=0, description="strength of the guidance")
    draws: int = Field(4, ge=2, description="samples whose mean is the answer")
    steps: int = Field(50, ge=2, description="steps of the guided sampler")
    number: int = Field(64, ge=1, description="held-out images to restore")
    seed: int = Field(0, ge=0)

    @property
    def most_evaluations(self) -> int:
        """How often a solver may evaluate the denoiser for one sample."""
        return EVALUATIONS_A_STEP * self.steps


class SamplingTask(TaskBase):
    """Endpoints of a few steps of the sampler compared with those of many."""

    kind: Literal["image_sampling"]
    steps: tuple[int, ...] = Field(min_length=2, description="the last is scored")
    reference: int = Field(128, ge=2, description="steps whose endpoint is taken as exact")
    number: int = Field(64, ge=1, description="samples")
    seed: int = Field(0, ge=0)


class ClipTask(TaskBase):
    """Frames that pan over one scene, from noise that moves with it."""

    kind: Literal["image_clip"]
    frames: int = Field(4, ge=2)
    shift: int = Field(1, ge=1, description="pixels between two frames")
    guidance: float = Field(0.5, ge=0)
    steps: int = Field(20, ge=2)
    number: int = Field(16, ge=1, description="clips")
    seed: int = Field(0, ge=0)


Task = (
    LanguageTask
    | AnswerLossTask
    | PerplexityTask
    | TokenLossTask
    | ImageTask
    | GenerationTask
    | RestorationTask
    | SamplingTask
    | ClipTask
)

MIN_IMAGES = 64
"""Held-out images: fewer leave a covariance of 32 features (528 numbers) poorly determined."""
OF_GENERATORS = (GenerationTask, RestorationTask, SamplingTask, ClipTask)
"""Tasks for image generators; their data is held-out images."""

_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])

OTHER_KINDS: dict[str, Any] = {
    name: field.get_default() if not isinstance(field.get_default(), tuple) else []
    for family in (LanguageTask, TokenLossTask, ImageTask)
    for name, field in family.model_fields.items()
    if name not in TaskBase.model_fields
}
"""Fields that only one family has, with their defaults as JSON."""


PER_BYTE = ("perplexity", "answer_loss")
"""Kinds whose logs hold nats and bytes, and whose score is bits per byte."""


def parse_task(value: object, *, source: str) -> Task:
    """A task from plain values. EvalError names `source` and what is wrong."""
    try:
        return _TASK.validate_python(value)
    except ValidationError as error:
        raise EvalError(f"{source}: {error}") from None


def shots_of(task: Task) -> int:
    """Solved examples shown before a question; 0 for kinds without them."""
    return task.shots if isinstance(task, PromptedTask) else 0


def is_secret(task: Task) -> bool:
    """Whether the task's texts must not be written anywhere."""
    return isinstance(task, PromptedTask) and task.secret


@cache
def load_task(name: str) -> Task:
    """The task of this name, from `evals/tasks/`. EvalError for an unknown name."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        near = [known for known in task_names() if name in known or known in name]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise EvalError(f"unknown task {name!r}{hint}; see the files in {FOLDER}")
    return read_task(path)


def read_task(path: Path) -> Task:
    """The task in one YAML file. EvalError for an invalid file, or a name unlike the file's."""
    try:
        value = load_plain(path.read_text())
    except yaml.YAMLError as error:
        raise EvalError(f"{path}: {error}") from None
    task = parse_task(value, source=str(path))
    if task.name != path.stem:
        raise EvalError(f"{path}: the task is named {task.name!r}; name the file after it")
    return task


@cache
def task_names() -> tuple[str, ...]:
    """The names of all tasks, sorted; the folder is listed once in a process."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
