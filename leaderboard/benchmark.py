"""The contract of a benchmark: what it offers to the stages of a round, with defaults.

A benchmark is a class that inherits from `Stages`, and an entry point of the group
`curation_bench.benchmarks` that names it (`dclm = "dclm.benchmark:DCLM"`). Everything generic
(curating, commands, records, submissions, the board) calls these methods and nothing else of a
benchmark. Methods import what they need when they are called: reading the rules or printing help
loads neither torch nor a tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from pipelines import installed
from pipelines.errors import PoolError, RuleError, UsageError

if TYPE_CHECKING:
    import typer

    from evals.models import ImageGenerator, ImageTextModel, LanguageModel, Precision
    from pipelines.assets.catalogue import Assets
    from pipelines.execution.executors import MapTasks
    from pipelines.formats.pool import Pool
    from pipelines.records import DatasetRecord, ModelRecord, PackedRecord

    EvalModel = LanguageModel | ImageTextModel | ImageGenerator

Progress = Callable[..., None]
"""Lines of progress for a log; what is passed is between a benchmark's stage and its command."""


INTERMEDIATE = "intermediate"
"""Folder of a model's outputs with its weights on the way, at the ends of the budget's parts.

A file is named `step-00001234.safetensors` by the steps before it.
"""


def desk(workspace: str) -> Path:
    """The local folder of a workspace: itself, or where a bucket's small files are.

    Assets, evaluation data and submissions are read and written many times, in small parts: with
    `--workspace s3://bucket/me` they are in `runs/bucket/me`, and data and models in the bucket.
    """
    if "://" not in workspace:
        return Path(workspace)
    return Path("runs") / workspace.partition("://")[2].strip("/")


class RecipeLike(Protocol):
    """What a round reads of a benchmark's recipe; all other hyperparameters are its own."""

    @property
    def scale(self) -> str: ...

    @property
    def seeds(self) -> Sequence[int]: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


R = TypeVar("R", bound=RecipeLike)


class StageOptions(BaseModel):
    """Options of one stage beyond those that every benchmark has.

    A benchmark inherits and adds fields: each becomes an option of the stage's command, with the
    field's description as its help. None of them may change what a frozen recipe trains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class RegisterOptions(StageOptions):
    """Where data that was curated elsewhere is: rows of documents."""

    input: str = Field(description="Folder or prefix of parquet or JSON lines.")
    text_field: str | None = Field(
        None, description="The field that holds the text, if it is not `text`."
    )
    quarantine: bool = Field(False, description="Set bad rows aside instead of stopping.")


class Packed(Protocol):
    """What a packing without a recipe reports."""

    def rows(self) -> list[tuple[str, int]]:
        """What was counted, as a person reads it."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Registered:
    """A dataset that was brought from elsewhere, and how many rows were left out, by reason."""

    record: DatasetRecord
    left_out: Mapping[str, int]


