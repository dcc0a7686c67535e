"""The shares of a mixture: sizes of its sources and parts, and how often each is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.errors import DataError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.mix_parts import NONE, TOKEN_COLUMN, CountTask, PartSize, added, count_parts
from pipelines.formats.mixture import Mixture, Source
from pipelines.mixing.shares import by_temperature, capped, most_shares
from pipelines.records import DatasetRecord, Frozen, RecordError, parse_record
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store


class Counted(Frozen):
    """A source's record, and the sizes of its parts in each file (None without `by`)."""

    uri: str
    record: DatasetRecord
    files: tuple[dict[str, PartSize], ...] | None = None

    def parts(self) -> dict[str, PartSize] | None:
        """The parts of all files by name."""
        return None if self.files is None else added(self.files)


class Unit(Frozen):
    """A source, or one part of it, that gets a weight in the mixture."""

    source: int
    part: str | None
    name: str
    tokens: float
    repeat: float = 0.0


def count_sources(mixture: Mixture, *, map_tasks: MapTasks = map_here) -> list[Counted]:
    """The records of the sources, and the sizes of their parts, counted in parallel over files."""
    counted = []
    for source in mixture.sources:
        store = open_store(source.dataset)
        record = _dataset(store)
        if source.parts is None:
            counted.append(Counted(uri=store.uri, record=record))
            continue
        tasks = [CountTask(uri=store.uri, file=f, by=source.parts) for f in record.outputs]
        files = tuple(map_tasks(count_parts, tasks))
        counted.append(Counted(uri=store.uri, record=record, files=files))
    return counted


def units_of(mixture: Mixture, counted: Sequence[Counted]) -> list[Unit]:
    """Every source and part with its tokens, in order; `repeat` is not decided yet."""
    units = []
    for number, (source, own) in enumerate(zip(mixture.sources, counted, strict=True)):
        parts = own.parts()
        if parts is None:
            tokens = _tokens(mixture, source, own.record)
            units.append(Unit(source=number, part=None, name=source.name, tokens=tokens))
            continue
        _check_parts(source, parts)
        for part, size in parts.items():
            tokens = size.amount / (1 if size.of_tokens else mixture.bytes_per_token)
            name = f"{source.name}/{part}"
            units.append(Unit(source=number, part=part, name=name, tokens=tokens))
    return units


def _check_parts(source: Source, parts: Mapping[str, PartSize]) -> None:
    """DataError where no row has a value, and for a share of a part that no row is in."""
    where = f"source {source.name!r} ({source.dataset})"
    if not set(parts) - {NONE}:
        raise DataError(f"{where}: no row has a value in {source.by!r}, which by names")
    absent = sorted(name for name, share in (source.shares or {}).items() if share)
    absent = [name for name in absent if name not in parts]
    if absent:
        raise DataError(
            f"{where}: shares name {absent[0]!r}, and no row is in that part; there are: "
            f"{', '.join(parts)}"
        )


def decide(mixture: Mixture, units: Sequence[Unit]) -> list[Unit]:
    """Decide how often each source and part is repeated.

    DataError for an unknown name, ValueError where a share needs more repeats than `max_repeat`.
    With a temperature, shares are capped at `max_repeat` and the rest goes to the others.
    """
    shares = _shares(mixture, units)
    out = []
    for unit, share in zip(units, shares, strict=True):
        source = mixture.sources[unit.source]
        if source.repeat is not None:
            repeat = source.repeat
        elif source.repeats is not None:
            repeat = _of(source.repeats_by_name(), unit, f"source {source.name!r}: repeats")
        else:
            assert share is not None
            assert mixture.total_tokens is not None
            repeat = share * mixture.total_tokens / max(unit.tokens, 1.0)
        if repeat > mixture.max_repeat * (1 + 1e-9):
            raise ValueError(
                f"source {unit.name!r} would be repeated {repeat:.2f} times, more than max_repeat "
                f"({mixture.max_repeat:g}): give it a smaller share, or raise max_repeat"
            )
        out.append(unit.model_copy(update={"repeat": round(repeat, 6)}))
    return out


def _of(values: Mapping[str, float], unit: Unit, where: str) -> float:
    assert unit.part is not None
    if unit.part not in values:
        raise DataError(
            f"{where} do not name the part {unit.part!r}; they name: {', '.join(sorted(values))}"
        )
    return values[unit.part]


def _shares(mixture: Mixture, units: Sequence[Unit]) -> list[float | None]:
    """The share of each unit; None where its repeats are given."""
    if mixture.shares is not None:
        unknown = sorted(set(mixture.shares) - {unit.name for unit in units})
        if unknown:
            raise DataError(
                f"shares: there is no source {unknown[0]!r}; there are: "
                f"{', '.join(unit.name for unit in units)}"
            )
        return [mixture.shares.get(unit.name, 0.0) for unit in units]
    out: list[float | None] = [None] * len(units)
    rest = []
    for number, unit in enumerate(units):
        source = mixture.sources[unit.source]
        if source.share is not None:
            own = sum(other.tokens for other in units if other.source == unit.source)
            out[number] = source.share * unit.tokens / max(own, 1.0)
        elif source.shares is not None:
            out[number] = _of({NONE: 0.0} | source.shares, unit, f"source {source.name!r}: shares")
        elif not source.ways():
            rest.append(number)
    if rest:
        assert mixture.temperature is not None
        assert mixture.total_tokens is not None
        left = (1 - sum(share for share in out if share)) * mixture.total_tokens
        left -= sum(_repeated(mixture, unit) for unit in units)
        if left <= 0:
            raise DataError("temperature: the other sources already give total_tokens")
        tokens = np.array([units[number].tokens for number in rest])
        most = most_shares(tokens, left, mixture.max_repeat)
        for number, share in zip(
            rest, capped(by_temperature(tokens, mixture.temperature), most).tolist(), strict=True
        ):
            out[number] = share * left / mixture.total_tokens
    return out


def _repeated(mixture: Mixture, unit: Unit) -> float:
    """The tokens of a unit whose repeats are given."""
    source = mixture.sources[unit.source]
    if source.repeat is not None:
        return source.repeat * unit.tokens
    if source.repeats is not None:
        return _of(source.repeats_by_name(), unit, f"source {source.name!r}: repeats") * unit.tokens
    return 0.0


def _dataset(store: Store) -> DatasetRecord:
    where = f"{store.uri}/{RECORD}"
    if not store.exists(RECORD):
        raise RecordError(f"there is no {where}; a source is the folder of a finished dataset")
    record = parse_record(store.read_bytes(RECORD), source=where)
    if not isinstance(record, DatasetRecord):
        raise RecordError(f"{where} is a {record.kind} record; a source is a dataset")
    wrong = [file.name for file in record.outputs if not file.name.endswith(".parquet")]
    if wrong:
        raise RecordError(
            f"{where}: {wrong[0]} is not a parquet file; curate with --format parquet"
        )
    return record


def _tokens(mixture: Mixture, source: Source, record: DatasetRecord) -> float:
    """Tokens of a dataset; 0 where its record has no count and nothing depends on it."""
    if TOKEN_COLUMN in record.counts:
        return record.counts[TOKEN_COLUMN]
    if "text_bytes" in record.counts:
        return record.counts["text_bytes"] / mixture.bytes_per_token
    if source.repeat is not None and mixture.temperature is None:
        return 0.0
    raise RecordError(
        f"source {source.name!r}: its record counts neither tokens nor bytes of text; set "
        "`repeat` for it"
    )
