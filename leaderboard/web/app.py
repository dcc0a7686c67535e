"""The web service: a JSON API under /api/v1 and the pages, over one `Service`.

Nothing here decides what counts; it says who may ask, how much may be sent, and how an answer
looks. Errors are JSON with one sentence (`error`) and, for bundles, the list of faults.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leaderboard.board.boards import View
from leaderboard.board.formats import board_csv
from leaderboard.board.ranking import compare, seed_spread
from leaderboard.database.auth import (
    Token,
    create_token,
    list_tokens,
    revoke_token,
)
from leaderboard.database.store import Board, Change, Held, StoreError
from leaderboard.service.service import NotAllowed, Service
from leaderboard.submissions.faults import BundleError, Fault
from leaderboard.web.access import (
    HEADERS,
    PROBLEMS,
    SMALL_BODY,
    Asks,
    Caller,
    Id,
    Name,
    Rates,
    Refused,
    Serves,
    problem,
    save_upload,
    seen,
    tagged,
    take,
)
from pipelines.records import Frozen

UPLOADS = ("/api/v1/submissions", "/submit")


class Status(Frozen):
    """A submission and where it stands."""

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
    why: str = Field(max_length=2000)


class Withdraw(Frozen):
    why: str = Field("", max_length=2000)


class FormattedView(View):
    """A view of a board, and how it is written."""

    format: Literal["json", "csv"] = "json"


class NewToken(Frozen):
    name: str = Field(min_length=1, max_length=120)
    team: str = Field("", max_length=120)
    scopes: tuple[Literal["submit", "review", "admin"], ...] = Field(min_length=1, max_length=3)
    days: float = Field(365.0, gt=0, le=3650)


class Limited(Exception):
    """The body is longer than it may be."""


class BodyLimit:
    """Counts a request's body while it is read, and stops reading at its limit."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int) -> None:
        self.app = app
        self.upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.upload_bytes if scope["path"] in UPLOADS else SMALL_BODY
        told = dict(scope["headers"]).get(b"content-length", b"0")
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > most:
                    raise Limited
            return message

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if told.isdigit() and int(told) > most:
                raise Limited
            await self.app(scope, counted, noting)
        except Limited:
            if started:
                raise
            answer = problem(413, f"the body is longer than the {most:,} bytes it may have")
            answer.headers["connection"] = "close"
            await answer(scope, receive, send)


