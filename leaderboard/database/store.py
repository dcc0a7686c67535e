"""Submissions in SQL: their states, the audit, the leases of checks. SQLite or PostgreSQL.

    received -> checking -> needs_review -> accepted
                    \\-> refused <---/--------/
    any of them -> withdrawn; refused or withdrawn -> received, when it is sent again

Every change of a state and its line in the audit are one transaction. A check holds a lease; when
it dies, its lease ends and another takes the submission over, at most `ATTEMPTS` times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import ValidationError
from sqlalchemy import (
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import (
    IntegrityError,
)

from leaderboard.database import queue
from leaderboard.database import tables as t
from leaderboard.database.address import DEFAULT
from leaderboard.database.connection import Database, StoreError
from leaderboard.database.lines import (
    count_change,
    note,
    note_end,
    refuse_dead,
    refused_by_person,
    store_measured,
    stored,
    stored_of,
    submission_of,
)
from leaderboard.database.states import ALLOWED, Board, Change, State, StoredSubmission, shown
from leaderboard.submissions.facts import Facts
from leaderboard.submissions.faults import Fault
from leaderboard.submissions.novelty import Notice
from leaderboard.submissions.results import Measured, Row

ATTEMPTS = 3  # a check that killed its process so often would do it again
COMPARED: tuple[State, ...] = ("needs_review", "accepted", "withdrawn")
LEASE_SECONDS = 60.0  # a check renews it while it runs
log = logging.getLogger("leaderboard.database")


class Store(Database):
    """The submissions of the service. Safe to share between threads; processes open their own."""

    def __init__(self, url: str = DEFAULT, *, migrate: bool = True) -> None:
        super().__init__(url, migrate=migrate)
        self.changes = 0  # of the board, by this process

    # ---- coming in

    def receive(
        self,
        *,
        id: str,
        team: str,
        token: str,
        benchmark: str,
        scale: str,
        track: str,
        method: str,
        bundle: str,
        bundle_sha256: str,
        bundle_bytes: int,
    ) -> tuple[StoredSubmission, bool]:
        """Put a submission in line for its check; returns it, and whether it is a new one.

        One that is here stays as it is, unless it was refused or withdrawn: then it is checked
        again. StoreError when another team sent it.
        """
        now = time.time()
        values: dict[str, Any] = {
            "team": team,
            "token": token,
            "benchmark": benchmark,
            "scale": scale,
            "track": track,
            "method": method,
            "state": "received",
            "received": now,
            "changed": now,
            "bundle": bundle,
            "bundle_sha256": bundle_sha256,
            "bundle_bytes": bundle_bytes,
            "attempts": 0,
            "lease_owner": "",
            "lease_until": 0.0,
            "faults": "[]",
        }
        try:
            with self.writer.begin() as connection:
                connection.execute(insert(t.Submission).values(id=id, kind="submission", **values))
                note(connection, id, f"token {token}", "", "received", f"sent by {team}")
            return self.get(id), True
        except IntegrityError:
            pass  # it is here already
        with self.writer.begin() as connection:
            before = submission_of(connection, id)
            assert before is not None
            if before.team != team:
                raise StoreError(f"submission {id} was sent by another team")
            if before.state not in ("refused", "withdrawn"):
                return before, False
            if before.state == "refused" and refused_by_person(connection, id):
                raise StoreError(
                    f"submission {id} was refused by a maintainer; the same cannot be sent again: "
                    "send another, or write to them"
                )
            changed = connection.execute(
                update(t.Submission)
                .where(t.Submission.id == id, t.Submission.state == before.state)
                .values(**values)
            )
            if changed.rowcount:  # what was computed was of the bundle before
                connection.execute(delete(t.StoredRow).where(t.StoredRow.id == id))
                connection.execute(delete(t.Draw).where(t.Draw.id == id))
                connection.execute(delete(t.StoredFacts).where(t.StoredFacts.id == id))
                note(connection, id, f"token {token}", before.state, "received", "sent again")
        return self.get(id), False

    def import_row(
        self, row: Row, *, kind: Literal["imported", "reference"], who: str, why: str
    ) -> bool:
        """Put a row on the board that has no bundle; True when it is new. The same is one row."""
        now = time.time()
        with self.writer.begin() as connection:
            before = submission_of(connection, row.submission_id)
            if before is None:
                connection.execute(
                    insert(t.Submission).values(
                        id=row.submission_id,
                        kind=kind,
                        team=row.team,
                        benchmark=row.benchmark,
                        scale=row.scale,
                        track=row.track,
                        method=row.method,
                        state="accepted",
                        received=now,
                        changed=now,
                    )
                )
                note(connection, row.submission_id, who, "", "accepted", why)
            connection.execute(delete(t.StoredRow).where(t.StoredRow.id == row.submission_id))
            connection.execute(insert(t.StoredRow).values(**stored(row, now)))
            count_change(connection)
        self.changes += 1
        return before is None

    # ---- checks

    def claim(self, owner: str, *, lease_seconds: float = LEASE_SECONDS) -> StoredSubmission | None:
        """Take the next submission that waits for a check, or whose check died; None if none.

        Next is as `queue` says: fair between teams. One whose check died `ATTEMPTS` times is
        refused instead.
        """
        while True:
            now = time.time()
            s = t.Submission
            with self.writer.begin() as connection:
                id_ = queue.first(connection, now)
                if id_ is None:
                    return None
                submission = submission_of(connection, id_)
                assert submission is not None
                if submission.attempts >= ATTEMPTS:
                    refuse_dead(connection, submission)
                    continue
                connection.execute(
                    update(t.Submission)
                    .where(s.id == id_)
                    .values(
                        state="checking",
                        changed=now,
                        attempts=s.attempts + 1,
                        lease_owner=owner,
                        lease_until=now + lease_seconds,
                    )
                )
                why = "" if submission.state == "received" else "the check before did not end"
                note(connection, id_, owner, submission.state, "checking", why)
                return submission_of(connection, id_)

    def renew(self, id: str, owner: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Lengthen a lease; False when somebody else holds it by now."""
        s = t.Submission
        with self.writer.begin() as connection:
            changed = connection.execute(
                update(t.Submission)
                .where(s.id == id, s.state == "checking", s.lease_owner == owner)
                .values(lease_until=time.time() + lease_seconds)
            )
            return changed.rowcount == 1

    def checked(
        self,
        id: str,
        owner: str,
        faults: Sequence[Fault],
        measured: Measured | None,
        *,
        facts: Facts | None = None,
        notices: Sequence[Notice] = (),
    ) -> bool:
        """Write down what a check found; False, and nothing is written, without its lease."""
        after = "refused" if faults else "needs_review"
        now = time.time()
        s = t.Submission
        faults_json = orjson.dumps([fault_.model_dump() for fault_ in faults]).decode()
        with self.writer.begin() as connection:
            changed = connection.execute(
                update(t.Submission)
                .where(s.id == id, s.state == "checking", s.lease_owner == owner)
                .values(
                    state=after, changed=now, faults=faults_json, lease_owner="", lease_until=0.0
                )
            )
            if changed.rowcount != 1:
                return False
            if measured is not None:
                store_measured(connection, measured, now)
            connection.execute(delete(t.StoredFacts).where(t.StoredFacts.id == id))
            if facts is not None:
                faults_json = orjson.dumps([notice.model_dump() for notice in notices]).decode()
                connection.execute(
                    insert(t.StoredFacts).values(
                        id=id, facts=facts.model_dump_json(), notices=faults_json
                    )
                )
            why = f"{len(faults)} rules are broken" if faults else "all rules hold"
            begun = select(func.max(t.AuditLine.at)).where(
                t.AuditLine.submission == id, t.AuditLine.after == "checking"
            )
            seconds = now - float(connection.execute(begun).scalar() or now)
            note_end(connection, id, after, seconds)
            note(connection, id, owner, "checking", after, why)
            return True

    def released(self, owner: str, why: str) -> str | None:
        """A check process ended: whatever it was checking waits again. Returns its id."""
        s = t.Submission
        with self.writer.begin() as connection:
            query = select(s.id).where(s.state == "checking", s.lease_owner == owner)
            id_: str | None = connection.execute(query).scalar()
            if id_ is None:
                return None
            connection.execute(
                update(t.Submission).where(s.id == id_).values(lease_until=0.0, lease_owner="")
            )
            note_end(connection, id_, "died", 0.0)
            note(connection, id_, owner, "checking", "checking", why)
            return id_

    # ---- decisions

    def move(
        self, id: str, after: State, *, who: str, why: str = "", team: str = ""
    ) -> StoredSubmission:
        """Accept, refuse or withdraw. StoreError when that cannot be done from its state.

        `team` is that of the decider: nobody accepts or refuses an entry of their own team.
        """
        with self.writer.begin() as connection:
            before = submission_of(connection, id)
            if before is None:
                raise StoreError(f"there is no submission {id}")
            if team and team == before.team and after in ("accepted", "refused"):
                raise StoreError(
                    f"submission {id} is of your own team; another reviewer has to decide on it"
                )
            if after not in ALLOWED[before.state] or after in ("checking", "needs_review"):
                raise StoreError(
                    f"submission {id} is {shown(before.state)}; it cannot be {shown(after)} now"
                )
            s = t.Submission
            changed = connection.execute(
                update(t.Submission)
                .where(s.id == id, s.state == before.state)
                .values(state=after, changed=time.time(), lease_owner="", lease_until=0.0)
            )
            if changed.rowcount != 1:
                raise StoreError(f"submission {id} was changed by somebody else just now")
            note(connection, id, who, before.state, after, why)
            if "accepted" in (before.state, after):
                count_change(connection)
        self.changes += 1
        return self.get(id)

    def rechecked(
        self, id: str, level: Literal["none", "sampled", "full"], *, who: str, why: str
    ) -> None:
        """Record that a maintainer checked a submission again."""
        now = time.time()
        with self.writer.begin() as connection:
            submission = submission_of(connection, id)
            row_json = connection.execute(
                select(t.StoredRow.row).where(t.StoredRow.id == id)
            ).scalar()
            if submission is None or row_json is None:
                raise StoreError(f"there is no checked submission {id}")
            row = orjson.loads(row_json) | {"recheck": level}
            connection.execute(
                update(t.StoredRow)
                .where(t.StoredRow.id == id)
                .values(row=orjson.dumps(row).decode(), changed=now)
            )
            note(
                connection, id, who, submission.state, submission.state, f"recheck: {level}; {why}"
            )
            count_change(connection)
        self.changes += 1

    def shown_anew(self, id: str, *, who: str, why: str) -> None:
        """Record that pages of a submission show more than before; its row and state stay."""
        with self.writer.begin() as connection:
            submission = submission_of(connection, id)
            if submission is None:
                raise StoreError(f"there is no submission {id}")
            note(connection, id, who, submission.state, submission.state, why)
            count_change(connection)
        self.changes += 1

    def replaced(self, id: str, measured: Measured, *, who: str) -> None:
        """Put what was computed again in the place of a submission's row; its state stays."""
        now = time.time()
        with self.writer.begin() as connection:
            submission = submission_of(connection, id)
            if submission is None:
                raise StoreError(f"there is no submission {id}")
            old = connection.execute(select(t.StoredRow.row).where(t.StoredRow.id == id)).scalar()
            level = orjson.loads(old).get("recheck", "none") if old else "none"
            row = measured.row.model_copy(update={"recheck": level, "team": submission.team})
            store_measured(connection, replace(measured, row=row), now)
            note(
                connection,
                id,
                who,
                submission.state,
                submission.state,
                "computed again from its logs",
            )
            count_change(connection)
        self.changes += 1

    # ---- looking

    def get(self, id: str) -> StoredSubmission:
        """One submission. StoreError when there is none."""
        with self.engine.connect() as connection:
            submission = submission_of(connection, id)
        if submission is None:
            raise StoreError(f"there is no submission {id}")
        return submission

    def find(
        self,
        *,
        states: Iterable[str] = (),
        team: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[StoredSubmission]:
        """Submissions, the newest first."""
        query = select(t.Submission).order_by(t.Submission.received.desc(), t.Submission.id)
        if chosen := list(states):
            query = query.where(t.Submission.state.in_(chosen))
        if team is not None:
            query = query.where(t.Submission.team == team)
        with self.engine.connect() as connection:
            lines = connection.execute(query.limit(limit).offset(offset)).mappings().all()
        return [stored_of(line) for line in lines]

    def place_in_line(self, submission: StoredSubmission) -> int:
        """How many submissions are checked before this one, as things are now."""
        with self.engine.connect() as connection:
            return queue.place_in_line(connection, submission.id, time.time())

    def checks(self) -> dict[str, tuple[int, float]]:
        """How many checks ended how, and their seconds together."""
        c = t.Check
        query = select(c.outcome, func.count(), func.sum(c.seconds)).group_by(c.outcome)
        with self.engine.connect() as connection:
            return {line[0]: (int(line[1]), float(line[2])) for line in connection.execute(query)}

    def counts(self) -> dict[str, int]:
        """How many submissions are in each state."""
        query = select(t.Submission.state, func.count()).group_by(t.Submission.state)
        with self.engine.connect() as connection:
            return {line[0]: line[1] for line in connection.execute(query)}

    def history(self, id: str) -> list[Change]:
        """The audit of one submission, the oldest first."""
        query = select(t.AuditLine).where(t.AuditLine.submission == id).order_by(t.AuditLine.id)
        with self.engine.connect() as connection:
            lines = connection.execute(query).mappings().all()
        return [Change(**{name: line[name] for name in Change.model_fields}) for line in lines]

    # ---- what is known of others

    def facts(self, benchmark: str) -> list[Facts]:
        """What every entry of a benchmark is compared by, the oldest first; not of refused ones.

        Of withdrawn ones, too: whoever read them may send them, and they were tries of their team.
        """
        s = t.Submission
        query = (
            select(t.StoredFacts.facts, s.state)
            .join(t.StoredFacts, t.StoredFacts.id == s.id)
            .where(s.benchmark == benchmark, s.state.in_(COMPARED))
            .order_by(s.received, s.id)
        )
        with self.engine.connect() as connection:
            return [
                Facts.model_validate_json(facts_json).model_copy(
                    update={"accepted": state == "accepted", "withdrawn": state == "withdrawn"}
                )
                for facts_json, state in connection.execute(query)
            ]

    def notices(self, id: str) -> list[Notice]:
        """What a reviewer should know of a submission."""
        query = select(t.StoredFacts.notices).where(t.StoredFacts.id == id)
        with self.engine.connect() as connection:
            notices_json = connection.execute(query).scalar()
        return [Notice(**notice) for notice in orjson.loads(notices_json or "[]")]

    def teams(self) -> list[str]:
        """The teams of all tokens and submissions."""
        with self.engine.connect() as connection:
            known = set(connection.execute(select(t.Submission.team).distinct()).scalars())
            known |= set(connection.execute(select(t.Token.team).distinct()).scalars())
        return sorted(known - {""})

    def pin(self, task: str, identity: str, *, who: str, why: str) -> None:
        """Pin the data of a task on this board; the audit keeps who and why."""
        now = time.time()
        with self.writer.begin() as connection:
            connection.execute(delete(t.Pin).where(t.Pin.task == task))
            values = {"task": task, "identity": identity, "at": now, "who": who[:200]}
            connection.execute(insert(t.Pin).values(**values))
            note(connection, "", who, "", "pinned", f"{task} {identity}: {why}")
            count_change(connection)
        self.changes += 1

    def pins(self) -> dict[str, str]:
        """The identities that were pinned on this board, by task."""
        with self.engine.connect() as connection:
            return {
                line[0]: line[1] for line in connection.execute(select(t.Pin.task, t.Pin.identity))
            }

    def revision(self) -> int:
        """A number that changes whenever the board does."""
        with self.engine.connect() as connection:
            return int(connection.execute(select(t.Revision.number)).scalar() or 0)

    def stamp(self) -> str:
        """What names the board's present content; empty in a database that never changed since."""
        with self.engine.connect() as connection:
            return str(connection.execute(select(t.Revision.stamp)).scalar() or "")

    def boards(self) -> list[Board]:
        """What has accepted rows, by name."""
        s = t.Submission
        keys = (s.benchmark, s.scale, s.track)
        query = (
            select(*keys, func.count().label("number"), func.max(s.changed).label("changed"))
            .where(s.state == "accepted")
            .group_by(*keys)
            .order_by(*keys)
        )
        with self.engine.connect() as connection:
            return [Board(**line) for line in connection.execute(query).mappings()]

    def accepted(self, benchmark: str, scale: str, track: str) -> dict[str, float]:
        """When the row of each accepted submission of a board last changed, by id."""
        s = t.Submission
        query = (
            select(s.id, t.StoredRow.changed)
            .join(t.StoredRow, t.StoredRow.id == s.id)
            .where(
                s.benchmark == benchmark,
                s.scale == scale,
                s.track == track,
                s.state == "accepted",
            )
        )
        with self.engine.connect() as connection:
            return {line[0]: line[1] for line in connection.execute(query)}

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The rows of these submissions."""
        rows = []
        with self.engine.connect() as connection:
            for start in range(0, len(ids), 500):
                query = select(t.StoredRow.row).where(t.StoredRow.id.in_(ids[start : start + 500]))
                for row_json in connection.execute(query).scalars():
                    try:
                        rows.append(Row.model_validate_json(row_json))
                    except ValidationError as error:  # one odd row may not take the others along
                        log.error("a row that cannot be read: %s", str(error)[:500])
        return rows

    def resamples(self, ids: Sequence[str], metric: str) -> dict[str, npt.NDArray[np.float32]]:
        """An aggregate on the resamples of these submissions' items, where they have questions."""
        drawn: dict[str, npt.NDArray[np.float32]] = {}
        d = t.Draw
        with self.engine.connect() as connection:
            for start in range(0, len(ids), 500):
                query = select(d.id, d.resamples).where(
                    d.metric == metric, d.id.in_(ids[start : start + 500])
                )
                for id_, data in connection.execute(query):
                    drawn[id_] = np.frombuffer(data, "<f4")
        return drawn

    def resamples_of(self, id: str) -> dict[str, npt.NDArray[np.float32]]:
        """Every aggregate of one submission on the resamples of its items."""
        query = select(t.Draw.metric, t.Draw.resamples).where(t.Draw.id == id)
        with self.engine.connect() as connection:
            return {name: np.frombuffer(data, "<f4") for name, data in connection.execute(query)}
