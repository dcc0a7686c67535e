"""What a board remembers of every entry, so that the next one can be compared with it.

`Facts` are small (some kilobytes) and hold no question: hashes of what an entry consists of, a
sketch of its dataset, a sample of its losses, and of each task's data the hash of what every log of
that data must repeat. `Known` is what a check may ask of the board; offline there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pydantic import Field

from pipelines.records import Frozen


class TaskFacts(Frozen):
    """Of one task: which data it was asked on, and what the log says of that data."""

    data: str = Field(description="identity of the data, or its sha256 in old records")
    rows: int
    truth: str = Field(description="evals.pins.truth_of the log")
    sums: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="of columns that machines round (see `data_numbers`)"
    )


class Facts(Frozen):
    """One entry."""

    id: str
    team: str
    method: str
    benchmark: str
    scale: str
    track: str
    pool: str
    dataset: str = Field(description="id of the dataset's record")
    pipeline: str = Field(description="hash of the pipeline's steps, without its name")
    data: tuple[str, ...] = Field(description="hashes of the dataset's files")
    packed: tuple[str, ...] = Field(description="hashes of the packed files")
    weights: tuple[str, ...] = Field(description="hashes of the models' files")
    logs: tuple[str, ...] = Field(description="hashes of the logs' files")
    answers: tuple[str, ...] = Field((), description="hashes of the answers in the logs")
    seeds: tuple[int, ...]
    sketch: tuple[int, ...] = Field((), description="smallest hashes of the dataset's uids")
    losses: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="by seed: losses of questions chosen by hash"
    )
    marks: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="by seed: what else these questions earned, by task"
    )
    tasks: dict[str, TaskFacts] = Field(default_factory=dict)
    figures: dict[str, float] = Field(
        default_factory=dict, description="tasks and aggregates, the mean over the seeds"
    )
    params: int | None = Field(None, description="of its models")
    accepted: bool = False
    withdrawn: bool = False


class Known(Protocol):
    """What a board knows."""

    def entries(self, benchmark: str) -> Sequence[Facts]:
        """Every other entry of a benchmark that was not refused; some were withdrawn."""
        ...

    def names(self) -> Sequence[str]:
        """Teams that exist."""
        ...

    def log(self, id: str, task: str) -> pa.Table | None:
        """A log of an entry, to name the first row that differs."""
        ...

    def pinned(self, task: str) -> str | None:
        """The identity of a task's data that a maintainer pinned on this board."""
        ...


@dataclass(frozen=True)
class NothingKnown:
    """No board: novelty and majority cannot be checked."""

    def entries(self, benchmark: str) -> Sequence[Facts]:
        return ()

    def names(self) -> Sequence[str]:
        return ()

    def log(self, id: str, task: str) -> pa.Table | None:
        return None

    def pinned(self, task: str) -> str | None:
        return None


NOTHING = NothingKnown()


@dataclass(frozen=True)
class KnownFacts:
    """A board from facts that are at hand, as of a folder of submissions."""

    facts: tuple[Facts, ...]
    logs: Mapping[tuple[str, str], pa.Table] | None = None
    pins: Mapping[str, str] | None = None

    def entries(self, benchmark: str) -> Sequence[Facts]:
        return [entry for entry in self.facts if entry.benchmark == benchmark]

    def names(self) -> Sequence[str]:
        return sorted({entry.team for entry in self.facts})

    def log(self, id: str, task: str) -> pa.Table | None:
        return (self.logs or {}).get((id, task))

    def pinned(self, task: str) -> str | None:
        return (self.pins or {}).get(task)


def majority(entries: Sequence[Facts], task: str, data: str) -> tuple[TaskFacts, str] | None:
    """What most accepted teams say of a task's data, and an entry that says it; None: nobody.

    A team has one vote, so nobody outvotes the others by sending more; ties go to the older.
    """
    votes: dict[str, tuple[TaskFacts, str]] = {}
    by_truth: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        task_facts = entry.tasks.get(task)
        if not entry.accepted or task_facts is None or task_facts.data != data:
            continue
        votes.setdefault(task_facts.truth, (task_facts, entry.id))
        if (entry.team, task_facts.truth) not in seen:
            seen.add((entry.team, task_facts.truth))
            by_truth[task_facts.truth] += 1
    if not by_truth:
        return None
    return votes[by_truth.most_common(1)[0][0]]