class Stages(ABC, Generic[R]):
    """One benchmark. Recipes are its own type `R`; everything else has one type for all."""

    name: ClassVar[str]
    register_options: ClassVar[type[StageOptions]] = RegisterOptions
    pack_options: ClassVar[type[StageOptions]] = StageOptions
    train_options: ClassVar[type[StageOptions]] = StageOptions

    # ---- the pool

    @property
    def package(self) -> Path:
        """The benchmark's folder: rule book, recipes, baselines, suites."""
        return installed.folder(self.name)

    def folder(self, scale: str, *, workspace: str, own_track: str = "") -> str:
        """Where the pool of a scale is: a folder, or a prefix of a bucket.

        A pool that is built from packages is always on this machine. `own_track` is a track that
        has pools of its own.
        """
        root = str(desk(workspace)) if scale in self.built_scales else workspace.rstrip("/")
        return f"{root}/pools/{self.name}-{scale}" + (f"-{own_track}" if own_track else "")

    def open_pool(
        self, scale: str, *, workspace: str, map_tasks: MapTasks, own_track: str = ""
    ) -> Pool:
        """The pool of a scale; one that can be built from packages is built when it is not there.

        PoolError, with the command that fetches it, when there is none.
        """
        from pipelines.storage.chain import RECORD
        from pipelines.storage.open import open_store

        root = self.folder(scale, workspace=workspace, own_track=own_track)
        if not open_store(root).exists(RECORD):
            if scale not in self.built_scales:
                raise PoolError(
                    f"there is no pool of scale {scale!r} in {root}; get it with: {self.name} "
                    f"pool --scale {scale} --workspace {workspace}, or register your own there"
                )
            if own_track:
                self.build_pool_of(own_track, scale, root)
            else:
                self.build_pool(scale, root, map_tasks=map_tasks)
        return self.open_tables(root)

    built_scales: ClassVar[tuple[str, ...]] = ("tiny",)
    """Scales whose pool `build_pool` makes from files of package registries."""

    @abstractmethod
    def build_pool(self, scale: str, folder: str, *, map_tasks: MapTasks) -> None:
        """Make the pool of a built scale in a folder, with its record and evaluation data."""

    def build_pool_of(self, track: str, scale: str, folder: str) -> None:
        """The same for a track that has pools of its own."""
        raise PoolError(f"{self.name} builds no pool of track {track} at scale {scale}")

    def open_tables(self, folder: str) -> Pool:
        """A pool in a folder or prefix as tables that pipelines read."""
        from pipelines.formats.pool import open_pool

        return open_pool(folder)

    def assets(self, scale: str, *, workspace: str) -> Assets:
        """Where the pipelines of a scale find the files they need: first those made here."""
        from pipelines.assets.catalogue import Assets

        return Assets(folders=(desk(workspace) / "assets",))

    def eval_data(self, scale: str, *, workspace: str, own_track: str = "") -> str:
        """The evaluation data of a scale: a built pool brings its own, others share one folder."""
        if scale in self.built_scales:
            return f"{self.folder(scale, workspace=workspace, own_track=own_track)}/eval"
        return str(desk(workspace) / "eval")

    def register(
        self, *, out: str, name: str, map_tasks: MapTasks, options: StageOptions
    ) -> Registered:
        """Bring data that was curated elsewhere; it is checked and recorded as external."""
        from pipelines.engine.run import run
        from pipelines.formats.pool import open_pool
        from pipelines.pipeline import Pipeline
        from pipelines.stats import add_counts

        assert isinstance(options, RegisterOptions)
        pipeline = Pipeline.from_steps([], name=name)
        if options.text_field is not None:
            pipeline = pipeline.with_text_from(options.text_field)
        result = run(
            pipeline,
            open_pool(options.input),
            out=out,
            map_tasks=map_tasks,
            quarantine=options.quarantine,
            external=True,
        )
        left_out: dict[str, int] = {}
        for step in result.summary.stats.steps:
            left_out = add_counts(left_out, step.reasons)
        return Registered(result.record, left_out)

    # ---- the frozen stages

    @abstractmethod
    def recipe(self, name: str) -> R:
        """The frozen recipe of a scale, or an experimental one from a YAML file."""

    @abstractmethod
    def num_steps(self, recipe: R) -> int:
        """Optimizer steps of one training run."""

    @abstractmethod
    def budget(self, recipe: R) -> int:
        """What one training run sees, in the rule book's budget unit."""

    def operations(self, recipe: R) -> float | None:
        """Floating-point operations of one training run: the same wherever it runs.

        None where they are not known.
        """
        return None

    def divides(self, recipe: R, num_processes: int) -> bool:
        """Whether a step's batch can be shared by so many processes."""
        size = getattr(recipe, "global_batch_size", num_processes)
        return bool(size % num_processes == 0)

    def in_other_order(self, recipe: R, number: int) -> R | None:
        """The recipe with its data in the `number`th other order, counted from 1, for experiments.

        None where the seed orders the data too: then there is no order beside it.
        """
        return None

    def changed(
        self, recipe: R, *, budget: float = 1.0, rate: float = 1.0, checkpoints: int | None = None
    ) -> R:
        """The recipe with its budget and its learning rates multiplied, for experiments.

        `checkpoints`: how many parts of the budget keep their weights, in place of the recipe's.

        UsageError where the benchmark does not offer it.
        """
        raise UsageError(f"{self.name} has no experiments with other budgets and rates")

    def checkpoint_steps(self, recipe: R) -> tuple[int, ...]:
        """The steps at which training keeps weights on the way, before its end, in order."""
        return ()

    def check_room(
        self, recipe: R, *, num_gpus: int, num_processes: int, memory_bytes: int
    ) -> None:
        """PlanError or BatchError when a training run cannot work there. Loads nothing heavy.

        `num_gpus` is 0 for processors; `memory_bytes` of the smallest GPU, 0 where it is unknown.
        """

    @abstractmethod
    def pack(
        self,
        dataset: str,
        recipe: R,
        *,
        out: str,
        map_tasks: MapTasks,
        options: StageOptions | None = None,
    ) -> PackedRecord:
        """Turn a dataset into the training data of a recipe."""

    def pack_without_recipe(
        self, *, out: str, map_tasks: MapTasks, options: StageOptions
    ) -> Packed:
        """Pack what is no dataset of a run, without a record; as a benchmark's options ask."""
        raise UsageError("pack needs --scale and --dataset")

    @abstractmethod
    def train(
        self,
        packed: str,
        recipe: R,
        *,
        seed: int,
        out: str,
        num_threads: int = 1,
        progress: Progress | None = None,
        options: StageOptions | None = None,
    ) -> ModelRecord:
        """Train one model, or the part of it that falls to this process; resumes."""

    def progress(self, recipe: R) -> Progress | None:
        """Lines of progress for a log file, None where a terminal shows a bar."""
        from pipelines.execution.progress import console, say

        return None if console.is_terminal else say

    @abstractmethod
    def load(
        self,
        model: str,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        exact: bool = False,
        checkpoint: str | None = None,
        batch_tokens: int | None = None,
    ) -> EvalModel:
        """A trained model behind a protocol of evals.

        `exact` asks question by question, without shared contexts. `checkpoint` names one of the
        model's weights on the way, `step-00001234`, in place of the final ones; its id is then
        another. `batch_tokens` bounds what is computed at once; it changes speed and memory only.
        UsageError for what a benchmark does not offer.
        """

    def as_recorded(self, model: EvalModel, settings: object, *, run_code: bool) -> EvalModel:
        """A model set up as the settings of its evaluation's record say.

        `run_code` permits code of the participant that the record carries.
        """
        return model

    @abstractmethod
    def check_training(self, packed: PackedRecord, model: ModelRecord, recipe: R) -> list[str]:
        """The broken rules of packing and training, for the judge. Loads nothing heavy."""

    # ---- the command line

    @abstractmethod
    def commands(self) -> typer.Typer:
        """The commands that only this benchmark has."""


