"""Who may ask: tokens, cookies, rate limits and uploads."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException

from leaderboard.database.auth import Rate, Token, find_session, find_token, form_key
from leaderboard.database.connection import StoreError
from leaderboard.database.states import RULE_BOOK, Change, StoredSubmission
from leaderboard.service.service import Service
from leaderboard.submissions.faults import BundleError, Fault
from pipelines.records import Frozen

COOKIE = "leaderboard"


SMALL_BODY = 64 << 10  # bytes of a form or of JSON; only bundles are larger


HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="of a submission")]


Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]


def _printable(text: str) -> str:
    if any(ord(letter) < 32 and letter not in "\n\r\t" for letter in text):
        raise ValueError("a text without control characters")
    return text


Words = Annotated[str, Field(max_length=2000), AfterValidator(_printable)]
"""A reason that somebody writes down."""


class Problem(Frozen):
    """An error."""

    error: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Who asks. `session` is set when it was the page's cookie that said so."""

    token: Token | None
    session: str = ""

    def may(self, scope: str) -> bool:
        return self.token is not None and self.token.may(scope)

    def may_see(self, submission: StoredSubmission) -> bool:
        """Accepted ones are public; others are seen by their team and by reviewers."""
        if submission.state == "accepted" or self.may("review"):
            return True
        return self.token is not None and self.may("submit") and self.token.team == submission.team

    def need(self, scope: str) -> Token:
        """The token, if it has this scope."""
        if self.token is None:
            raise HTTPException(401, "send a token: `Authorization: Bearer ...`")
        if not self.token.may(scope):
            raise HTTPException(
                403, f"this token may not {scope}; its scopes are {', '.join(self.token.scopes)}"
            )
        return self.token


def problem(status: int, text: str, faults: tuple[Fault, ...] = ()) -> Response:
    """An error as JSON."""
    content = Problem(error=text, faults=faults).model_dump(mode="json")
    return JSONResponse(content, status_code=status, headers=dict(HEADERS))


@dataclass
class Rates:
    """How often what may be done in this process, by token or by address."""

    uploads: Rate
    failures: Rate

    @classmethod
    def usual(cls, uploads_per_hour: int = 60) -> Rates:
        return cls(Rate(uploads_per_hour, 3600.0), Rate(30, 60.0))


async def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


BEARER = HTTPBearer(
    auto_error=False, description="A token that a maintainer made (`leaderboard token create`)."
)
"""Reads the header, and declares the scheme in openapi.json; what is missing is nobody's error."""


def caller(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Caller:
    """Who asks, by bearer token or by the page's cookie. 401 for a token that is not known."""
    service, rates = request.app.state.service, request.app.state.rates
    if bearer is not None or request.headers.get("authorization"):
        token = find_token(service.store, bearer.credentials) if bearer is not None else None
        if token is None:
            failed(request, rates)
            raise HTTPException(401, "this token is unknown, revoked or expired")
        return Caller(token)
    session = request.cookies.get(COOKIE, "")
    if session:
        return Caller(find_session(service.store, session), session)
    return Caller(None)


def failed(request: Request, rates: Rates) -> None:
    """Count a failed login against the address. 429 when there were too many."""
    wait = rates.failures.wait(request.client.host if request.client else "?")
    if wait:
        raise HTTPException(
            429, "too many failed logins; wait a minute", {"retry-after": str(int(wait) + 1)}
        )


def key_checked(request: Request, asks: Caller, key: str) -> None:
    """A form of the page carries its session's key, so that no other site can send it."""
    if not asks.session or key != form_key(asks.session):
        raise HTTPException(403, "your session expired; load the page again and repeat it")


Asks = Annotated[Caller, Depends(caller)]


Serves = Annotated[Service, Depends(service_of)]


def seen(service: Service, asks: Caller, id: str) -> StoredSubmission:
    """A submission, if the caller may know of it. 404 otherwise, as for one that is not there."""
    try:
        submission = service.store.get(id)
    except StoreError as error:
        raise HTTPException(404, str(error)) from None
    if not asks.may_see(submission):
        was = _taken_off(service, submission)
        if was:
            raise HTTPException(410, was)
        raise HTTPException(404, f"there is no submission {id}")
    return submission


def _taken_off(service: Service, submission: StoredSubmission) -> str:
    """What to say of a submission that was on the board once; empty when it never was."""
    if submission.state not in ("refused", "withdrawn"):
        return ""
    changes = service.store.history(submission.id)
    if not any(change.after == "accepted" for change in changes):
        return ""
    who = "its team" if submission.state == "withdrawn" else "a maintainer"
    day = datetime.fromtimestamp(submission.changed, UTC).strftime("%Y-%m-%d")
    return f"submission {submission.id} was on the board and was taken off by {who} on {day}"


async def save_upload(request: Request, folder: Path) -> Path:
    """Write a request's body to a file while it comes in."""
    number, name = tempfile.mkstemp(dir=folder, prefix="upload-", suffix=".zip")
    path = Path(name)
    try:
        with os.fdopen(number, "wb") as target:
            async for chunk in request.stream():
                await asyncio.to_thread(target.write, chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def take(request: Request, asks: Caller) -> Token:
    """The token of somebody who may upload now. 401, 403 or 429 otherwise."""
    token = asks.need("submit")
    wait = request.app.state.rates.uploads.wait(token.id)
    if wait:
        raise HTTPException(
            429,
            f"this token has sent too many submissions; wait {int(wait) + 1} seconds",
            {"retry-after": str(int(wait) + 1)},
        )
    return token


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 413, 422, 429)
}


class Refused(HTTPException):
    """A bundle that could not be taken in."""

    def __init__(self, error: BundleError) -> None:
        super().__init__(422, str(error))
        self.faults = error.faults


def by_role(changes: Sequence[Change], asks: Caller) -> tuple[Change, ...]:
    """A history with roles for names; reviewers see who it was."""
    if asks.may("review"):
        return tuple(changes)
    return tuple(change.model_copy(update={"who": role_of(change.who)}) for change in changes)


def role_of(who: str) -> str:
    """What the audit's name of somebody says to everybody."""
    if who.startswith("token "):
        return "the team"
    if who == RULE_BOOK:
        return who
    kind = who.split(" ")[0]
    known = {"check": "a check", "service": "the service", "import": "an import"}
    if kind in known:
        return known[kind]
    return "the team" if who.startswith("team ") else "a maintainer"
