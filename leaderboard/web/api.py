"""The JSON API under /api/v1, and what monitors ask. Who may ask is decided in `access`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from leaderboard.database.auth import Token, create_token, list_tokens, revoke_token
from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.database.states import Board, Change, StoredSubmission
from leaderboard.service.drill_down import AskedQuestions, page_of
from leaderboard.service.service import NotAllowed, Service
from leaderboard.submissions.faults import BundleError, Fault
from leaderboard.web.access import (
    PROBLEMS,
    Asks,
    Caller,
    Id,
    Name,
    Refused,
    Serves,
    Words,
    by_role,
    save_upload,
    seen,
    take,
)
from leaderboard.web.answers import JSON, Answers, public
from leaderboard.web.guard import Metrics
from leaderboard.web.json_texts import FormattedView, board_as, compared_json, row_json
from leaderboard.web.makers import Make
from pipelines.records import Frozen

api = APIRouter(responses=PROBLEMS)
MOST_COMPARED = 5  # rows side by side: what a screen shows


class Status(Frozen):
    """A submission and its state."""

    id: str
    kind: str
    team: str
    benchmark: str
    scale: str
    track: str
    method: str
    state: str
    received: float
    changed: float
    before_it: int | None = Field(None, description="while it waits: how many are checked first")
    faults: tuple[Fault, ...]
    history: tuple[Change, ...]
    bundle_sha256: str
    page: str


class Review(Frozen):
    """A maintainer's decision."""

    decision: Literal["accepted", "refused"]
    why: Words


class Withdraw(Frozen):
    why: Words = ""


class NewToken(Frozen):
    name: str = Field(min_length=1, max_length=120)
    team: str = Field("", max_length=120)
    scopes: tuple[Literal["submit", "review", "admin"], ...] = Field(min_length=1, max_length=3)
    days: float = Field(365.0, gt=0, le=3650)


def status_of(service: Service, submission: StoredSubmission, asks: Caller) -> Status:
    """A submission as its caller may see it."""
    waits = submission.state == "received"
    return Status(
        **submission.model_dump(
            include=set(Status.model_fields) & set(StoredSubmission.model_fields)
        ),
        before_it=service.store.place_in_line(submission) if waits else None,
        history=by_role(service.store.history(submission.id), asks),
        page=f"/submissions/{submission.id}",
    )


# ---- for monitors


@api.get("/livez", include_in_schema=False)
async def livez() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@api.get("/healthz", responses={503: {"description": "the database is down"}})
def healthz(service: Serves) -> Response:
    """Whether the service can answer: its database is there and of the right version."""
    return _health(service)


@api.get("/readyz", responses={503: {"description": "not yet, or not now"}})
def readyz(request: Request, service: Serves) -> Response:
    """Whether requests should be sent here: it can answer, and large boards are in order.

    After a start, ordering ten thousand rows by each of their metrics takes some seconds.
    """
    answers: Answers = request.app.state.answers
    answer = _health(service)
    if answer.status_code == 200 and not answers.maker.ready():
        return JSONResponse({"status": "boards are being prepared"}, 503, {"retry-after": "1"})
    return answer


def _health(service: Service) -> Response:
    try:
        content: dict[str, Any] = {
            "status": "ok",
            "database": service.store.version(),
            "submissions": service.store.counts(),
        }
        _touch_files(service)
    except (*DATABASE_DOWN, StoreError):
        return JSONResponse({"status": "the database is down"}, 503, {"retry-after": "5"})
    except OSError:
        return JSONResponse({"status": "the files cannot be read"}, 503, {"retry-after": "5"})
    return JSONResponse(content)


def _touch_files(service: Service) -> None:
    """OSError where the place of the bundles is not there. It may not list: there are very many."""
    home = service.files.local_path("shown/none")
    if home is None:
        service.files.exists("shown/none")
    else:
        home.parents[1].stat()


