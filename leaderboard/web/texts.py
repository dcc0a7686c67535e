"""The texts of the pages that a service shows: functions of it that can be pickled.

They run wherever pages are made (`leaderboard.web.makers`). KeyError for what is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leaderboard.board.boards import MAX_LIMIT, Library, View
from leaderboard.board.describe import verdict_in_short
from leaderboard.database.states import Board, StoredSubmission
from leaderboard.service.comparison import across_scales, scale_lines
from leaderboard.service.drill_down import Asked, page_of
from leaderboard.service.evidence import CHECKED, read_evidence
from leaderboard.service.nearest import read_nearest
from leaderboard.service.over_budgets import over_budgets
from leaderboard.service.service import Service
from leaderboard.service.side_by_side import side_by_side
from leaderboard.service.speedruns import speedruns
from leaderboard.service.training_curves import crossings, race
from leaderboard.submissions.results import Row
from leaderboard.web import views
from leaderboard.web.access import Caller, by_role
from leaderboard.web.deciding_views import crossings_page, speedruns_page
from leaderboard.web.links import Links
from leaderboard.web.question_view import nearest_command
from pipelines import installed

BoardKey = tuple[str, str, str]
MOST_FOUND = 100  # rows of a search that are shown
MOST_RIVALS = 50  # rows that can be chosen to be shown beside a submission


def front_text(service: Service, link: Links) -> str:
    """The front page."""
    boards: dict[str, list[Board]] = {}
    for board in service.library.boards():
        boards.setdefault(board.benchmark, []).append(board)
    for name in sorted(installed.packages()):
        boards.setdefault(name, [])
    return views.front_page(
        [_summary(service.library, name, own) for name, own in boards.items()], link
    )


def _summary(library: Library, name: str, boards: Sequence[Board]) -> dict[str, Any]:
    """What the front page says of one benchmark."""
    ranked: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    answer: dict[str, Any] | None = None
    for board in boards:
        page = library.page(board.benchmark, board.scale, board.track, View(limit=MAX_LIMIT))
        if not page.rows:
            continue
        leader = page.rows[0]
        line = {
            "board": board,
            "leader": leader,
            "entries": page.total,
            "changed": max((row.date for row in page.rows), default=""),
        }
        is_ranked = leader.ranked and board.track == "filtering"
        (ranked if is_ranked and views.is_scale(name, board.scale) else others).append(line)
        if line in ranked:
            # Of the largest scale that ranks.
            answer = {"scale": board.scale, "leader": leader, "text": verdict_in_short(page.rows)}
    across = scale_lines(library, name)
    parts = [("Ranked scales", ranked), ("Other boards: proxies, open scales, models", others)]
    return {
        "name": name,
        "installed": name in installed.packages(),
        "title": views.benchmark_title(name),
        "question": views.question_of(name),
        "answer": answer,
        "parts": [
            {
                "caption": caption,
                "lines": lines,
                "dated": any(line["changed"] for line in lines),
            }
            for caption, lines in parts
            if lines
        ],
        "plot": across.plot(),
        "plot_caption": (
            f"{across.metric.replace('_', ' ')} of the methods that are at most scales."
        ),
    }


def search_text(service: Service, q: str, link: Links) -> str:
    """The rows of all boards with these letters in the name of method or team, the newest first."""
    rows: list[Row] = []
    total = 0
    if q.strip():
        for board in service.library.boards():
            view = View(q=q, limit=MOST_FOUND)
            page = service.library.page(board.benchmark, board.scale, board.track, view)
            rows += page.rows
            total += page.total
    rows.sort(key=lambda row: (row.date, row.submission_id), reverse=True)
    return views.search_page(q, rows[:MOST_FOUND], total, link)


def board_text(service: Service, board: BoardKey, view: View, link: Links) -> str:
    """One board."""
    return views.board_page(service.library.page(*board, view), view, link)


def plots_text(service: Service, board: BoardKey, view: View, link: Links) -> str:
    """The plots of one board."""
    wide = view.model_copy(update={"limit": 500, "offset": 0})
    page = service.library.page(*board, wide)
    headline = page.metrics[0] if page.metrics else ""
    racing = race(service, page.rows) if page.rows and page.metric == headline else None
    return views.plots_page(page, view, link, race=racing)


def scales_text(service: Service, benchmark: str, track: str, metric: str, link: Links) -> str:
    """The methods of a benchmark over its scales."""
    comparison = across_scales(service.library, benchmark, track=track, metric=metric)
    return views.scales_page(benchmark, comparison, link)


def speedruns_text(service: Service, benchmark: str, link: Links) -> str:
    """The speedruns of a benchmark's scales."""
    return speedruns_page(benchmark, speedruns(service, benchmark), link)


