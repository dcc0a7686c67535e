"""The routes of the pages. What a page says is in `views`; who may ask is in `app`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from leaderboard.board.boards import View
from leaderboard.board.plots import STATIC
from leaderboard.database.auth import (
    SESSION_SECONDS,
    close_session,
    find_token,
    form_key,
    open_session,
)
from leaderboard.database.store import Held, StoreError
from leaderboard.service.comparison import across_scales, compare_tasks
from leaderboard.service.service import NotAllowed, Service
from leaderboard.submissions.faults import BundleError
from leaderboard.web import views
from leaderboard.web.access import (
    COOKIE,
    Asks,
    Caller,
    Id,
    Name,
    Serves,
    failed,
    key_checked,
    problem,
    seen,
    take,
)
from leaderboard.web.answers import LINKS, Kept, private, public
from leaderboard.web.texts import front_text, submission_text

ASSETS = {"style.css": "text/css; charset=utf-8", "board.js": "text/javascript; charset=utf-8"}
LOGIN = "/login?next="


def add_pages(app: FastAPI) -> None:
    """Add the pages to the application."""
    app.state.kept = Kept()
    show = {"include_in_schema": False, "response_class": HTMLResponse}

    @app.get("/", **show)  # type: ignore[arg-type]
    async def front(request: Request, service: Serves) -> Response:
        return await public(request, service, lambda: front_text(service, LINKS))

    @app.get("/boards/{benchmark}/{scale}/{track}", **show)  # type: ignore[arg-type]
    async def board(
        benchmark: Name,
        scale: Name,
        track: Name,
        view: Annotated[View, Query()],
        request: Request,
        service: Serves,
    ) -> Response:
        def make() -> str:
            page = service.library.page(benchmark, scale, track, view)
            return views.board_page(page, view, LINKS)

        return await public(request, service, make)

    @app.get("/boards/{benchmark}/{scale}/{track}/plots", **show)  # type: ignore[arg-type]
    async def plots(
        benchmark: Name,
        scale: Name,
        track: Name,
        view: Annotated[View, Query()],
        request: Request,
        service: Serves,
    ) -> Response:
        def make() -> str:
            wide = view.model_copy(update={"limit": 500, "offset": 0})
            page = service.library.page(benchmark, scale, track, wide)
            return views.plots_page(page, view, LINKS)

        return await public(request, service, make)

    @app.get("/scales/{benchmark}", **show)  # type: ignore[arg-type]
    async def scales(
        benchmark: Name,
        request: Request,
        service: Serves,
        track: Annotated[str, Query(max_length=60)] = "",
        metric: Annotated[str, Query(max_length=100)] = "",
    ) -> Response:
        def make() -> str:
            told = across_scales(service.library, benchmark, track=track, metric=metric)
            return views.scales_page(benchmark, told, LINKS)

        return await public(request, service, make)

    @app.get("/help", **show)  # type: ignore[arg-type]
    async def help_index(request: Request, service: Serves) -> Response:
        return await public(request, service, lambda: views.help_page("", LINKS))

    @app.get("/help/{topic}", **show)  # type: ignore[arg-type]
    async def help_topic(topic: Name, request: Request, service: Serves) -> Response:
        return await public(request, service, lambda: views.help_page(topic, LINKS))

    @app.get("/compare", **show)  # type: ignore[arg-type]
    async def compare(
        request: Request,
        service: Serves,
        id: Annotated[list[Id], Query(max_length=4)] = [],  # noqa: B006
    ) -> Response:
        def make() -> str:
            rows = []
            for one in dict.fromkeys(id):
                row = service.library.row(one)
                if row is None:
                    raise KeyError(f"there is no accepted submission {one}")
                rows.append(row)
            found: Any = compare_tasks(service, rows) if len(rows) > 1 else []
            return views.compare_page(rows, found, [], LINKS)

        return await public(request, service, make)

    @app.get("/submissions/{id}", **show)  # type: ignore[arg-type]
    async def submission(
        id: Id,
        request: Request,
        service: Serves,
        asks: Asks,
        rival: Annotated[str, Query(max_length=32)] = "",
    ) -> Response:
        held = await asyncio.to_thread(seen, service, asks, id)
        if held.state == "accepted" and asks.token is None:
            return await public(
                request, service, lambda: submission_text(service, held, LINKS, rival)
            )
        may = _may(asks, held)
        text = await asyncio.to_thread(
            submission_text, service, held, LINKS, rival, inside=True, may=may
        )
        return private(text)

    @app.get("/submissions/{id}/tasks/{task}", **show)  # type: ignore[arg-type]
    def questions(
        id: Id,
        task: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,100}$")],
        service: Serves,
        asks: Asks,
        seed: Annotated[int | None, Query(ge=0, le=2**63)] = None,
        wrong: bool = False,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> Response:
        from leaderboard.service.questions import page_of

        held = seen(service, asks, id)
        try:
            page = page_of(service, held, task, seed, wrong=wrong, offset=offset)
        except (FileNotFoundError, KeyError) as error:
            raise HTTPException(404, str(error.args[0])) from None
        return private(views.question_page(held, None, page, wrong, LINKS))

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "there is no such file")
        headers = {"cache-control": "public, max-age=300"}
        return FileResponse(STATIC / name, media_type=ASSETS[name], headers=headers)

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return Response(status_code=204, headers={"cache-control": "public, max-age=86400"})

    _add_forms(app)
    plain = app.exception_handlers[HTTPException]

    async def error_page(request: Request, error: Exception) -> Response:
        """Errors as a page for a browser, as JSON for the API."""
        assert isinstance(error, HTTPException)
        if request.url.path.startswith("/api/") or request.url.path == "/healthz":
            return await plain(request, error)  # type: ignore[misc,no-any-return]
        heading = {401: "Log in first", 403: "Not allowed", 404: "Not found"}
        text = views.form_page(
            "error.html",
            LINKS,
            status=error.status_code,
            heading=heading.get(error.status_code, "This did not work"),
            message=str(error.detail),
        )
        return HTMLResponse(text, status_code=error.status_code, headers=error.headers)

    app.add_exception_handler(HTTPException, error_page)


def _add_forms(app: FastAPI) -> None:
    """Log in, submit, review: what only works with a token."""
    show = {"include_in_schema": False, "response_class": HTMLResponse}

    @app.get("/login", **show)  # type: ignore[arg-type]
    def login_form(next: Annotated[str, Query(max_length=200)] = "/submit") -> Response:
        return private(views.form_page("login.html", LINKS, next=next, message=""))

    @app.post("/login", **show)  # type: ignore[arg-type]
    def login(
        request: Request,
        service: Serves,
        token: Annotated[str, Form(max_length=200)],
        next: Annotated[str, Form(max_length=200)] = "/submit",
    ) -> Response:
        found = find_token(service.store, token.strip())
        if found is None:
            failed(request, request.app.state.rates)
            told = "This token is unknown, revoked or expired."
            return private(views.form_page("login.html", LINKS, next=next, message=told), 401)
        local = next.startswith("/") and not next.startswith(("//", "/\\"))
        answer = RedirectResponse(next if local else "/submit", status_code=303)
        answer.set_cookie(
            COOKIE,
            open_session(service.store, found),
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout", **show)  # type: ignore[arg-type]
    def logout(
        request: Request, service: Serves, asks: Asks, key: Annotated[str, Form(max_length=64)]
    ) -> Response:
        key_checked(request, asks, key)
        close_session(service.store, asks.session)
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    @app.get("/submit", **show)  # type: ignore[arg-type]
    def submit_form(service: Serves, asks: Asks) -> Response:
        return private(_submit_text(service, asks))

    @app.post("/submit", **show)  # type: ignore[arg-type]
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
            held, new = await asyncio.to_thread(service.receive, path, token)
        except BundleError as error:
            told = "The bundle is refused; nothing was kept."
            return private(_submit_text(service, asks, message=told, faults=error.faults), 422)
        except NotAllowed as error:
            return private(_submit_text(service, asks, message=str(error)), 403)
        finally:
            path.unlink(missing_ok=True)
        del new
        return RedirectResponse(f"/submissions/{held.id}", status_code=303)

    @app.get("/review", **show)  # type: ignore[arg-type]
    def review(service: Serves, asks: Asks) -> Response:
        if not asks.may("review"):
            return RedirectResponse(f"{LOGIN}/review", status_code=303)
        lists = [
            ("Needs review", service.store.find(states=["needs_review"])),
            ("Waiting for a check", service.store.find(states=["received", "checking"])),
            ("Decided", service.store.find(states=["refused", "withdrawn", "accepted"], limit=50)),
        ]
        text = views.form_page(
            "review.html",
            LINKS,
            lists=lists,
            counts=service.store.counts(),
            key=form_key(asks.session),
        )
        return private(text)

    @app.post("/submissions/{id}", **show)  # type: ignore[arg-type]
    def decide(
        id: Id,
        request: Request,
        service: Serves,
        asks: Asks,
        key: Annotated[str, Form(max_length=64)],
        decision: Annotated[str, Form(max_length=20)],
        why: Annotated[str, Form(max_length=2000)] = "",
    ) -> Response:
        key_checked(request, asks, key)
        held = seen(service, asks, id)
        if decision not in _may(asks, held):
            raise HTTPException(403, f"you may not decide that now: it is {held.state}")
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


def _may(asks: Caller, held: Held) -> dict[str, str]:
    """What somebody who is logged in through the page may decide, with the form's key."""
    if not asks.session or asks.token is None:
        return {}
    found: dict[str, str] = {}
    if asks.may("review") and held.state == "needs_review":
        found |= {"accepted": "Accept", "refused": "Refuse"}
    if asks.may("review") and held.state == "accepted":
        found["refused"] = "Take off the board"
    if asks.may("submit") and asks.token.team == held.team and held.state != "withdrawn":
        found["withdrawn"] = "Withdraw"
    return {"key": form_key(asks.session), **found} if found else {}


def _submit_text(service: Service, asks: Caller, *, message: str = "", faults: Any = ()) -> str:
    mine: list[Held] = []
    if asks.token is not None and asks.may("submit"):
        mine = service.store.find(team=asks.token.team)
    return views.form_page(
        "submit.html",
        LINKS,
        asks=asks,
        key=form_key(asks.session) if asks.session else "",
        mine=mine,
        message=message,
        faults=faults,
    )


# ---- texts that the static site makes too


__all__ = ["add_pages", "problem"]
