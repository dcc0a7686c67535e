"""The routes of the forms: log in, submit, review. They work only with a token."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from leaderboard.database import people
from leaderboard.database.auth import (
    SESSION_SECONDS,
    close_session,
    find_token,
    form_key,
    open_session,
)
from leaderboard.database.connection import StoreError
from leaderboard.database.states import StoredSubmission
from leaderboard.service.service import NotAllowed, Service
from leaderboard.submissions.faults import BundleError
from leaderboard.web import views
from leaderboard.web.access import (
    COOKIE,
    Asks,
    Caller,
    Id,
    Serves,
    Words,
    failed,
    key_checked,
    seen,
    take,
)
from leaderboard.web.answers import private
from leaderboard.web.links import LINKS

LOGIN = "/login?next="

forms = APIRouter(include_in_schema=False)


@forms.get("/login", response_class=HTMLResponse)
def login_form(next: Annotated[str, Query(max_length=200)] = "/submit") -> Response:
    return private(views.form_page("login.html", LINKS, next=next, message=""))


@forms.post("/login", response_class=HTMLResponse)
def login(
    request: Request,
    service: Serves,
    token: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=200)] = "/submit",
) -> Response:
    known_token = find_token(service.store, token.strip())
    if known_token is None:
        failed(request, request.app.state.rates)
        message = "This token is unknown, revoked or expired."
        return private(views.form_page("login.html", LINKS, next=next, message=message), 401)
    local = next.startswith("/") and not next.startswith(("//", "/\\"))
    answer = RedirectResponse(next if local else "/submit", status_code=303)
    answer.set_cookie(
        COOKIE,
        open_session(service.store, known_token),
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@forms.post("/logout", response_class=HTMLResponse)
def logout(
    request: Request, service: Serves, asks: Asks, key: Annotated[str, Form(max_length=64)]
) -> Response:
    key_checked(request, asks, key)
    close_session(service.store, asks.session)
    answer = RedirectResponse("/", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@forms.get("/submit", response_class=HTMLResponse)
def submit_form(service: Serves, asks: Asks) -> Response:
    return private(_submit_text(service, asks))


@forms.post("/submit", response_class=HTMLResponse)
async def submit(request: Request, service: Serves, asks: Asks) -> Response:
    if not asks.session:
        raise HTTPException(401, "log in with a token that may submit")
    token = take(request, asks)
    form = await request.form(max_files=1, max_fields=2)
    try:
        key_checked(request, asks, str(form.get("key", "")))
        sent = form.get("bundle")
        if not isinstance(sent, UploadFile):
            return private(_submit_text(service, asks, message="Choose a bundle."), 422)
        path = await asyncio.to_thread(_spool, sent, service.scratch)
    finally:
        await form.close()
    try:
        received, _ = await asyncio.get_running_loop().run_in_executor(
            request.app.state.uploads, service.receive, path, token
        )
    except BundleError as error:
        message = "The bundle is refused; nothing was kept."
        return private(_submit_text(service, asks, message=message, faults=error.faults), 422)
    except NotAllowed as error:
        return private(_submit_text(service, asks, message=str(error)), 403)
    finally:
        path.unlink(missing_ok=True)
    return RedirectResponse(f"/submissions/{received.id}", status_code=303)


@forms.get("/review", response_class=HTMLResponse)
def review(service: Serves, asks: Asks) -> Response:
    if not asks.may("review"):
        return RedirectResponse(f"{LOGIN}/review", status_code=303)
    lists = [
        ("Needs review", service.store.find(states=["needs_review"])),
        ("Waiting for a check", service.store.find(states=["received", "checking"])),
        (
            "Decided",
            [
                submission
                for submission in service.store.find(
                    states=["refused", "withdrawn", "accepted"], limit=200
                )
                if submission.kind == "submission"
            ][:50],
        ),
    ]
    waiting = lists[0][1]
    rows = service.store.rows([submission.id for submission in waiting])
    text = views.form_page(
        "review.html",
        LINKS,
        asks=asks,
        lists=lists,
        counts=service.store.counts(),
        scores={row.submission_id: f"{row.headline.value:.4f}" for row in rows},
        notices={
            submission.id: len(service.store.notices(submission.id)) for submission in waiting
        },
        key=form_key(asks.session),
    )
    return private(text)


@forms.post("/submissions/{id}", response_class=HTMLResponse)
def decide(
    id: Id,
    request: Request,
    service: Serves,
    asks: Asks,
    key: Annotated[str, Form(max_length=64)],
    decision: Annotated[str, Form(max_length=20)],
    why: Annotated[Words, Form()] = "",
) -> Response:
    key_checked(request, asks, key)
    submission = seen(service, asks, id)
    if decision not in may_decide(asks, submission):
        raise HTTPException(403, f"you may not decide that now: it is {submission.state}")
    assert asks.token is not None
    try:
        service.store.move(
            id,
            decision,  # type: ignore[arg-type]
            who=asks.token.shown,
            why=why,
            team=asks.token.team,
        )
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
    return RedirectResponse(f"/submissions/{id}", status_code=303)


def _spool(sent: UploadFile, folder: Path) -> Path:
    number, name = tempfile.mkstemp(dir=folder, prefix="upload-", suffix=".zip")
    with os.fdopen(number, "wb") as target:
        while data := sent.file.read(1 << 20):
            target.write(data)
    return Path(name)


def may_decide(asks: Caller, submission: StoredSubmission) -> dict[str, str]:
    """What somebody who is logged in through the page may decide, with the form's key."""
    if not asks.session or asks.token is None:
        return {}
    decisions: dict[str, str] = {}
    if asks.may("review") and submission.state == "needs_review":
        decisions |= {"accepted": "Accept", "refused": "Refuse"}
    if asks.may("review") and submission.state == "accepted":
        decisions["refused"] = "Take off the board"
    if (
        asks.may("submit")
        and asks.token.team == submission.team
        and submission.state != "withdrawn"
    ):
        decisions["withdrawn"] = "Withdraw"
    return {"key": form_key(asks.session), **decisions} if decisions else {}


def _submit_text(service: Service, asks: Caller, *, message: str = "", faults: Any = ()) -> str:
    mine: list[StoredSubmission] = []
    feed = ""
    if asks.token is not None and asks.may("submit"):
        mine = service.store.find(team=asks.token.team)
        feed = people.feed_key(service.store, asks.token.team)
    return views.form_page(
        "submit.html",
        LINKS,
        asks=asks,
        key=form_key(asks.session) if asks.session else "",
        mine=mine,
        feed=feed,
        message=message,
        faults=faults,
    )
