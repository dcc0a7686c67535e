"""How far a run is, from its folder or bucket alone: for any machine, while the run goes.

Commits are counted by listing them, nothing is read but three small files and the notes of failed
shards; so asking about a run of a million shards costs a listing.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import orjson
from pydantic import Field

from pipelines.console import table
from pipelines.engine.run_folder import State, driver_state, read_run, time_of
from pipelines.execution.monitor import Failure, Progress, failures, read_progress
from pipelines.execution.progress import short
from pipelines.records import Frozen
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD

SHOWN = 5  # failed shards; the others are counted
ERROR_CHARACTERS = 120  # shown of an error; --json has all of it

MEANING: dict[State, str] = {
    "done": "done",
    "running": "running",
    "silent": "no word from its driver: it may be dead",
    "stopped": "stopped before its end",
    "not started": "nothing is known of its driver",
}


class Status(Frozen):
    """How far a run is."""

    uri: str
    pipeline: str
    state: State
    num_shards: int
    num_passes: int
    passes: dict[str, int] = Field(default_factory=dict, description="commits by kind of work")
    failed: tuple[Failure, ...] = ()
    excluded: tuple[str, ...] = ()
    progress: Progress | None = None
    ends: str | None = Field(None, description="when the stage at work ends, at the present rate")
    record_id: str | None = None


def status(store: Store) -> Status:
    """Read the state of a run. RunFailed when the folder holds none."""
    run = read_run(store)
    passes: dict[str, int] = {}
    for entry in store.list("done/"):
        kind = entry.name.removeprefix("done/").split("-")[0]
        passes[kind] = passes.get(kind, 0) + 1
    record_id = None
    if store.exists(RECORD):
        record_id = orjson.loads(store.read_bytes(RECORD))["id"]
    progress = read_progress(store)
    state = driver_state(progress, finished=record_id is not None)
    ends = None
    if state == "running" and progress is not None and progress.left_seconds is not None:
        ends = _shown(time_of(progress.updated) + timedelta(seconds=progress.left_seconds))
    return Status(
        uri=store.uri,
        pipeline=run.pipeline,
        state=state,
        num_shards=run.num_shards,
        num_passes=run.num_passes,
        passes=dict(sorted(passes.items())),
        failed=() if record_id else tuple(failures(store)),
        excluded=run.excluded,
        progress=progress,
        ends=ends,
        record_id=record_id,
    )


def _shown(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def status_text(state: Status) -> str:
    """The state for a person."""
    lines = [f"{state.pipeline} in {state.uri}: {MEANING[state.state]}"]
    for kind, number in state.passes.items():
        of = f"{state.num_shards:,} shards" if kind.startswith(("p", "x")) else "its parts"
        lines.append(f"  {_kind(kind)}: {number:,} of {of} done")
    if state.progress is not None:
        lines += _progress_lines(state, state.progress)
    if state.excluded:
        lines.append(f"  left out: {len(state.excluded):,} shards: {_few(state.excluded)}")
    if state.failed:
        lines.append(f"  failed: {len(state.failed):,} shards; redo them: pipelines retry RUN")
        rows = [
            (failure.name, failure.at, _short(failure.error)) for failure in state.failed[:SHOWN]
        ]
        lines += _indented(table(rows, header=("shard", "when", "error")))
    if state.record_id:
        lines.append(f"  record {state.record_id}")
    elif state.state in ("silent", "stopped"):
        lines.append("  to resume: run the same command again, or pipelines retry RUN")
    return "\n".join(lines)


def _progress_lines(state: Status, progress: Progress) -> list[str]:
    lines = []
    if state.state != "done":
        lines.append(
            f"  {'now' if state.state == 'running' else 'last'}: {progress.stage}, "
            f"{progress.done:,} of {progress.tasks:,}; "
            f"{short(round(progress.rows_per_second, 1))} rows/s, "
            f"{short(progress.bytes_per_second)}B/s of text"
            + (f", ends about {state.ends}" if state.ends else "")
        )
    hours = progress.node_seconds / 3600
    lines.append(
        f"  set aside: {progress.quarantined:,} rows; {progress.cpu_seconds:,.1f} CPU seconds, "
        f"{hours:.3g} node-hours ({progress.nodes} node{'s' * (progress.nodes != 1)} now)"
    )
    lines.append(f"  last word of {progress.driver}: {progress.updated}")
    if progress.worst and state.state != "done":
        rows = [(slow.name, slow.seconds, slow.quarantined, slow.host) for slow in progress.worst]
        lines.append("  slowest:")
        lines += _indented(table(rows, header=("shard", "cpu s", "set aside", "host")))
    return lines


def _short(error: str) -> str:
    return error if len(error) <= ERROR_CHARACTERS else f"{error[:ERROR_CHARACTERS]}..."


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _kind(kind: str) -> str:
    if kind[0] == "p" and kind[1:].isdigit():
        return f"pass {int(kind[1:]) + 1}"
    if kind[0] == "f" and kind[1:].isdigit():
        return f"groups of step {int(kind[1:]) + 1}"
    return {"x": "pages extracted", "k": "files fetched"}.get(kind, kind)