@cache
def load_stages(name: str) -> Stages[RecipeLike]:
    """An installed benchmark. RuleError when its entry point is not a `Stages`."""
    loaded = installed.load(name)
    if not (isinstance(loaded, type) and issubclass(loaded, Stages)):
        raise RuleError(
            f"the entry point of benchmark {name!r} is {loaded!r}; expected a class that inherits "
            "from leaderboard.benchmark.Stages"
        )
    return cast("Stages[RecipeLike]", loaded())


def training_texts(
    packed: PackedRecord, model: ModelRecord, *, steps: int, unit: str, seen: int
) -> list[str]:
    """What of a training run's figures is not what its recipe and its data give, in words.

    Of benchmarks whose records say no operations: a figure that nobody computed is refused.
    """
    texts = []
    results = model.results or {}
    if results.get(f"{unit}_seen") != seen:
        texts.append(f"model {model.id} saw {results.get(f'{unit}_seen')} {unit}, expected {seen}")
    if model.counts.get("steps") != steps:
        texts.append(
            f"model {model.id} was trained for {model.counts.get('steps')} steps, expected {steps}"
        )
    if "flops" in results:
        texts.append(f"model {model.id} says {results['flops']} flops, which no stage here writes")
    there = packed.counts.get(unit)
    if model.counts.get(f"{unit}_available", there) != there:
        texts.append(
            f"model {model.id} was trained on {model.counts[f'{unit}_available']} {unit}, packed "
            f"were {there}"
        )
    return texts
