"""The notebook of a workspace: every try, in the order they were made, failed ones too.

    <workspace>/notebook/<benchmark>-<scale>/<time>-<hash>.json

A line is a file of its own, written whole or not at all, and nothing is ever changed or removed: a
process that is killed loses no line, several write concurrently, and a bucket will do. A try
is a dataset that was trained on to see its score; how many there were goes with a submission, and
the interval of its score accounts for it (`leaderboard.board.intervals.interval`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import orjson
from pydantic import Field

from leaderboard import rules
from leaderboard.submissions.novelty import pipeline_key
from pipelines.records import JSON, DatasetRecord, Frozen, digest, now
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store

State = Literal["started", "scored", "failed", "note"]


class Line(Frozen):
    """One line of the notebook."""

    at: str = Field(description="UTC, as 2026-11-23T10:00:00Z")
    benchmark: str
    scale: str
    state: State
    method: str = ""
    dataset: str = Field("", description="id of the dataset's record")
    pipeline: str = Field("", description="hash of the pipeline's steps")
    baseline: bool = Field(False, description="a baseline of the benchmark is not a try")
    seeds: tuple[int, ...] = ()
    metric: str = ""
    value: float | None = None
    text: str = Field("", description="the error of a failed try, or a note")


TRY = ("method", "dataset", "pipeline", "baseline", "seeds")
"""Fields that say which try a line is about."""


class Notebook:
    """The lines of one benchmark and scale in a workspace."""

    def __init__(self, workspace: str, benchmark: str, scale: str) -> None:
        self.benchmark, self.scale = benchmark, scale
        self._store = open_store(workspace)
        self._folder = f"notebook/{benchmark}-{scale}"

    def write(self, state: State, **values: JSON) -> Line:
        """Add a line. It is durable when this returns."""
        line = Line(at=now(), benchmark=self.benchmark, scale=self.scale, state=state, **values)
        data = orjson.dumps(line.model_dump(mode="json"))
        name = f"{time.time_ns():020d}-{digest(line.model_dump(mode='json'))[:12]}.json"
        write_bytes(self._store, f"{self._folder}/{name}", data)
        return line

    def follow(self, start: Line, state: State, **values: JSON) -> Line:
        """Add a line about the same try: what came after its start."""
        known = start.model_dump(include=set(TRY))
        return self.write(state, **known, **values)

    def lines(self) -> list[Line]:
        """All lines, the oldest first."""
        prefix = f"{self._folder}/"
        names = sorted(e.name for e in self._store.list(prefix) if e.name.endswith(".json"))
        return [Line.model_validate_json(self._store.read_bytes(name)) for name in names]

    def tries(self) -> int:
        """How many datasets a training run was started on, baselines aside."""
        return len(
            {line.dataset for line in self.lines() if line.state == "started" and line.dataset}
        )

    def start(
        self,
        method: str,
        dataset: DatasetRecord,
        seeds: tuple[int, ...],
        *,
        baseline: bool = False,
    ) -> Line:
        """Note that a dataset is trained on; `baseline`: it is a draw of a baseline's sample."""
        pipeline = dataset.work.pipeline
        names = rules.baselines(self.benchmark)
        baseline = baseline or any(
            rules.is_baseline(self.benchmark, name, pipeline) for name in names
        )
        return self.write(
            "started",
            method=method,
            dataset="" if baseline else dataset.id,
            pipeline=pipeline_key(pipeline.get("steps")),
            baseline=baseline,
            seeds=seeds,
        )


@contextmanager
def noted(book: Notebook, starts: list[Line]) -> Iterator[None]:
    """Whatever ends the work in this block is noted for each of the tries, then raised."""
    try:
        yield
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:2000]
        for start in starts:
            book.follow(start, "failed", text=text)
        raise
