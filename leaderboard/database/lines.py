"""Lines of the tables inside an open transaction: read one, note a change, store a result."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    delete,
    insert,
    select,
    update,
)

from leaderboard.database import tables as t
from leaderboard.database.states import StoredSubmission
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.results import Measured, Row

# ---- inside


def submission_of(connection: Connection, id: str) -> StoredSubmission | None:
    query = select(t.Submission).where(t.Submission.id == id)
    line = connection.execute(query).mappings().one_or_none()
    return None if line is None else stored_of(line)


def stored_of(line: Mapping[Any, Any]) -> StoredSubmission:
    values = {name: line[name] for name in StoredSubmission.model_fields}
    values["faults"] = tuple(Fault(**fault_) for fault_ in orjson.loads(line["faults"]))
    return StoredSubmission(**values)


def note(connection: Connection, id: str, who: str, before: str, after: str, why: str) -> None:
    connection.execute(
        insert(t.AuditLine).values(
            submission=id, at=time.time(), who=who[:200], before=before, after=after, why=why[:4000]
        )
    )


def refused_by_person(connection: Connection, id: str) -> bool:
    """Whether a person refused it, and not its check."""
    a = t.AuditLine
    query = select(a.before).where(a.submission == id, a.after == "refused")
    last = connection.execute(query.order_by(a.id.desc()).limit(1)).scalar()
    return last in ("accepted", "needs_review")


def note_end(connection: Connection, id: str, outcome: str, seconds: float) -> None:
    line = {"submission": id, "at": time.time(), "seconds": seconds, "outcome": outcome}
    connection.execute(insert(t.Check).values(**line))


def count_change(connection: Connection) -> None:
    values = {"number": t.Revision.number + 1, "stamp": secrets.token_hex(16)}
    connection.execute(update(t.Revision).values(**values))


def refuse_dead(connection: Connection, submission: StoredSubmission) -> None:
    limit = Words(f"a check that ended {submission.attempts} times without a result")
    refusal = fault(submission.id, "", limit, Words("one that ends"), "ask the maintainers")
    connection.execute(
        update(t.Submission)
        .where(t.Submission.id == submission.id)
        .values(
            state="refused",
            changed=time.time(),
            faults=orjson.dumps([refusal.model_dump()]).decode(),
            lease_owner="",
            lease_until=0.0,
        )
    )
    note(connection, submission.id, "service", submission.state, "refused", str(refusal))


def stored(row: Row, now: float) -> dict[str, Any]:
    return {"id": row.submission_id, "changed": now, "row": row.model_dump_json()}


def store_measured(connection: Connection, measured: Measured, now: float) -> None:
    id_ = measured.row.submission_id
    connection.execute(delete(t.StoredRow).where(t.StoredRow.id == id_))
    connection.execute(delete(t.Draw).where(t.Draw.id == id_))
    connection.execute(insert(t.StoredRow).values(**stored(measured.row, now)))
    lines = [
        {"id": id_, "metric": metric, "resamples": values.astype("<f4").tobytes()}
        for metric, values in measured.draws.items()
    ]
    connection.execute(insert(t.Draw), lines)
