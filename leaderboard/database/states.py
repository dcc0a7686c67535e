"""A submission as the service knows it, the states it goes through, and its audit."""

from __future__ import annotations

from typing import Literal

from leaderboard.submissions.faults import Fault
from pipelines.records import Frozen

State = Literal["received", "checking", "needs_review", "accepted", "refused", "withdrawn"]
RULE_BOOK = "the rule book"
"""Who put an entry on the board where no person did, in the audit."""
ALLOWED: dict[str, tuple[str, ...]] = {
    "received": ("checking", "withdrawn"),
    "checking": ("checking", "needs_review", "refused", "withdrawn"),
    "needs_review": ("accepted", "refused", "withdrawn"),
    "accepted": ("refused", "withdrawn"),
    "refused": ("received", "withdrawn"),
    "withdrawn": ("received",),
}


class StoredSubmission(Frozen):
    """One submission as the service knows it."""

    id: str
    kind: Literal["submission", "imported", "reference"]
    team: str
    token: str
    benchmark: str
    scale: str
    track: str
    method: str
    state: State
    received: float
    changed: float
    bundle: str
    bundle_sha256: str
    bundle_bytes: int
    attempts: int
    faults: tuple[Fault, ...]


class Change(Frozen):
    """One line of the audit."""

    submission: str
    at: float
    who: str
    before: str
    after: str
    why: str


class Board(Frozen):
    """One benchmark, scale and track that has accepted rows."""

    benchmark: str
    scale: str
    track: str
    number: int
    changed: float


def shown(state: str) -> str:
    """A state as a person reads it."""
    return state.replace("_", " ")
