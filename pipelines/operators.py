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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.batch import Batch
from pipelines.errors import PipelineError as PipelineError  # participants take it from here
from pipelines.records import JSON
from pipelines.schema import STRING, TEXT

REGISTRY: dict[str, type[Operator]] = {}
PARTICIPANT = "participant_"  # how modules made of a participant's file begin


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
    takes_pages: ClassVar[bool] = False  # reads and sets any field, without naming it

    def __init_subclass__(cls, *, name: str | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.name = name or cls.__name__
        if isinstance(cls.reasons, str):
            raise TypeError(f"reasons of {cls.name} is a string; write ({cls.reasons!r},)")
        if name is None or cls.__module__.startswith(PARTICIPANT):
            return  # one of the kinds, or an operator that steps name by its file and class
        if not cls.__doc__:
            raise TypeError(f"operator {name!r} has no docstring: it is its documentation")
        known = REGISTRY.get(name)
        if known is not None and _origin(known) != _origin(cls):
            raise TypeError(f"two operators are named {name!r}: {_origin(known)}, {_origin(cls)}")
        REGISTRY[name] = cls

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> Self:
        """`min_x` above `max_x` leaves no value between them: the two were exchanged."""
        for low in type(self).model_fields:
            high = f"max_{low.removeprefix('min_')}"
            if not low.startswith("min_") or high not in type(self).model_fields:
                continue
            least, most = getattr(self, low), getattr(self, high)
            numbers = isinstance(least, int | float) and isinstance(most, int | float)
            if numbers and least > most:
                raise ValueError(f"{low} ({least}) is above {high} ({most})")
        return self

    def _lacks(self, method: str) -> NotImplementedError:
        """The error of a subclass that does not define a method."""
        return NotImplementedError(f"{type(self).__name__} defines no method {method!r}")

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

    rejected: npt.NDArray[np.bool_]
    reason: str
    value: npt.NDArray[Any] | None = None  # per row; where it was not measured, NaN
    limit: float | None = None


class Filter(Operator):
    """Drops rows, and says why. It has either `cases`, rules in order, or a `reject` of its own."""

    kind: ClassVar[str] = "filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        """Its rules; a row goes for the first that holds. Values and limits are shown to people."""
        raise self._lacks("cases")

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
        raise self._lacks("modify")


class Splitter(Operator):
    """Makes many rows of one."""

    kind: ClassVar[str] = "splitter"

    def split(self, batch: Batch) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The parts (no `row` column) and, for each, the position in the batch it came from.

        Parts keep the order of their parents. One without parts is dropped, counted as `no_parts`.
        """
        raise self._lacks("split")

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

    def copies(self) -> int:
        """How often a row may stay. More than once only in the last step of a pipeline."""
        return 1

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        """A score per row; NaN where there is none. With several copies (rows, copies)."""
        raise self._lacks("score")

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
    rank_kind: str | None = None  # what ranks compare (numbers, times, ...); shards must agree
    key_kind: str | None = None  # of what values the keys are, where a pool's shards may differ
    payload: npt.NDArray[np.uint8] | None = None  # (units, bytes): what `pairwise` compares


class Sketch(NamedTuple):
    """The shingles of rows as hashes, where each row's begin and end, and how they were thinned."""

    hashes: npt.NDArray[np.uint32]  # (shingles,)
    borders: npt.NDArray[np.int64]  # (rows + 1,)
    shifts: npt.NDArray[np.uint8]  # (rows,): kept are hashes whose upper `shift` bits are 0


class Dedup(Operator):
    """Finds equal units (documents, lines) over the whole pool and drops all but one of each.

    In a group of equal keys the unit with the lowest rank, then the lowest row and number, stays.
    """

    kind: ClassVar[str] = "dedup"
    linked: ClassVar[bool] = False
    """Whether rows that share any key are joined into groups; else each key is a group."""
    pairwise: ClassVar[bool] = False
    """Whether rows of equal keys, one key a row, are compared by their payloads: unit vectors of
    float16, whose inner product is `min_similarity` or more."""
    reasons: ClassVar[tuple[str, ...]] = ("duplicate",)

    def keys(self, batch: Batch) -> Keys:
        """The keys of a batch, in the order of rows and units."""
        raise self._lacks("keys")

    def min_similarity(self) -> float | None:
        """Linked only: a link stays if the rows' `sketch`es are as similar as this."""
        return None

    def containment(self) -> bool:
        """Whether similarity is the part of the row that the other holds, and not Jaccard's."""
        return False

    def sketch(self, batch: Batch) -> Sketch:
        """What is compared of each row when links are checked."""
        raise self._lacks("sketch")

    def max_loss(self) -> float | None:
        """Which part of a source or domain may go before the run stops, if any part does."""
        return None

    def excerpt(self, value: str, unit: int) -> str:
        """What unit `unit` of a document with this text is, for people to read."""
        return value

    def apply(self, batch: Batch, dropped: Sequence[npt.NDArray[np.int64]]) -> Mapping[str, Any]:
        """What the batch becomes when these unit numbers (one array per row) are dropped.

        Returns `{"reject": reasons}` or `{column: values}`. By default a unit is a document.
        """
        rejected = np.array([len(units) > 0 for units in dropped], dtype=bool)
        return {"reject": because(rejected, self.reasons[0])}


class SpanDedup(Dedup):
    """Finds runs of units (words, bytes) that occur more than once in the pool.

    `keys` gives anchors: in any two equal windows the same units are anchored. Where an anchor's
    key occurs more than once, the platform asks for all windows around it, groups those, and has
    every pair compared by `quotes` before it is dropped. A unit of the verdict is a span of bytes,
    begin << 32 | end.
    """

    def window_units(self) -> int:
        """Units in a window, the shortest span that goes."""
        raise self._lacks("window_units")

    def keep_first(self) -> bool:
        """Whether the first of equal windows stays; else all go."""
        return True

    def windows(self, batch: Batch, anchors: Sequence[npt.NDArray[np.int64]]) -> Keys:
        """Keys of the windows that these anchors (places per row) stand for.

        `unit` is the window's first unit, `route` the key of its anchor.
        """
        raise self._lacks("windows")

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
        raise self._lacks("quotes")

    def places(
        self,
        batch: Batch,
        row: npt.NDArray[np.int64],
        begin: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The bytes of each row that go when these units go: first, and behind the last."""
        raise self._lacks("places")


class Fold(Operator):
    """Carries a state over the shards of one group, in order; groups run side by side.

    The number of groups is a parameter, is in the record and is the unit of restart.
    """

    kind: ClassVar[str] = "fold"
    groups: int = Field(1, ge=1, description="groups of shards that run side by side")

    def start(self) -> Any:
        """The state before the first shard of a group."""
        raise self._lacks("start")

    def step(self, state: Any, batch: Batch) -> tuple[Any, Mapping[str, pa.Array]]:
        """The next state, and the columns that change; a text that becomes null goes."""
        raise self._lacks("step")

    def describe(self, state: Any) -> Mapping[str, JSON]:
        """What the report says of the state at the end of a group."""
        return {}


GLOBAL_KINDS = ("select", "dedup", "fold")


def because(rejected: npt.NDArray[np.bool_], reason: str) -> pa.Array:
    """An array with `reason` where `rejected` is true and null elsewhere.

    TypeError for anything but a mask of booleans: numbers would be taken for the places of rows.
    """
    return choose([(rejected, reason)])


def _mask(rejected: Any, reason: str) -> npt.NDArray[np.bool_]:
    """The mask of a reason. An empty one has no type in numpy, so its type is not asked."""
    if isinstance(rejected, np.ma.MaskedArray):
        raise TypeError(f"the mask of {reason!r} is a masked array; say what masked rows are")
    mask = np.asarray(rejected)
    if mask.size == 0:
        return np.zeros(0, dtype=bool)
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise TypeError(
            f"the mask of {reason!r} holds {mask.dtype} in {mask.ndim} dimensions; expected one "
            "boolean a row, as `values > limit` gives"
        )
    return mask


def choose(cases: Sequence[tuple[npt.NDArray[np.bool_], str] | Case]) -> pa.Array:
    """The reason of the first case that holds for each row, null where none does."""
    masks = [_mask(case[0], case[1]) for case in cases]
    if len({len(mask) for mask in masks}) > 1:
        raise ValueError(f"masks of {sorted({len(mask) for mask in masks})} rows for one batch")
    codes = np.full(len(masks[0]), -1, dtype=np.int8)
    for number in range(len(masks) - 1, -1, -1):
        codes[masks[number]] = number
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
