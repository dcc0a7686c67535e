"""The six kinds of operator, the registry that knows them by name, and their form in YAML.

An operator is a frozen model: its fields are its parameters, its class keyword is its public name,
its docstring is its documentation. It returns what it computed, never the table. It knows no paths,
no clock, no random source and no executor; chance is a hash of a seed and a column.

    class SymbolRatio(Filter, name="symbol_ratio"):
        '''Reject documents with too many symbols per word. (Rae et al. 2021, A1.1)'''
        max_ratio: float = Field(0.1, ge=0, description="symbols per word above which one goes")
        reasons: ClassVar = ("too_many_symbols",)

        def reject(self, batch: Batch) -> pa.Array: ...
"""

from __future__ import annotations

import difflib
import importlib
import linecache
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.batch import Batch
from pipelines.errors import UsageError
from pipelines.records import JSON, Module, sha256_bytes
from pipelines.schema import STRING, TEXT

REGISTRY: dict[str, type[Operator]] = {}
PARTICIPANT = "participant_"  # how modules made of a participant's file begin

BUILTIN = (
    "pipelines.text.aggregates",
    "pipelines.text.source_code",
    "pipelines.text.contamination",
    "pipelines.text.attributes",
    "pipelines.text.counts",
    "pipelines.text.heuristics",
    "pipelines.text.language",
    "pipelines.text.latex",
    "pipelines.text.lines",
    "pipelines.text.pages",
    "pipelines.text.perplexity",
    "pipelines.text.pii",
    "pipelines.text.published",
    "pipelines.text.quality",
    "pipelines.text.repetition",
    "pipelines.text.rewrites",
    "pipelines.text.stackexchange",
    "pipelines.text.substrings",
    "pipelines.text.urls",
    "pipelines.dedup.exact",
    "pipelines.dedup.minhash",
    "pipelines.dedup.ngram_bloom",
    "pipelines.dedup.substring",
    "pipelines.selection",
    "pipelines.image_text.captions",
    "pipelines.image_text.clusters",
    "pipelines.image_text.pictures",
    "pipelines.image_text.scores",
)
"""Modules whose import registers the operators that come with the platform."""


class AssetFolder(Protocol):
    """Where an operator finds the files it needs."""

    def path(self, name: str) -> Path:
        """The verified local file of an asset. AssetError says how to get a missing one."""
        ...