def crossings_text(
    service: Service, benchmark: str, track: str, metric: str, names: Sequence[str], link: Links
) -> str:
    """Some methods of a benchmark over the budgets of its scales."""
    curves = over_budgets(service.library, benchmark, track=track, metric=metric, names=names)
    return crossings_page(benchmark, curves, names, track, link)


def help_text(service: Service, topic: str, link: Links) -> str:
    """What the words on the pages mean."""
    del service  # it is the same on every board
    return views.help_page(topic, link)


def method_text(service: Service, benchmark: str, name: str, team: str, link: Links) -> str:
    """Every accepted row of a method of a benchmark, over its boards."""
    boards = [board for board in service.library.boards() if board.benchmark == benchmark]
    rows = [
        row
        for board in boards
        for row in service.library.rows(board.benchmark, board.scale, board.track)
        if row.method == name and (not team or row.team == team)
    ]
    if not rows:
        raise KeyError(f"no accepted row of {benchmark} has the method {name!r}")
    return views.method_page(rows, name, team, benchmark, link)


def team_text(service: Service, name: str, link: Links) -> str:
    """Every accepted row of a team."""
    rows = [
        row
        for board in service.library.boards()
        for row in service.library.rows(board.benchmark, board.scale, board.track)
        if name and row.team == name
    ]
    if not rows:
        raise KeyError(f"no accepted row is of the team {name!r}")
    return views.team_page(rows, name, link)


def compare_text(service: Service, ids: Sequence[str], reference: str, link: Links) -> str:
    """Rows side by side; the differences are to `reference`, or to the first."""
    chosen = list(dict.fromkeys(ids))
    rows = []
    for id_ in sorted(chosen, key=lambda name: name != reference):
        row = service.library.row(id_)
        if row is None:
            raise KeyError(f"there is no accepted submission {id_}")
        rows.append(row)
    return compared_text(service, rows, chosen, link)


def compared_text(service: Service, rows: Sequence[Row], chosen: Sequence[str], link: Links) -> str:
    """Rows side by side, the first of them the reference."""
    compared = side_by_side(service, rows) if len(rows) > 1 else None
    curves = None
    if compared is not None and not compared.apart:
        curves = crossings(service, rows)
    return views.compare_page(rows, chosen, compared, link, curves=curves)


def submission_text(
    service: Service,
    submission: StoredSubmission,
    link: Links,
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
        rivals = service.library.peers(row)[:MOST_RIVALS]
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
        asks=asks if inside else None,
    )


def question_text(
    service: Service,
    submission: StoredSubmission,
    asked: Asked,
    rival: StoredSubmission | None,
    link: Links,
) -> str:
    """A page of single questions. KeyError for what is not there."""
    page = page_of(service.files, submission, asked, rival=rival)
    row = service.library.row(submission.id)
    rivals: list[Row] = []
    near = ""
    if row is not None:
        rivals = service.library.submitted_peers(row, MOST_RIVALS)
        if rival is not None and rival.id not in [other.submission_id for other in rivals]:
            ranked_rival = service.library.row(rival.id)
            rivals += [ranked_rival] if ranked_rival is not None else []
        evidence = read_evidence(service.files, submission)
        near = nearest_command(row, evidence, submission) if evidence is not None else ""
    documents = read_nearest(service.files, submission, asked.task)
    return views.question_page(submission, page, rivals, near, link, documents=documents)
