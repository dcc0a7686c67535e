"""The texts of the front page and of a submission's page."""

from __future__ import annotations

from leaderboard.board.boards import View
from leaderboard.database.store import Held
from leaderboard.service.evidence import CHECKED, read_evidence
from leaderboard.service.service import Service
from leaderboard.submissions.results import Row
from leaderboard.web import views
from leaderboard.web.access import Caller, by_role


def front_text(service: Service, link: views.Links) -> str:
    """The front page."""
    library = service.library
    best = View(limit=5)
    return views.front_page(
        [
            (one, library.page(one.benchmark, one.scale, one.track, best))
            for one in library.boards()
        ],
        link,
    )


def submission_text(
    service: Service,
    held: Held,
    link: views.Links,
    rival: str = "",
    *,
    inside: bool = False,
    may: dict[str, str] | None = None,
    asks: Caller = Caller(None),
) -> str:
    """A submission's page; with `inside`, for its team and for reviewers."""
    row: Row | None = None
    rivals: list[Row] = []
    ranked = held.state == "accepted"
    if ranked:
        row = service.library.row(held.id)
    if row is None:
        row = next(iter(service.store.rows([held.id])), None)
    if row is not None:
        key = (row.pool_id, row.suite, row.suite_version, row.data_id)
        rivals = [
            one
            for one in service.library.rows(row.benchmark, row.scale, row.track)
            if (one.pool_id, one.suite, one.suite_version, one.data_id) == key
        ][:50]
    other = next((one for one in rivals if one.submission_id == rival), None)
    evidence = read_evidence(service.files, held) if held.state in CHECKED else None
    return views.submission_page(
        row,
        held,
        evidence,
        rivals,
        other,
        link,
        changes=by_role(service.store.history(held.id), asks),
        before_it=service.store.place_in_line(held) if held.state == "received" else None,
        rank=ranked,
        notices=service.store.notices(held.id) if row is not None else (),
        may=may if inside else None,
    )