@api.get("/metrics", include_in_schema=False)
def metrics(request: Request, service: Serves, asks: Asks) -> Response:
    """For Prometheus: to an admin's token, or on this machine where no proxy is between."""
    near = request.client is not None and request.client.host in ("127.0.0.1", "::1", "testclient")
    if not near or "x-forwarded-for" in request.headers:
        asks.need("admin")
    measured: Metrics = request.app.state.metrics
    lines = list(measured.lines())
    lines.append("# TYPE leaderboard_submissions gauge")
    for state, number in sorted(service.store.counts().items()):
        lines.append(f'leaderboard_submissions{{state="{state}"}} {number}')
    lines.append("# TYPE leaderboard_checks_total counter")
    for outcome, (number, _) in sorted(service.store.checks().items()):
        lines.append(f'leaderboard_checks_total{{outcome="{outcome}"}} {number}')
    lines.append("# TYPE leaderboard_check_seconds_total counter")
    for outcome, (_, seconds) in sorted(service.store.checks().items()):
        lines.append(f'leaderboard_check_seconds_total{{outcome="{outcome}"}} {seconds:.3f}')
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


# ---- submissions


@api.post(
    "/api/v1/submissions",
    status_code=201,
    responses={200: {"model": Status, "description": "it was here already"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def post_submission(
    request: Request, response: Response, service: Serves, asks: Asks
) -> Status:
    """Send a bundle (a zip, as `dclm submit` writes it). It is checked after it was taken in.

    The same bundle sent twice is one submission.
    """
    token = take(request, asks)
    if asks.session:
        raise HTTPException(403, "send a bearer token; the cookie is for the page")
    path = await save_upload(request, service.scratch)
    loop = asyncio.get_running_loop()
    try:
        submission, new = await loop.run_in_executor(
            request.app.state.uploads, service.receive, path, token
        )
    except BundleError as error:
        raise Refused(error) from None
    except NotAllowed as error:
        raise HTTPException(403, str(error)) from None
    finally:
        path.unlink(missing_ok=True)
    response.status_code = 201 if new else 200
    return await asyncio.to_thread(status_of, service, submission, asks)


@api.get("/api/v1/submissions")
def get_submissions(
    service: Serves,
    asks: Asks,
    state: Annotated[
        Literal["", "received", "checking", "needs_review", "accepted", "refused", "withdrawn"],
        Query(description="only of this state"),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> list[StoredSubmission]:
    """Submissions, the newest first: reviewers see all, teams their own, others accepted."""
    states, team = [state] if state else [], None
    if not asks.may("review"):
        if asks.token is not None and asks.may("submit"):
            team = asks.token.team
        elif state not in ("", "accepted"):
            raise HTTPException(403, "only accepted submissions are public")
        else:
            states = ["accepted"]
    submissions = service.store.find(states=states, team=team, limit=limit, offset=offset)
    return [submission.model_copy(update={"token": ""}) for submission in submissions]


@api.get("/api/v1/submissions/{id}")
def get_submission(id: Id, service: Serves, asks: Asks) -> Status:
    """The state of a submission, what is wrong with it, and who decided what."""
    return status_of(service, seen(service, asks, id), asks)


@api.get("/api/v1/submissions/{id}/row")
async def get_row(id: Id, request: Request, service: Serves, asks: Asks) -> Response:
    """What the check computed of a submission: scores, tasks, errors; with its rank."""
    submission = await asyncio.to_thread(seen, service, asks, id)
    return await _made(request, partial(row_json, submission=submission))


@api.get("/api/v1/submissions/{id}/bundle", response_class=FileResponse)
def get_bundle(id: Id, service: Serves, asks: Asks) -> Response:
    """The bundle as it was sent, to check again with `leaderboard check`."""
    submission = seen(service, asks, id)
    if not submission.bundle:
        raise HTTPException(404, f"submission {id} was imported; there is no bundle")
    return FileResponse(
        service.local(submission), media_type="application/zip", filename=f"{id}.zip"
    )


@api.get("/api/v1/submissions/{id}/questions/{task}")
def get_questions(
    id: Id,
    task: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,100}$")],
    service: Serves,
    asks: Asks,
    chosen: Annotated[AskedQuestions, Query()],
) -> dict[str, Any]:
    """Single questions of a task: what was asked, what the model answered, and what a rival did."""
    submission = seen(service, asks, id)
    rival = seen(service, asks, chosen.rival) if chosen.rival else None
    try:
        page = page_of(service.files, submission, chosen.asked(task), rival=rival)
    except (FileNotFoundError, KeyError) as error:
        raise HTTPException(404, str(error.args[0])) from None
    return page.model_dump(mode="json")


@api.post("/api/v1/submissions/{id}/withdraw")
def withdraw(id: Id, body: Withdraw, service: Serves, asks: Asks) -> Status:
    """Take a submission of your own team back."""
    token = asks.need("submit")
    submission = seen(service, asks, id)
    _no_cookie(asks)
    if submission.team != token.team:
        raise HTTPException(403, "this is another team's submission")
    return status_of(service, _moved(service, id, "withdrawn", token, body.why), asks)


@api.post("/api/v1/submissions/{id}/review")
def review(id: Id, body: Review, service: Serves, asks: Asks) -> Status:
    """Accept or refuse a submission."""
    token = asks.need("review")
    _no_cookie(asks)
    submission = seen(service, asks, id)
    return status_of(service, _moved(service, submission.id, body.decision, token, body.why), asks)


@api.get("/api/v1/boards")
def get_boards(service: Serves) -> list[Board]:
    """The boards that have rows."""
    return service.library.boards()


@api.get(
    "/api/v1/boards/{benchmark}/{scale}/{track}",
    responses={200: {"content": {"text/csv": {}, "application/json": {}}}},
)
async def get_board(
    benchmark: Name,
    scale: Name,
    track: Name,
    view: Annotated[FormattedView, Query()],
    request: Request,
    service: Serves,
) -> Response:
    """A board: rows best first, filtered, sorted and paged; `next` is the next page.

    As CSV it is every row of the view, whatever `limit` and `offset` say.
    """
    key = ("board", view.format, benchmark, scale, track, *sorted(view.model_dump().items()))
    name = f"{benchmark}-{scale}-{track}.csv" if view.format == "csv" else ""
    return await public(
        request,
        service,
        key,
        partial(board_as, board=(benchmark, scale, track), view=view),
        media_type="text/csv; charset=utf-8" if view.format == "csv" else JSON,
        free=view.free,
        name=name,
    )


@api.get("/api/v1/compare")
async def get_compare(
    request: Request,
    id: Annotated[list[Id], Query(min_length=2, max_length=MOST_COMPARED)],
    metric: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """Two to five accepted submissions: the difference of each to the first, with intervals."""
    return await _made(request, partial(compared_json, ids=tuple(id), metric=metric))


async def _made(request: Request, make: Make) -> Response:
    try:
        page = await request.app.state.answers.made(make)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None
    return Response(page.body, media_type=JSON)


@api.get("/api/v1/tokens")
def get_tokens(service: Serves, asks: Asks) -> list[Token]:
    """All tokens, without their secrets."""
    asks.need("admin")
    return list_tokens(service.store)


@api.post("/api/v1/tokens", status_code=201)
def post_token(body: NewToken, service: Serves, asks: Asks) -> dict[str, Any]:
    """Make a token. Its secret is in this answer and nowhere else."""
    asks.need("admin")
    _no_cookie(asks)
    try:
        token, secret = create_token(
            service.store, body.name, scopes=body.scopes, team=body.team, days=body.days
        )
    except StoreError as error:
        raise HTTPException(422, str(error)) from None
    return {"token": token.model_dump(), "secret": secret}


@api.delete("/api/v1/tokens/{id}", status_code=204)
def delete_token(
    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")], service: Serves, asks: Asks
) -> None:
    """Revoke a token."""
    asks.need("admin")
    _no_cookie(asks)
    try:
        revoke_token(service.store, id)
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def _no_cookie(asks: Caller) -> None:
    if asks.session:
        raise HTTPException(403, "send a bearer token; the cookie is for the page's own forms")


def _moved(service: Service, id: str, after: Any, token: Token, why: str) -> StoredSubmission:
    try:
        return service.store.move(id, after, who=token.shown, why=why, team=token.team)
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
