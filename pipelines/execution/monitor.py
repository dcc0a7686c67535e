"""What a run reports while it works, in its own folder: progress, events, failed shards.

`progress.json` is written again every few seconds, so that `pipelines status` answers from any
machine that sees the folder or the bucket, while the run works. `events.jsonl` lists what happened
when. `failed/` holds a note per shard that could not be done. None of it decides what is done: that
is the commits' alone.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from pydantic import Field, ValidationError

from pipelines.errors import FailedError
from pipelines.execution.executors import Cluster, MapTasks, Needs, OnResult, Placed
from pipelines.execution.progress import step as progress_step
from pipelines.records import JSON, Frozen, now
from pipelines.storage.base import StorageError, Store, write_bytes
from pipelines.storage.commits import Done, find_done_many

EVENTS = "events.jsonl"
PROGRESS = "progress.json"
FAILED = "failed"
BEAT_SECONDS = 10.0  # between two writes of progress.json
WORST = 5  # shards that the progress names
log = logging.getLogger(__name__)


class Slow(Frozen):
    """A task that took long, or set rows aside."""

    name: str
    seconds: float
    quarantined: int = 0
    host: str = ""


class Failure(Frozen):
    """One shard that could not be done, and why. Below `failed/` until it is done or left out."""

    key: str
    shard: int
    name: str
    stage: str
    error: str
    at: str


class Progress(Frozen):
    """How far a run is, as its driver last said it.

    Rates are those of the stage at work, since this driver began it; `bytes` are of text going in.
    """

    run: str = Field(description="name of the pipeline or command")
    key: str
    stage: str
    tasks: int
    done: int = Field(description="tasks of the stage that are done, earlier ones too")
    failed: int = 0
    rows: int = 0
    num_bytes: int = 0
    seconds: float = Field(0.0, description="since this driver began the stage")
    left_seconds: float | None = Field(None, description="until the stage ends, at this rate")
    quarantined: int = 0
    cpu_seconds: float = 0.0
    node_seconds: float = Field(0.0, description="nodes times wall time, all drivers together")
    nodes: int = 1
    worst: tuple[Slow, ...] = Field((), description="the slowest shards of the stage")
    started: str
    updated: str
    driver: str
    state: str = "running"

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds if self.seconds > 0 else 0.0


class ShardsFailed(FailedError):
    """Some shards could not be done; all others of the stage are."""


class Watch:
    """Runs the stages of a run and reports their progress. Used with `with`.

    `name` is what the run is called, `key` its key. Where `failures_allowed` is not 0, that many
    shards of a stage may fail before it stops; then ShardsFailed is raised at its end. `adopt`
    brings commits that another run made, of the keys that it is given.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        key: str,
        map_tasks: MapTasks,
        failures_allowed: int = 0,
        recoverable: tuple[type[Exception], ...] = (),
        adopt: Callable[[Sequence[str]], Mapping[str, Done]] | None = None,
    ) -> None:
        self.store, self.name, self.key = store, name, key
        self.adopt = adopt
        self.map_tasks = map_tasks
        self.failures_allowed = failures_allowed
        self.recoverable = recoverable
        self.cpu_seconds = 0.0
        self.seconds: dict[str, float] = {}  # by step
        self._lock = threading.Lock()  # of what is counted
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._lines: list[bytes] = []
        self._known = b""
        self._now = Progress(
            run=name,
            key=key,
            stage="",
            tasks=0,
            done=0,
            started=now(),
            updated=now(),
            driver=f"{socket.gethostname()}:{os.getpid()}",
        )
        self._clock = self._stage_clock = time.monotonic()
        self._weights: list[float] = []
        self._weight_done = 0.0

    def __enter__(self) -> Watch:
        before = read_progress(self.store)
        if before is not None and before.key == self.key:
            self._now = self._now.model_copy(
                update={"cpu_seconds": before.cpu_seconds, "node_seconds": before.node_seconds}
            )
        if self.store.exists(EVENTS):
            self._known = self.store.read_bytes(EVENTS)
        nodes = self._nodes()
        self.event("started", key=self.key, name=self.name, driver=self._now.driver, nodes=nodes)
        self._beat = threading.Thread(target=self._beats, name="progress", daemon=True)
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        if error is None:
            self._set(state="finished", left_seconds=None)
        else:
            said = f"{type(error).__name__}: {error}"
            self._set(state="stopped", left_seconds=None)
            self._lines.append(_line("stopped", error=said))
        try:
            self.write()
        except StorageError:
            if error is None:
                raise
            log.warning("the progress of %s could not be written", self.store.uri)

    # ---- stages

    def stage(
        self,
        title: str,
        function: Callable[[Any], Done],
        tasks: Sequence[Any],
        *,
        unit: str,
        names: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        needs: Needs | None = None,
    ) -> list[Done]:
        """Run the tasks that are not done yet; all commits, in the order of the tasks.

        `names` say what a task is about, `weights` how long each takes relative to the others,
        `needs` what it takes of a machine, where there is a choice. Raises
        ShardsFailed when some failed and were allowed to; all others are done then.
        """
        done_before = find_done_many(self.store, [task.key for task in tasks])
        if self.adopt is not None:
            done_before |= self.adopt([t.key for t in tasks if t.key not in done_before])
        missing = [n for n, task in enumerate(tasks) if task.key not in done_before]
        names = names or [task.key for task in tasks]
        failures: list[Failure] = []
        self._begin(title, len(tasks), weights or [1.0] * len(tasks))
        with progress_step(title, total=len(tasks), unit=unit) as bar:
            if done_before:
                bar.note(f"({len(done_before)} were done before)")
                bar.advance(len(done_before))
            for number, task in enumerate(tasks):
                if task.key in done_before:
                    self._count(names[number], done_before[task.key], number, fresh=False)

            def arrived(index: int, done: Done | Failure) -> None:
                if isinstance(done, Done):
                    bar.advance()
                    self._count(names[missing[index]], done, missing[index])

            def failed(index: int, error: Exception) -> Failure:
                if not isinstance(error, self.recoverable):
                    raise error
                number = missing[index]
                failure = Failure(
                    key=tasks[number].key,
                    shard=getattr(tasks[number], "shard", number),
                    name=names[number],
                    stage=title,
                    error=str(error),
                    at=now(),
                )
                failures.append(failure)
                self._note_failure(failure, len(failures))
                if len(failures) > self.failures_allowed:
                    raise error
                return failure

            options: dict[str, Any] = {"on_error": failed} if self.failures_allowed else {}
            map_tasks = self.map_tasks
            if needs is not None and isinstance(map_tasks, Placed):
                map_tasks = map_tasks.with_needs(needs)
            fresh = map_tasks(function, [tasks[n] for n in missing], on_result=arrived, **options)
        if failures:
            raise ShardsFailed(_failure_message(failures, len(tasks), self.store.uri))
        for number, done in zip(missing, fresh, strict=True):
            done_before[tasks[number].key] = done
        self.note("stage_done", title=title, tasks=len(tasks))
        return [done_before[task.key] for task in tasks]

    def named(self, title: str) -> MapTasks:
        """The executor for a global step: what it runs counts as stages of this title."""

        def run(
            function: Callable[[Any], Any],
            items: Sequence[Any],
            *,
            on_result: OnResult | None = None,
            **options: Any,
        ) -> list[Any]:
            step = getattr(function, "__name__", "").removeprefix("run_").strip("_")
            self._begin(f"{title}: {step}", len(items), [1.0] * len(items))

            def arrived(index: int, result: Any) -> None:
                if isinstance(result, Done):
                    self._count(result.key, result, index)
                else:
                    self._set(done=self._now.done + 1)
                if on_result:
                    on_result(index, result)

            return self.map_tasks(function, items, on_result=arrived, **options)

        return run

    def _begin(self, title: str, tasks: int, weights: Sequence[float]) -> None:
        self._stage_clock = time.monotonic()
        self._weights, self._weight_done = list(weights), 0.0
        self._set(stage=title, tasks=tasks, done=0, failed=0, rows=0, num_bytes=0, worst=())
        self.event("stage", title=title, tasks=tasks)

    def _count(self, name: str, done: Done, number: int, *, fresh: bool = True) -> None:
        rows, num_bytes, quarantined = amounts(done)
        with self._lock:
            seen = self._now
            slow = Slow(name=name, seconds=done.seconds, quarantined=quarantined, host=done.host)
            worst = sorted([*seen.worst, slow], key=lambda slow: (-slow.seconds, slow.name))
            update: dict[str, Any] = {
                "done": seen.done + 1,
                "worst": tuple(worst[:WORST]),
            }
            if fresh:
                self.cpu_seconds += done.seconds
                for step, seconds in done.timings.items():
                    self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 4)
                update |= {
                    "rows": seen.rows + rows,
                    "num_bytes": seen.num_bytes + num_bytes,
                    "cpu_seconds": round(seen.cpu_seconds + done.seconds, 3),
                    "quarantined": seen.quarantined + quarantined,
                }
                self._weight_done += self._weights[number]
            else:
                update["quarantined"] = seen.quarantined + quarantined
                self._weights[number] = 0.0
            self._now = seen.model_copy(update=update)

    def _note_failure(self, failure: Failure, number: int) -> None:
        self._set(failed=number)
        write_bytes(
            self.store, failure_name(failure.key), failure.model_dump_json(indent=2).encode()
        )
        self._lines.append(_line("failed", key=failure.key, name=failure.name, error=failure.error))

    # ---- reporting

    def event(self, what: str, **fields: JSON) -> None:
        """Note that something happened, and write it down at once."""
        self.note(what, **fields)
        self.write()

    def note(self, what: str, **fields: JSON) -> None:
        """Note that something happened; it is written with the next event, beat or end."""
        self._lines.append(_line(what, **fields))

    def _set(self, **fields: Any) -> None:
        with self._lock:
            self._now = self._now.model_copy(update=fields)

    def write(self) -> None:
        """Put `progress.json` and the events down."""
        with self._lock:
            clock = time.monotonic()
            nodes = self._nodes()
            passed, self._clock = clock - self._clock, clock
            seconds = clock - self._stage_clock
            left = None
            if self._weight_done > 0 and self._now.state == "running":
                total = sum(self._weights)
                left = round(seconds * (total - self._weight_done) / self._weight_done, 1)
            self._now = self._now.model_copy(
                update={
                    "node_seconds": round(self._now.node_seconds + nodes * passed, 2),
                    "nodes": nodes,
                    "seconds": round(seconds, 3),
                    "left_seconds": left,
                    "updated": now(),
                }
            )
        with self._writing:
            progress, lines = self._now, self._lines
            if lines:
                self._lines = []
                self._known += b"".join(lines)
                write_bytes(self.store, EVENTS, self._known)
            write_bytes(self.store, PROGRESS, progress.model_dump_json(indent=2).encode())
        if isinstance(self.map_tasks, Cluster):
            self.map_tasks.publish(self.name, figures(progress))

    def _nodes(self) -> int:
        return self.map_tasks.num_nodes() if isinstance(self.map_tasks, Cluster) else 1

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.write()
            except OSError as error:  # the run itself notices when the storage stays away
                log.warning("the progress could not be written: %s", error)