class Operator(BaseModel):
    """What all kinds share. Do not subclass directly: use one of the six kinds below."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    reasons: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[str | None] = None

    def __init_subclass__(cls, *, name: str | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.name = name or cls.__name__
        if name is None or cls.__module__.startswith(PARTICIPANT):
            return  # one of the kinds, or an operator that steps name by its file and class
        if not cls.__doc__:
            raise TypeError(f"operator {name!r} has no docstring: it is its documentation")
        known = REGISTRY.get(name)
        if known is not None and _origin(known) != _origin(cls):
            raise TypeError(f"two operators are named {name!r}: {_origin(known)}, {_origin(cls)}")
        REGISTRY[name] = cls

    def reads(self) -> tuple[str, ...]:
        """The columns it looks at."""
        return (TEXT,)

    def optional_reads(self) -> tuple[str, ...]:
        """Fields it looks up by name in a column, else in `extra`, and does without or misses."""
        return ()

    def writes(self) -> Mapping[str, pa.DataType]:
        """The columns it sets, with their types."""
        return {}

    def drops(self) -> tuple[str, ...]:
        """The columns it removes."""
        return ()

    def assets(self) -> tuple[str, ...]:
        """Names of the files it needs."""
        return ()

    def load(self, assets: AssetFolder) -> None:
        """Build heavy state, once per worker. Keep it in a private attribute."""

    def needs(self) -> Mapping[str, float]:
        """What a task that runs it takes beyond one processor: `num_gpus`, `memory_bytes`.

        A cluster places tasks by it: those of a model on a GPU, those of a large filter where there
        is room.
        """
        return {}


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True)
class Counted:
    """What an operator computed, with integer counts of its own that add up over batches."""

    value: Any
    counts: Mapping[str, int] = field(default_factory=dict)


class Case(NamedTuple):
    """One rule of a filter: which rows it drops, the reason, what it measured, the limit."""

    gone: npt.NDArray[np.bool_]
    reason: str
    value: npt.NDArray[Any] | None = None  # per row; where it was not measured, NaN
    limit: float | None = None


class Filter(Operator):
    """Drops rows, and says why. It has either `cases`, rules in order, or a `reject` of its own."""

    kind: ClassVar[str] = "filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        """Its rules; a row goes for the first that holds. Values and limits are shown to people."""
        raise NotImplementedError

    def reject(self, batch: Batch) -> pa.Array | Counted:
        """A reason (one of `reasons`) for each row that goes, null for each that stays."""
        return choose(self.cases(batch))

    def passage(self, batch: Batch, reason: str) -> str | None:
        """The part of a rejected document (a batch of one row) that caused it, if there is one."""
        return None

    def measured(self, batch: Batch, reason: str) -> float | None:
        """What the rule of `reason` measured in a rejected document, where `cases` does not say."""
        return None


class Modifier(Operator):
    """Sets columns. A text that becomes null was emptied out: the row goes, with a reason."""

    kind: ClassVar[str] = "modifier"
    reasons: ClassVar[tuple[str, ...]] = ("emptied",)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array] | Counted:
        """New values, one per row, for the columns that `writes` names."""
        raise NotImplementedError


class Splitter(Operator):
    """Makes many rows of one."""

    kind: ClassVar[str] = "splitter"

    def split(self, batch: Batch) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The parts (no `row` column) and, for each, the position in the batch it came from.

        Parts keep the order of their parents. A row without parts is gone, counted as `no_parts`.
        """
        raise NotImplementedError

    reasons: ClassVar[tuple[str, ...]] = ("no_parts",)


class Select(Operator):
    """Keeps the best part of the whole pool by a score; the platform finds the cut.

    Exactly one of `fraction` and `total` is given, both measured in `of`. Higher scores are kept
    first. Ties at the cut: `row` keeps the rows that come first in the pool, so the size is exact;
    `keep` keeps all tied rows; `reference` is DataComp's rule (n = int(rows * fraction), the
    threshold is the n-th of the sorted scores counted from 0, all rows at or above it stay).
    """

    kind: ClassVar[str] = "select"
    reasons: ClassVar[tuple[str, ...]] = ("below_cut", "no_score")

    fraction: float | None = Field(None, gt=0, le=1, description="part of the pool to keep")
    total: int | None = Field(None, gt=0, description="amount to keep, in units of `of`")
    of: str = Field("rows", description="`rows`, or an integer column to add up, as `num_tokens`")
    ties: Literal["row", "keep", "reference"] = Field("row", description="who stays at the cut")
    missing: Literal["drop", "error"] = Field("error", description="what a null or NaN score means")

    @model_validator(mode="after")
    def _one_size(self) -> Select:
        given = [size for size in (self.fraction, self.total) if size is not None]
        if len(given) != 1 and not self.pending():
            raise ValueError("give exactly one of fraction and total")
        if self.ties == "reference" and (self.of != "rows" or self.fraction is None):
            raise ValueError("ties: reference needs a fraction of rows")
        return self

    def pending(self) -> str | None:
        """Why the size is not known yet, if it is taken from another run."""
        return None

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        """A score per row; NaN where there is none."""
        raise NotImplementedError

    def weight(self, batch: Batch) -> npt.NDArray[np.int64]:
        """What each row counts for, in units of `of`."""
        if self.of == "rows":
            return np.ones(batch.num_rows, dtype=np.int64)
        weights = batch.column(self.of)
        if not pa.types.is_integer(weights.type) or weights.null_count:
            raise ValueError(f"select of {self.of!r} needs an integer column without nulls")
        return weights.to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True)
