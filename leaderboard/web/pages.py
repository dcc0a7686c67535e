"""The routes of the pages that everybody reads. What a page says is in `views`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from leaderboard.board.boards import View
from leaderboard.board.plots import STATIC
from leaderboard.database import people
from leaderboard.service.drill_down import AskedQuestions, image_of
from leaderboard.service.evidence import read_samples
from leaderboard.service.over_budgets import MOST_LINES
from leaderboard.web import views
from leaderboard.web.access import Asks, Id, Name, Serves, seen
from leaderboard.web.answers import private, public
from leaderboard.web.api import MOST_COMPARED
from leaderboard.web.forms import may_decide
from leaderboard.web.links import Links
from leaderboard.web.texts import (
    board_text,
    compare_text,
    crossings_text,
    front_text,
    help_text,
    method_text,
    plots_text,
    question_text,
    scales_text,
    search_text,
    speedruns_text,
    submission_text,
    team_text,
)

ASSETS = {
    "style.css": "text/css; charset=utf-8",
    "board.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "card.png": "image/png",
}

pages = APIRouter(include_in_schema=False)

# Every view of a board is an address; searching engines need one of each board and row.
ROBOTS = """User-agent: *
Disallow: /search
Disallow: /compare
Disallow: /login
Disallow: /api/
Disallow: /feeds/
Disallow: /submissions/*/tasks/
Disallow: /boards/*?
"""


def links_of(request: Request) -> Links:
    """The addresses of this service."""
    return Links(public=request.app.state.public_url)


@pages.get("/", response_class=HTMLResponse)
async def front(request: Request, service: Serves) -> Response:
    return await public(request, service, ("front",), partial(front_text, link=links_of(request)))


@pages.get("/boards")
@pages.get("/submissions")
async def lists() -> Response:
    """Addresses above those of boards and rows lead to the list of all boards."""
    return RedirectResponse("/")


@pages.get("/robots.txt")
async def robots() -> Response:
    return PlainTextResponse(ROBOTS, headers={"cache-control": "public, max-age=86400"})


@pages.get("/search", response_class=HTMLResponse)
async def search(
    request: Request, service: Serves, q: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    make = partial(search_text, q=q, link=links_of(request))
    return await public(request, service, ("search", q), make, free=True)


@pages.get("/boards/{benchmark}/{scale}/{track}", response_class=HTMLResponse)
async def board(
    benchmark: Name,
    scale: Name,
    track: Name,
    view: Annotated[View, Query()],
    request: Request,
    service: Serves,
) -> Response:
    make = partial(board_text, board=(benchmark, scale, track), view=view, link=links_of(request))
    key = ("board", benchmark, scale, track, *sorted(view.model_dump().items()))
    return await public(request, service, key, make, free=view.free)


@pages.get("/boards/{benchmark}/{scale}/{track}/plots", response_class=HTMLResponse)
async def plots(
    benchmark: Name,
    scale: Name,
    track: Name,
    view: Annotated[View, Query()],
    request: Request,
    service: Serves,
) -> Response:
    make = partial(plots_text, board=(benchmark, scale, track), view=view, link=links_of(request))
    key = ("plots", benchmark, scale, track, *sorted(view.model_dump().items()))
    return await public(request, service, key, make, free=view.free)


@pages.get("/scales/{benchmark}", response_class=HTMLResponse)
async def scales(
    benchmark: Name,
    request: Request,
    service: Serves,
    track: Annotated[str, Query(max_length=60)] = "",
    metric: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    make = partial(
        scales_text, benchmark=benchmark, track=track, metric=metric, link=links_of(request)
    )
    return await public(request, service, ("scales", benchmark, track, metric), make)


Named = Annotated[str, Query(max_length=120)]
MethodName = Annotated[str, Field(min_length=1, max_length=120)]


@pages.get("/speedruns/{benchmark}", response_class=HTMLResponse)
async def speedrun_list(benchmark: Name, request: Request, service: Serves) -> Response:
    make = partial(speedruns_text, benchmark=benchmark, link=links_of(request))
    return await public(request, service, ("speedruns", benchmark), make)


@pages.get("/crossings/{benchmark}", response_class=HTMLResponse)
async def crossing_charts(
    benchmark: Name,
    request: Request,
    service: Serves,
    track: Annotated[str, Query(max_length=60)] = "",
    metric: Annotated[str, Query(max_length=100)] = "",
    name: Annotated[list[MethodName], Query(max_length=MOST_LINES)] = [],  # noqa: B006
) -> Response:
    make = partial(
        crossings_text,
        benchmark=benchmark,
        track=track,
        metric=metric,
        names=tuple(name),
        link=links_of(request),
    )
    key = ("crossings", benchmark, track, metric, *name)
    return await public(request, service, key, make, free=bool(name))


@pages.get("/methods/{benchmark}", response_class=HTMLResponse)
async def method(
    benchmark: Name,
    request: Request,
    service: Serves,
    name: Named = "",
    team: Annotated[str, Query(max_length=120)] = "",
) -> Response:
    make = partial(method_text, benchmark=benchmark, name=name, team=team, link=links_of(request))
    return await public(request, service, ("method", benchmark, name, team), make, free=True)


@pages.get("/teams", response_class=HTMLResponse)
async def team(request: Request, service: Serves, name: Named = "") -> Response:
    make = partial(team_text, name=name, link=links_of(request))
    return await public(request, service, ("team", name), make, free=True)


@pages.get("/help", response_class=HTMLResponse)
async def help_index(request: Request, service: Serves) -> Response:
    make = partial(help_text, topic="", link=links_of(request))
    return await public(request, service, ("help", ""), make)


@pages.get("/help/{topic}", response_class=HTMLResponse)
async def help_topic(topic: Name, request: Request, service: Serves) -> Response:
    make = partial(help_text, topic=topic, link=links_of(request))
    return await public(request, service, ("help", topic), make)


@pages.get("/compare", response_class=HTMLResponse)
async def compare(
    request: Request,
    service: Serves,
    id: Annotated[list[Id], Query(max_length=MOST_COMPARED)] = [],  # noqa: B006
    reference: Annotated[str, Query(pattern="^([0-9a-f]{32})?$")] = "",
) -> Response:
    """The differences are to `reference`, or to the first."""
    make = partial(compare_text, ids=tuple(id), reference=reference, link=links_of(request))
    return await public(request, service, ("compare", reference, *id), make, free=True)


@pages.get("/submissions/{id}", response_class=HTMLResponse)
async def submission(
    id: Id,
    request: Request,
    service: Serves,
    asks: Asks,
    rival: Annotated[str, Query(pattern="^([0-9a-f]{32})?$")] = "",
) -> Response:
    entry = await asyncio.to_thread(seen, service, asks, id)
    if entry.state == "accepted" and asks.token is None:
        key = ("submission", id, rival)
        make = partial(submission_text, submission=entry, link=links_of(request), rival=rival)
        return await public(request, service, key, make, free=bool(rival))
    may = may_decide(asks, entry)
    inside = partial(
        submission_text,
        submission=entry,
        link=links_of(request),
        rival=rival,
        inside=True,
        may=may,
        asks=asks,
    )
    return private(await request.app.state.answers.made(inside))


TaskName = Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,100}$")]


@pages.get("/submissions/{id}/tasks/{task}", response_class=HTMLResponse)
async def questions(
    id: Id,
    task: TaskName,
    chosen: Annotated[AskedQuestions, Query()],
    request: Request,
    service: Serves,
    asks: Asks,
) -> Response:
    entry = await asyncio.to_thread(seen, service, asks, id)
    rival = await asyncio.to_thread(seen, service, asks, chosen.rival) if chosen.rival else None
    asked = chosen.asked(task)

    make = partial(
        question_text, submission=entry, asked=asked, rival=rival, link=links_of(request)
    )
    if asks.token is None:  # then both are public
        key = ("questions", id, chosen.rival, *sorted(asdict(asked).items()))
        return await public(request, service, key, make, free=True)
    try:
        return private(await request.app.state.answers.made(make))
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None


@pages.get("/submissions/{id}/tasks/{task}/images/{number}.webp")
def question_image(
    id: Id,
    task: TaskName,
    number: Annotated[int, Field(ge=0, le=10_000_000)],
    service: Serves,
    asks: Asks,
) -> Response:
    """An image of a task, made small, where its licence lets everybody see it."""
    try:
        data = image_of(service.files, seen(service, asks, id), task, number)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None
    headers = {"cache-control": "public, max-age=86400"}
    return Response(data, media_type="image/webp", headers=headers)


@pages.get("/submissions/{id}/samples/{seed}.png")
def samples(
    id: Id, seed: Annotated[int, Field(ge=0, le=2**63 - 1)], service: Serves, asks: Asks
) -> Response:
    """What a generator drew, and the nearest training images below each row."""
    data = read_samples(service.files, seen(service, asks, id), seed)
    if data is None:
        raise HTTPException(404, "there are no images of this seed")
    headers = {"cache-control": "private, max-age=86400"}
    return Response(data, media_type="image/png", headers=headers)


@pages.get("/static/{name}")
def static(name: str) -> Response:
    if name not in ASSETS:
        raise HTTPException(404, "there is no such file")
    headers = {"cache-control": "public, max-age=300"}
    return FileResponse(STATIC / name, media_type=ASSETS[name], headers=headers)


@pages.get("/feeds/{key}.atom")
def feed(
    key: Annotated[str, Field(pattern="^[0-9a-f]{32}$")], request: Request, service: Serves
) -> Response:
    """What happened to a team's submissions, for a feed reader; the address is a secret."""
    team = people.team_of_feed(service.store, key)
    if team is None:
        raise HTTPException(404, "there is no such feed")
    notices = people.notices_of(service.store, team)
    base = request.app.state.public_url or str(request.base_url).rstrip("/")
    text = views.feed(team, notices, base, key)
    headers = {"cache-control": "private, max-age=60"}
    return Response(text, media_type="application/atom+xml; charset=utf-8", headers=headers)


@pages.get("/favicon.ico")
def favicon() -> Response:
    return static("favicon.svg")
