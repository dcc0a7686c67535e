"""The web service over one `Service`: the API, the pages, and what runs before them.

Nothing here decides what counts; it says who may ask, how much may be sent, and how an answer
looks. Errors are JSON with one sentence (`error`) for programs, and pages for browsers.
"""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from leaderboard.database.connection import DATABASE_DOWN
from leaderboard.service.reader import READERS
from leaderboard.service.service import Service
from leaderboard.web.access import SMALL_BODY, Rates, problem
from leaderboard.web.answers import Answers
from leaderboard.web.api import api
from leaderboard.web.forms import forms
from leaderboard.web.guard import (
    CHUNK_SECONDS,
    MAX_REQUESTS,
    BodyLimit,
    Metrics,
    Observed,
    error_answer,
    for_program,
)
from leaderboard.web.makers import Maker, ThreadMaker
from leaderboard.web.pages import pages as page_routes
from leaderboard.web.shelf import Shelf


def create_app(
    service: Service,
    *,
    rates: Rates | None = None,
    pages: bool = True,
    hosts: tuple[str, ...] = (),
    public_url: str = "",
    most_requests: int = MAX_REQUESTS,
    body_seconds: float = CHUNK_SECONDS,
    maker: Maker | None = None,
    shelf: Shelf | None = None,
    stale_seconds: float = 0.0,
) -> FastAPI:
    """The application. `hosts`: the names it is served under; empty: any.

    `maker` makes the pages; by default threads of this process. With a `shelf` they outlive it.
    """
    app = FastAPI(
        title="Leaderboard",
        version="1",
        description="Which data makes the better model? Submissions, boards, and their evidence.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # a redirect would repeat whatever Host the caller sent
    )
    app.state.service = service
    app.state.rates = rates or Rates.usual()
    app.state.metrics = Metrics()
    app.state.answers = Answers(
        maker or ThreadMaker(service), shelf=shelf, stale_seconds=stale_seconds
    )
    app.state.uploads = ThreadPoolExecutor(READERS + 1, "upload")
    app.state.public_url = public_url.rstrip("/")
    limit = service.limits.bundle_bytes + SMALL_BODY
    app.add_middleware(BodyLimit, upload_bytes=limit, seconds=body_seconds)
    app.add_middleware(Observed, metrics=app.state.metrics, hosts=hosts, most=most_requests)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    for kind in DATABASE_DOWN:
        app.add_exception_handler(kind, _database_down)
    app.add_exception_handler(OSError, _no_space)
    app.add_exception_handler(Exception, _our_error)
    app.include_router(api)
    if pages:
        app.include_router(page_routes)
        app.include_router(forms)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if for_program(path):
        answer = problem(error.status_code, str(error.detail), getattr(error, "faults", ()))
    else:
        answer = error_answer(path, error.status_code, str(error.detail))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    if error.status_code == 401 and for_program(path):
        answer.headers["www-authenticate"] = "Bearer"
    return answer


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    path = request.url.path
    if all(error["loc"][:1] == ("path",) for error in faults):
        return error_answer(path, 404, "there is nothing of this name")
    messages = [f"{'.'.join(map(str, error['loc'][1:]))}: {error['msg']}" for error in faults]
    return error_answer(path, 422, "; ".join(messages)[:2000])


async def _database_down(request: Request, error: Exception) -> Response:
    text = "the database does not answer; try again in a few seconds"
    answer = error_answer(request.url.path, 503, text)
    answer.headers["retry-after"] = "5"
    return answer


async def _no_space(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return error_answer(request.url.path, 507, "there is no space left here; nothing was kept")


async def _our_error(request: Request, error: Exception) -> Response:
    text = "something went wrong here; it is in our log"
    return error_answer(request.url.path, 500, text)


__all__ = ["create_app"]