class SafeHeaders:
    """Puts the headers that keep a browser safe on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = {name.encode(): value.encode() for name, value in HEADERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                more = [(n, value) for n, value in self.headers.items() if n not in there]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def create_app(service: Service, *, rates: Rates | None = None, pages: bool = True) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="Leaderboard",
        version="1",
        description="Which data makes the better model? Submissions, boards, and what is behind.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = service
    app.state.rates = rates or Rates.usual()
    app.add_middleware(BodyLimit, upload_bytes=service.limits.bundle_bytes + SMALL_BODY)

    app.add_middleware(SafeHeaders)

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.include_router(_api())
    if pages:
        from leaderboard.web.pages import add_pages

        add_pages(app)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, str(error.detail), getattr(error, "faults", ()))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    if error.status_code == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return problem(422, "; ".join(told)[:2000])


# ---- who asks


def status_of(service: Service, held: Held) -> Status:
    waits = held.state == "received"
    return Status(
        **held.model_dump(include=set(Status.model_fields) & set(Held.model_fields)),
        before_it=service.store.place_in_line(held) if waits else None,
        history=tuple(service.store.history(held.id)),
        page=f"/submissions/{held.id}",
    )


# ---- uploads


# ---- the API


def _api() -> APIRouter:
    api = APIRouter(responses=PROBLEMS)

    @api.get("/healthz")
    def healthz(service: Serves) -> dict[str, Any]:
        """Whether the service can answer: its database is there and of the right version."""
        return {
            "status": "ok",
            "database": service.store.version(),
            "submissions": service.store.counts(),
        }

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
        try:
            held, new = await asyncio.to_thread(service.receive, path, token)
        except BundleError as error:
            raise Refused(error) from None
        except NotAllowed as error:
            raise HTTPException(403, str(error)) from None
        finally:
            path.unlink(missing_ok=True)
        response.status_code = 201 if new else 200
        return await asyncio.to_thread(status_of, service, held)

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
    ) -> list[Held]:
        """Submissions, the newest first: reviewers see all, teams their own, others accepted."""
        states, team = [state] if state else [], None
        if not asks.may("review"):
            if asks.token is not None and asks.may("submit"):
                team = asks.token.team
            elif state not in ("", "accepted"):
                raise HTTPException(403, "only accepted submissions are public")
            else:
                states = ["accepted"]
        found = service.store.find(states=states, team=team, limit=limit, offset=offset)
        return [one.model_copy(update={"token": ""}) for one in found]

    @api.get("/api/v1/submissions/{id}")
    def get_submission(id: Id, service: Serves, asks: Asks) -> Status:
        """Where a submission stands, what is wrong with it, and who decided what."""
        return status_of(service, seen(service, asks, id))

    @api.get("/api/v1/submissions/{id}/row")
    def get_row(id: Id, service: Serves, asks: Asks) -> dict[str, Any]:
        """What the check computed of a submission: scores, tasks, errors; with its rank."""
        held = seen(service, asks, id)
        row = service.library.row(id) or next(iter(service.store.rows([held.id])), None)
        if row is None:
            raise HTTPException(404, f"submission {id} has no scores: it is {held.state}")
        return row.model_dump(mode="json")

    @api.get("/api/v1/submissions/{id}/bundle", response_class=FileResponse)
    def get_bundle(id: Id, service: Serves, asks: Asks) -> Response:
        """The bundle as it was sent, to check again with `leaderboard check`."""
        held = seen(service, asks, id)
        if not held.bundle:
            raise HTTPException(404, f"submission {id} was imported; there is no bundle")
        return FileResponse(service.local(held), media_type="application/zip", filename=f"{id}.zip")

    @api.get("/api/v1/submissions/{id}/questions/{task}")
    def get_questions(
        id: Id,
        task: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,100}$")],
        service: Serves,
        asks: Asks,
        seed: Annotated[int | None, Query(ge=0, le=2**63)] = None,
        wrong: bool = False,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> dict[str, Any]:
        """Single questions of a task: what was asked and what the model answered."""
        from leaderboard.service.questions import page_of

        held = seen(service, asks, id)
        try:
            page = page_of(service, held, task, seed, wrong=wrong, limit=limit, offset=offset)
        except (FileNotFoundError, KeyError) as error:
            raise HTTPException(404, str(error.args[0])) from None
        return page.model_dump(mode="json")

    @api.post("/api/v1/submissions/{id}/withdraw")
    def withdraw(id: Id, body: Withdraw, service: Serves, asks: Asks) -> Status:
        """Take a submission of your own team back."""
        token = asks.need("submit")
        held = seen(service, asks, id)
        _no_cookie(asks)
        if held.team != token.team:
            raise HTTPException(403, "this is another team's submission")
        return status_of(service, _moved(service, id, "withdrawn", token, body.why))

    @api.post("/api/v1/submissions/{id}/review")
    def review(id: Id, body: Review, service: Serves, asks: Asks) -> Status:
        """Accept or refuse a submission."""
        token = asks.need("review")
        _no_cookie(asks)
        held = seen(service, asks, id)
        return status_of(service, _moved(service, held.id, body.decision, token, body.why))

    @api.get("/api/v1/boards")
    def get_boards(service: Serves) -> list[Board]:
        """The boards that have rows."""
        return service.library.boards()

    @api.get(
        "/api/v1/boards/{benchmark}/{scale}/{track}",
        responses={200: {"content": {"text/csv": {}, "application/json": {}}}},
    )
    def get_board(
        benchmark: Name,
        scale: Name,
        track: Name,
        view: Annotated[FormattedView, Query()],
        request: Request,
        service: Serves,
    ) -> Response:
        """A board: rows best first, filtered, sorted and paged; `next` is the next page."""
        try:
            page = service.library.page(benchmark, scale, track, view)
        except KeyError as error:
            raise HTTPException(404, str(error.args[0])) from None
        if view.format == "csv":
            return tagged(request, board_csv(page.rows).encode(), "text/csv; charset=utf-8")
        told = page.model_dump(mode="json")
        more = view.offset + view.limit < page.total
        told["next"] = (
            str(request.url.include_query_params(offset=view.offset + view.limit).query)
            if more
            else None
        )
        return tagged(request, orjson.dumps(told), "application/json")

    @api.get("/api/v1/compare")
    def get_compare(
        service: Serves,
        id: Annotated[list[Id], Query(min_length=2, max_length=4)],
        metric: Annotated[str, Query(max_length=100)] = "",
    ) -> list[dict[str, Any]]:
        """Two to four accepted submissions: the difference of each to the first, with intervals."""
        rows = []
        for one in id:
            row = service.library.row(one, metric)
            if row is None:
                raise HTTPException(404, f"there is no accepted submission {one}")
            rows.append(row)
        name = metric or rows[0].headline.metric
        if any(name not in row.figures for row in rows):
            raise HTTPException(404, f"not all of these have a metric {name!r}")
        draws = [service.library.resamples(row, name) for row in rows]
        spread = seed_spread(rows, name)
        found = []
        for row, values in zip(rows, draws, strict=True):
            first = row is rows[0]
            apart = None if first else compare(rows[0], row, name, draws[0], values, spread)
            told = row.model_dump(mode="json")
            found.append(
                {"row": told, "behind_first": apart.model_dump() if apart is not None else None}
            )
        return found

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

    return api


def _no_cookie(asks: Caller) -> None:
    if asks.session:
        raise HTTPException(403, "send a bearer token; the cookie is for the page's own forms")


def _moved(service: Service, id: str, after: Any, token: Token, why: str) -> Held:
    try:
        return service.store.move(id, after, who=token.shown, why=why, team=token.team)
    except StoreError as error:
        raise HTTPException(409, str(error)) from None


__all__ = ["create_app"]
