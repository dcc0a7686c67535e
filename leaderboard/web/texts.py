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
            (board, library.page(board.benchmark, board.scale, board.track, best))
            for board in library.boards()
        ],
        link,
    )


def submission_text(
    service: Service,
    submission: Held,
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
    ranked = submission.state == "accepted"
    if ranked:
        row = service.library.row(submission.id)
    if row is None:
        row = next(iter(service.store.rows([submission.id])), None)
    if row is not None:
        key = (row.pool_id, row.suite, row.suite_version, row.data_id)
        rivals = [
            other_row
            for other_row in service.library.rows(row.benchmark, row.scale, row.track)
            if (other_row.pool_id, other_row.suite, other_row.suite_version, other_row.data_id)
            == key
        ][:50]
    other = next((other_row for other_row in rivals if other_row.submission_id == rival), None)
    evidence = read_evidence(service.files, submission) if submission.state in CHECKED else None
    return views.submission_page(
        row,
        submission,
        evidence,
        rivals,
        other,
        link,
        changes=by_role(service.store.history(submission.id), asks),
        before_it=service.store.place_in_line(submission)
        if submission.state == "received"
        else None,
        rank=ranked,
        notices=service.store.notices(submission.id) if row is not None else (),
        may=may if inside else None,
    )
