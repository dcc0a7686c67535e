"""The files of a run's folder and how to read them: run.json, stats.json, the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import orjson
from pydantic import Field

from pipelines.errors import FailedError
from pipelines.execution.monitor import BEAT_SECONDS, Progress, read_progress
from pipelines.global_steps.duplicate_record import (
    DUPLICATES,
)
from pipelines.global_steps.similarity import COMPARED
from pipelines.job import Plan
from pipelines.records import (
    JSON,
    DatasetRecord,
    Frozen,
    parse_record,
)
from pipelines.stats import ON_GPU, RunStats
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

RUN = "run.json"
STATS = "stats.json"
FOLDERS = ("data", "work", "rejected", "quarantine", DUPLICATES, COMPARED)


class RunFailed(FailedError):
    """A run that stopped. Finished shards are kept."""


class RunFile(Frozen):
    """run.json: what is run, written before the first shard (`pipelines status` reads it)."""

    key: str
    pipeline: str
    input_uri: str
    num_shards: int
    num_passes: int
    started: str
    plan: Plan | None = None  # absent for work that is not a pipeline, such as extraction
    external: bool = False
    excluded: tuple[str, ...] = ()  # shards left out because they failed

    def of_pipeline(self) -> Plan:
        """The plan. RunFailed when the work is not a pipeline."""
        if self.plan is None:
            raise RunFailed(f"{self.pipeline} is not a pipeline's run")
        return self.plan


class RunSummary(Frozen):
    """stats.json: the counts of a run, equal for every executor, and its times."""

    stats: RunStats
    seconds: dict[str, float] = Field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    verdicts: dict[str, JSON] = Field(default_factory=dict)
    aggregates: dict[str, dict[str, JSON]] = Field(default_factory=dict)  # by step and field


def gpu_seconds(seconds: Mapping[str, float]) -> float:
    """GPU-seconds of all steps: seconds times the number of GPUs used."""
    return sum(took for name, took in seconds.items() if name.endswith(ON_GPU))


@dataclass(frozen=True)
class Result:
    """A finished run."""

    record: DatasetRecord
    summary: RunSummary
    skipped: bool  # the run had finished before


def read_run(store: Store) -> RunFile:
    """The run.json of a folder. RunFailed when there is none."""
    if not store.exists(RUN):
        raise RunFailed(f"{store.uri} holds no run: there is no {RUN} in it")
    return RunFile.model_validate(orjson.loads(store.read_bytes(RUN)))


def finished(store: Store) -> Result:
    """A finished run, read from its folder. RunFailed when there is none."""
    where = f"{store.uri}/{RECORD}"
    if not store.exists(RECORD):
        raise RunFailed(f"{store.uri} holds no finished run: there is no {RECORD} in it")
    record = parse_record(store.read_bytes(RECORD), source=where)
    if not isinstance(record, DatasetRecord):
        raise RunFailed(f"{where} is a {record.kind} record, expected a dataset: another --out?")
    return Result(record, read_summary(store.uri), skipped=True)


def read_summary(uri: str) -> RunSummary:
    """The statistics of a finished run."""
    return RunSummary.model_validate(orjson.loads(open_store(uri).read_bytes(STATS)))


SILENT_SECONDS = 12 * BEAT_SECONDS  # without a heartbeat, after which the driver counts as dead

State = Literal["done", "running", "silent", "stopped", "not started"]


def refuse_while_running(store: Store, *, what: str) -> None:
    """RunFailed when a driver is running, by its last heartbeat; `what` is refused."""
    progress = read_progress(store)
    if driver_state(progress, finished=False) == "running":
        assert progress is not None
        raise RunFailed(
            f"{store.uri} is in use by {progress.driver} (last heartbeat {progress.updated}): "
            f"{what} would remove files that it is writing; stop it, or wait {SILENT_SECONDS:.0f} "
            "s after its end"
        )


def driver_state(progress: Progress | None, *, finished: bool) -> State:
    """The state of a run's driver, judged by its last heartbeat."""
    if finished:
        return "done"
    if progress is None:
        return "not started"
    if progress.state != "running":
        return "stopped"
    age = (datetime.now(UTC) - time_of(progress.updated)).total_seconds()
    return "silent" if age > SILENT_SECONDS else "running"


def time_of(text: str) -> datetime:
    """Parse a UTC time in the format of records and progress files."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