def amounts(done: Done) -> tuple[int, int, int]:
    """Rows and bytes that went into a piece of work, and rows it set aside."""
    steps = done.stats.get("steps", ()) if isinstance(done.stats, dict) else ()
    if not steps:
        return done.counts.get("pages", 0), done.counts.get("bytes", 0), 0
    errors = sum(step["errors"] for step in steps)
    return steps[0]["rows_in"], steps[0]["bytes_in"], errors


def figures(progress: Progress) -> Mapping[str, float]:
    """The progress as gauges for a monitoring system: name to value, units in the names."""
    return {
        "tasks": progress.tasks,
        "tasks_done": progress.done,
        "tasks_failed": progress.failed,
        "rows": progress.rows,
        "text_bytes": progress.num_bytes,
        "rows_per_second": progress.rows_per_second,
        "bytes_per_second": progress.bytes_per_second,
        "left_seconds": progress.left_seconds or 0.0,
        "quarantined_rows": progress.quarantined,
        "cpu_seconds": progress.cpu_seconds,
        "node_seconds": progress.node_seconds,
    }


def read_progress(store: Store) -> Progress | None:
    """What the driver of a run last said; None when it never did."""
    try:
        return Progress.model_validate(orjson.loads(store.read_bytes(PROGRESS)))
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, ValidationError):
        return None  # of another version: it only reports, nothing depends on it


def failure_name(key: str) -> str:
    return f"{FAILED}/{key}.json"


def failures(store: Store) -> list[Failure]:
    """The shards that could not be done, by key; those done since then are left out."""
    recorded = []
    for entry in store.list(f"{FAILED}/"):
        with suppress(FileNotFoundError):  # done, and removed, while the folder was being read
            recorded.append(Failure.model_validate(orjson.loads(store.read_bytes(entry.name))))
    done = find_done_many(store, [failure.key for failure in recorded])
    return [failure for failure in recorded if failure.key not in done]


def forget_failures(store: Store) -> None:
    """Remove the notes, when the run is finished."""
    for entry in list(store.list(f"{FAILED}/")):
        store.remove(entry.name)


def _line(what: str, **fields: JSON) -> bytes:
    return orjson.dumps({"time": now(), "event": what, **fields}) + b"\n"


def _failure_message(failed: Sequence[Failure], tasks: int, uri: str) -> str:
    first = "; ".join(f"{failure.name}: {failure.error}" for failure in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return (
        f"{len(failed)} of {tasks} shards failed, all others are done: {first}{more}. Fix the "
        f"cause, then: pipelines retry {uri} (or continue without them: --exclude-failed)"
    )