class Keys:
    """What a Dedup compares: for each unit its batch position, number, 128-bit key and rank."""

    position: npt.NDArray[np.int64]
    unit: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint64]  # shape (units, 2)
    rank: npt.NDArray[Any]  # numbers or fixed-width bytes; uint8 zeros where all are alike
    route: npt.NDArray[np.uint64] | None = None  # equal for equal keys; keys alike go together


class Dedup(Operator):
    """Finds equal units (documents, lines) over the whole pool and drops all but one of each.

    In a group of equal keys the unit with the lowest rank, then the lowest row and number, stays.
    """

    kind: ClassVar[str] = "dedup"
    linked: ClassVar[bool] = False
    """Whether rows that share any key are joined into groups; else each key is a group."""
    reasons: ClassVar[tuple[str, ...]] = ("duplicate",)

    def keys(self, batch: Batch) -> Keys:
        """The keys of a batch, in the order of rows and units."""
        raise NotImplementedError

    def min_similarity(self) -> float | None:
        """Linked only: links stay if the Jaccard similarity of the rows' `shingles` is as high."""
        return None

    def shingles(self, batch: Batch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Each row's different shingles as sorted hashes, and where each row's begin, and the end.

        Shapes (shingles,) and (rows + 1,).
        """
        raise NotImplementedError

    def excerpt(self, value: str, unit: int) -> str:
        """What unit `unit` of a document with this text is, for people to read."""
        return value

    def apply(self, batch: Batch, dropped: Sequence[npt.NDArray[np.int64]]) -> Mapping[str, Any]:
        """What the batch becomes when these unit numbers (one array per row) are dropped.

        Returns `{"reject": reasons}` or `{column: values}`. By default a unit is a document.
        """
        gone = np.array([len(units) > 0 for units in dropped], dtype=bool)
        return {"reject": because(gone, self.reasons[0])}


class SpanDedup(Dedup):
    """Finds runs of units (words, bytes) that stand more than once in the pool.

    `keys` gives anchors: in any two equal windows the same units are anchored. Where an anchor's
    key stands more than once, the platform asks for all windows around it, groups those, and has
    every pair compared by `quotes` before it is dropped. A unit of the verdict is a span of bytes,
    begin << 32 | end.
    """

    def window_units(self) -> int:
        """Units in a window, the shortest span that goes."""
        raise NotImplementedError

    def keep_first(self) -> bool:
        """Whether the first of equal windows stays; else all go."""
        return True

    def windows(self, batch: Batch, anchors: Sequence[npt.NDArray[np.int64]]) -> Keys:
        """Keys of the windows that these anchors (places per row) stand for.

        `unit` is the window's first unit, `route` the key of its anchor.
        """
        raise NotImplementedError

    def quotes(
        self,
        batch: Batch,
        row: npt.NDArray[np.int64],
        begin: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
    ) -> pa.Array:
        """Units begin .. end of rows (positions in the batch) as large_binary.

        Equal exactly where all units are equal; one byte 255 ends each word, or the byte units.
        """
        raise NotImplementedError

    def places(
        self,
        batch: Batch,
        row: npt.NDArray[np.int64],
        begin: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The bytes of each row that go when these units go: first, and behind the last."""
        raise NotImplementedError


class Fold(Operator):
    """Carries a state over the shards of one group, in order; groups run side by side.

    The number of groups is a parameter, stands in the record and is the unit of restart.
    """

    kind: ClassVar[str] = "fold"
    groups: int = Field(1, ge=1, description="groups of shards that run side by side")

    def start(self) -> Any:
        """The state before the first shard of a group."""
        raise NotImplementedError

    def step(self, state: Any, batch: Batch) -> tuple[Any, Mapping[str, pa.Array]]:
        """The next state, and the columns that change; a text that becomes null goes."""
        raise NotImplementedError

    def describe(self, state: Any) -> Mapping[str, JSON]:
        """What the report says of the state at the end of a group."""
        return {}


GLOBAL_KINDS = ("select", "dedup", "fold")


def because(gone: npt.NDArray[np.bool_], reason: str) -> pa.Array:
    """An array with `reason` where `gone` is true and null elsewhere."""
    return choose([(gone, reason)])


def choose(cases: Sequence[tuple[npt.NDArray[np.bool_], str] | Case]) -> pa.Array:
    """The reason of the first case that holds for each row, null where none does."""
    codes = np.full(len(cases[0][0]), -1, dtype=np.int8)
    for number in range(len(cases) - 1, -1, -1):
        codes[cases[number][0]] = number
    indices = pa.array(codes, mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array([case[1] for case in cases]))


def each(
    array: pa.Array, function: Callable[[Any], Any], *, type: pa.DataType | None = None
) -> pa.Array:
    """Apply a plain Python function to each value; null stays null and is not passed to it."""
    values = [None if value is None else function(value) for value in array.to_pylist()]
    if type is None and (pa.types.is_large_string(array.type) and _all_text(values)):
        type = STRING
    return pa.array(values, type=type)


def _all_text(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


class PipelineError(UsageError):
    """A pipeline that cannot be built; the message names the step and what to do."""


def registry() -> dict[str, type[Operator]]:
    """Every operator that comes with the platform, by name."""
    for name in BUILTIN:
        importlib.import_module(name)
    return REGISTRY


def module_of(path: Path) -> Module:
    """A participant's Python file as a record embeds it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"there is no file {path}, which the pipeline names") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text ({error})") from None
    return Module(name=path.name, sha256=sha256_bytes(text.encode()), text=text)


def load_module(module: Module) -> types.ModuleType:
    """The Python module that a participant's embedded text defines; the same text, once."""
    name = f"{PARTICIPANT}{module.sha256[:16]}_{Path(module.name).stem}"
    if name in sys.modules:
        return sys.modules[name]
    loaded = types.ModuleType(name)
    loaded.__file__ = module.name
    linecache.cache[module.name] = (
        len(module.text),
        None,
        module.text.splitlines(keepends=True),
        module.name,
    )
    sys.modules[name] = loaded
    try:
        exec(compile(module.text, module.name, "exec"), loaded.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise PipelineError(
            f"{module.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return loaded


def operators_in(module: types.ModuleType) -> dict[str, type[Operator]]:
    """The operators that a module defines, by class name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Operator)
        and value.__module__ == module.__name__
    }


def find_operator(name: str, modules: Mapping[str, Module]) -> type[Operator]:
    """The class behind a step: a known operator, `file.py:Class` or `package.module:Class`.

    A function in place of a class is a mapper of pages, as DCLM's participants write them.
    """
    if ":" not in name:
        known = registry()
        if name in known:
            return known[name]
        raise PipelineError(
            f"unknown operator {name!r}{did_you_mean(name, known)}; see: pipelines ops"
        )
    where, _, class_name = name.rpartition(":")
    if where.endswith(".py"):
        if where not in modules:
            raise PipelineError(f"{name!r}: the file {where} does not travel with the pipeline")
        module = load_module(modules[where])
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise PipelineError(f"{name!r}: {error}; install it or name a file.py") from None
    found = getattr(module, class_name, None)
    if isinstance(found, types.FunctionType):
        from pipelines.text.page_function import operator_of

        return operator_of(found, name)
    if not (isinstance(found, type) and issubclass(found, Operator)):
        there = operators_in(module)
        raise PipelineError(
            f"{name!r}: {where} defines no operator class {class_name!r}"
            f"{did_you_mean(class_name, there)}; it defines {', '.join(there) or 'none'}"
        )
    return found


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def build(cls: type[Operator], parameters: Mapping[str, JSON], *, where: str) -> Operator:
    """The operator with these parameters. PipelineError names step, key and what is wrong."""
    try:
        return cls.model_validate(dict(parameters))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                hint = did_you_mean(key, cls.model_fields)
                lines.append(f"unknown parameter {key!r}{hint}")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                shown = "" if not key else f"{key} = {problem.get('input')!r}: "
                lines.append(f"{shown}{message}")
        raise PipelineError(
            f"{where}: {cls.name}: {'; '.join(lines)}; see: pipelines ops {cls.name}"
        ) from None
