"""The service in a real browser: what a participant, a maintainer and a viewer do with it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web import views
from leaderboard.web.static_site import export_service
from pipelines.storage.open import open_store
from tests import browser as tools
from tests.leaderboard.made_up import make_zip

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[3]
BOARD = "/boards/dclm/tiny/filtering"


@dataclass
class Site:
    address: str
    submit: str
    review: str
    new: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running service with three accepted submissions, two tokens, and a bundle to send."""
    folder = tmp_path_factory.mktemp("site")
    database = f"sqlite:///{folder / 'board.db'}"
    store = Store(database)
    service = Service(store, open_store(folder / "files"))
    team, submit = create_token(store, "ci", scopes=["submit"], team="a team")
    review = create_token(store, "maintainer", scopes=["review"])[1]
    entries = [
        make_zip(folder, method=name, skill=skill, chance=n)
        for n, (name, skill) in enumerate({"no_filter": 0.4, "good": 0.6, "better": 0.7}.items())
    ]
    for n, name in enumerate(("fast", "slow"), start=20):
        race = {"track": "speedrun", "seeds": (124, 125, 126)}
        entries.append(make_zip(folder, method=name, chance=n, **race))
    for path in entries:
        submission, _ = service.receive(path, team)
        service.check_next("check")
        store.move(submission.id, "accepted", who="maintainer")
    new = make_zip(folder, method="brand new", skill=0.9, chance=9, seeds=(124, 125))
    store.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "leaderboard", "serve", "--port", str(port)]
    command += ["--database", database, "--files", str(folder / "files")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until, "the service did not start"
                time.sleep(0.05)
        yield Site(address, submit, review, new)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        program = tools.chromium()
    except tools.Unavailable as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(tools.SWITCHES))
        yield opened
        opened.close()


@pytest.fixture
def context(chromium: Browser, site: Site) -> Iterator[BrowserContext]:
    """A fresh browser; at its end: nothing on the console, nothing asked of another host."""
    opened = chromium.new_context(base_url=site.address, viewport={"width": 1280, "height": 900})
    console: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: console.append(message.text))
    opened.on("weberror", lambda error: console.append(str(error.error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    opened.close()
    assert console == []
    assert [url for url in asked if not url.startswith((site.address, "data:"))] == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def methods(page: Page) -> list[str]:
    page.wait_for_load_state()  # a click waits until the next page begins
    return page.locator("table.board tbody th a").all_inner_texts()


def test_a_bundle_is_sent_reviewed_and_ranked(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto("/submit")
    page.get_by_role("link", name="Log in with a token").click()
    page.get_by_label("Token").fill(site.submit)
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Bundle").set_input_files(site.new)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("brand new")
    until = time.monotonic() + 300
    while page.get_by_text("needs review", exact=True).count() == 0:
        assert time.monotonic() < until, page.content()
        time.sleep(0.2)
        page.reload()
    address = page.url
    page.goto("/submit")
    page.get_by_role("button", name="Log out").click()
    page.goto("/review")
    page.get_by_label("Token").fill(site.review)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="brand new", exact=True).click()
    assert page.url == address
    page.get_by_label("Why").fill("all is well")
    page.get_by_role("button", name="Accept").click()
    page.goto(BOARD)
    assert methods(page)[0] == "brand new"
    page.get_by_role("link", name="brand new", exact=True).click()
    expect(page.get_by_text("Rank 1")).to_be_visible()
    expect(page.get_by_text("all is well")).to_be_visible()


def test_a_board_is_filtered_sorted_and_toggled(page: Page) -> None:
    page.goto(f"{BOARD}?kind=submission")
    everything = methods(page)
    assert {"better", "good", "no_filter"} <= set(everything)
    page.get_by_role("link", name="Method", exact=True).click()
    assert methods(page) == sorted(everything)
    assert "sort=method" in page.url
    page.get_by_role("link", name="Method", exact=True).click()
    assert methods(page) == sorted(everything, reverse=True)
    page.get_by_label("Method or team").fill("GOOD")
    page.get_by_role("button", name="Show").click()
    assert methods(page) == ["good"]
    page.get_by_label("Method or team").fill("")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="cloze").click()
    expect(page.locator("nav.toggle strong")).to_have_text("cloze")
    assert set(methods(page)) == set(everything)
    page.get_by_label("Rechecked").select_option("full")  # shown at once, by the script
    expect(page.get_by_text("No rows fit.")).to_be_visible()


def test_rows_are_compared_and_a_question_is_opened(page: Page) -> None:
    page.goto(BOARD)
    for name in ("better", "good"):
        page.get_by_role("checkbox", name=f"compare {name}").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    assert page.locator("tbody tr:not(.part)").count() == 5  # two figures, three tasks
    page.get_by_role("link", name="better", exact=True).click()
    page.get_by_role("link", name="heldout_ending").click()
    page.get_by_label("Answers").select_option("wrong")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("dd strong.wrong").first).to_be_visible()
    assert page.locator("dd strong.right").count() == 0
    beside = page.get_by_label("Beside")
    value = beside.locator("option").filter(has_text=re.compile(r"\. good$")).get_attribute("value")
    beside.select_option(value)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("those come first")).to_be_visible()
    assert page.locator("li.question").first.locator("dd").count() == 2


def test_a_view_is_exported(page: Page, site: Site) -> None:
    page.goto(f"{BOARD}?q=good")
    address = page.get_by_role("link", name="CSV").get_attribute("href")
    answer = page.request.get(f"{site.address}{address}")
    lines = answer.text().splitlines()
    assert len(lines) == 2
    assert ",good," in lines[1]


def test_pages_fit_a_phone(chromium: Browser, site: Site) -> None:
    phone = chromium.new_context(base_url=site.address, viewport={"width": 360, "height": 740})
    page = phone.new_page()
    deciding = ("/speedruns/dclm", "/crossings/dclm")
    for path in (
        "/",
        BOARD,
        f"{BOARD}/plots",
        "/scales/dclm",
        *deciding,
        "/help/scores",
        "/submit",
    ):
        page.goto(path)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, (path, wide)
    phone.close()


LONG = (
    "rw_v2_cc_v3_f0.15_resiliparse_fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_0.1"
)
ROW = """<link rel="stylesheet" href="/static/style.css">{% from "macros.html" import method_link %}
<div class="scroll tall"><table class="board"><tbody>{% for word in words %}<tr><td>1</td>
<th scope="row"><div class="who">{{ method_link("/", name) }}<small>{{ word }}</small></div></th>
{% for _ in range(8) %}<td>0.0027 [-0.0225, 0.0191]</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>"""


@pytest.mark.parametrize(("width", "lines"), [(1920, 1), (1280, 1), (390, 2)])
def test_a_long_name_is_one_line_that_ends_as_the_name_does(
    context: BrowserContext, width: int, lines: int
) -> None:
    """On a phone the word that tells equal names apart has a line of its own below."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/help/scores")
    html = views._templates().from_string(ROW).render(name=LONG, words=["3e9111d6", "2024-05-14"])
    page.evaluate("html => { document.body.innerHTML = html }", html)
    page.wait_for_load_state("networkidle")
    size, rows = page.evaluate(
        "[parseFloat(getComputedStyle(document.querySelector('a.cut')).lineHeight),"
        " [...document.querySelectorAll('tr')].map(row => row.clientHeight)]"
    )
    assert max(rows) < (lines + 1) * size, (size, rows)
    boxes = page.evaluate(
        "[...document.querySelectorAll('.who')].map(who => [...who.querySelectorAll("
        "'a span:last-child, small')].map(part => part.getBoundingClientRect().toJSON()))"
    )
    for end, word in boxes:
        assert end["right"] <= word["left"] or end["bottom"] <= word["top"] + 1, (end, word)


def test_everything_works_without_scripts_and_by_keyboard(chromium: Browser, site: Site) -> None:
    plain = chromium.new_context(base_url=site.address, java_script_enabled=False)
    page = plain.new_page()
    page.goto(BOARD)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    box = page.get_by_label("Method or team")
    box.focus()
    page.keyboard.type("better")
    page.keyboard.press("Enter")
    expect(page.locator("table.board tbody tr")).to_have_count(1)
    assert re.search(r"q=better", page.url)
    plain.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(chromium: Browser, site: Site, scheme: str) -> None:
    try:
        code = tools.axe(ROOT / "build" / "node")
    except tools.Unavailable as error:
        pytest.skip(str(error))
    context = chromium.new_context(base_url=site.address, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(BOARD)
    link = page.get_by_role("link", name="better", exact=True).get_attribute("href")
    other = page.get_by_role("link", name="good", exact=True).get_attribute("href")
    assert link is not None
    assert other is not None
    ids = [address.rsplit("/", 1)[1] for address in (link, other)]
    paths = ["/", BOARD, f"{BOARD}/plots", "/scales/dclm", "/help", "/help/dclm-tasks", "/login"]
    paths += ["/speedruns/dclm", "/crossings/dclm", "/boards/dclm/tiny/speedrun"]
    paths += ["/submit", link, f"{link}?rival={ids[1]}", f"{link}/tasks/heldout_ending"]
    paths += [f"/compare?id={ids[0]}&id={ids[1]}"]
    paths += [f"{link}/tasks/heldout_ending?rival={ids[1]}"]
    paths += ["/methods/dclm?name=better", "/teams?name=a+team", "/search?q=good", "/none"]
    paths += [f"{BOARD}?columns=tasks", f"{BOARD}?columns=categories", "/compare", "/review"]
    collected = []
    for path in paths:
        page.goto(path)
        page.evaluate(code)
        answer = page.evaluate("axe.run(document)")
        collected += [
            f"{path}: {violation['id']}: {violation['nodes'][0]['html'][:120]}"
            for violation in answer["violations"]
        ]
    context.close()
    assert collected == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a static site with two rows, served as files."""
    folder = tmp_path_factory.mktemp("static")
    store = Store(f"sqlite:///{folder / 'board.db'}")
    service = Service(store, open_store(folder / "files"))
    team, _ = create_token(store, "ci", scopes=["submit"], team="a team")
    for n, (name, skill) in enumerate({"worse": 0.3, "better": 0.9}.items()):
        submission, _ = service.receive(make_zip(folder, method=name, skill=skill, chance=n), team)
        service.check_next("check")
        store.move(submission.id, "accepted", who="maintainer")
    export_service(service, folder / "site", questions=10)
    store.close()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_static_site_filters_rows_and_shows_a_rivals_answers(
    chromium: Browser, files: str
) -> None:
    context = chromium.new_context(base_url=files)
    page = context.new_page()
    page.goto("/boards/dclm-tiny-filtering.html")
    assert methods(page) == ["better", "worse"]
    page.get_by_label("Method or team").fill("wor")
    expect(page.get_by_role("link", name="better", exact=True)).to_be_hidden()
    expect(page.get_by_text("1 row", exact=True)).to_be_visible()
    page.get_by_role("link", name="worse", exact=True).click()
    page.get_by_role("link", name="heldout_ending").click()
    assert page.locator(".rival-answer").count() == 0
    page.get_by_label("Beside").select_option(label="better")
    expect(page.locator(".rival-answer")).to_have_count(10)
    expect(page.get_by_text(re.compile("they differ in [1-9]"))).to_be_visible()
    first = page.locator("li.question").first
    expect(first.locator(".rival-answer dd")).to_contain_text("right; chose")
    page.go_back()
    page.get_by_role("link", name="beside the leader").click()
    expect(page.get_by_text("Differences are to better")).to_be_visible()
    served = numbers_of(page)
    page.goto("/boards/dclm-tiny-filtering.html")
    for name in ("better", "worse"):
        page.get_by_role("row", name=name).get_by_role("checkbox").check()
    page.get_by_role("button", name="Compare the chosen rows").click()
    expect(page.get_by_role("heading", name="Compare: better, worse")).to_be_visible()
    script = numbers_of(page)
    # the same, but for the chance of the resamples in the ends of intervals
    assert [line[0] for line in script] == [line[0] for line in served]
    for own, other in zip(script, served, strict=True):
        assert own[1] == pytest.approx(other[1], abs=1e-4)
        assert own[2][0] == pytest.approx(other[2][0], abs=1e-4)
        reach = other[2][2] - other[2][1]
        assert own[2][1:3] == pytest.approx(other[2][1:3], abs=0.12 * reach)
        assert own[3] == other[3]
    page.get_by_label("Differences are to").select_option(label="worse")
    expect(page.get_by_role("heading", name="Compare: worse, better")).to_be_visible()
    turned = numbers_of(page)
    assert turned[0][2][0] == pytest.approx(-script[0][2][0])
    assert turned[-1][3][:2] == script[-1][3][1::-1]
    page.goto("/compare/index.html#nonsense")
    expect(page.get_by_text("Choose two to five rows")).to_be_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_in_a_static_site(chromium: Browser, files: str, scheme: str) -> None:
    try:
        code = tools.axe(ROOT / "build" / "node")
    except tools.Unavailable as error:
        pytest.skip(str(error))
    context = chromium.new_context(base_url=files, color_scheme=scheme)
    page = context.new_page()
    board = "/boards/dclm-tiny-filtering.html"
    page.goto(board)
    ids = [
        str(box.get_attribute("value"))
        for box in page.get_by_role("checkbox", name="compare").all()
    ]
    collected = []
    paths = ["/index.html", board, "/compare/index.html", f"/compare/index.html#{','.join(ids)}"]
    paths += [f"/submissions/{ids[0]}.html", f"/submissions/{ids[0]}-heldout_ending.html"]
    for path in paths:
        page.goto("about:blank")  # another fragment of a page is no other page
        page.goto(path)
        if "#" in path:
            expect(page.locator("table.compare")).to_be_visible()
        page.evaluate(code)
        collected += [
            f"{path}: {violation['id']}: {violation['nodes'][0]['html'][:120]}"
            for violation in page.evaluate("axe.run(document)")["violations"]
        ]
    context.close()
    assert len(ids) == 2
    assert collected == []


def numbers_of(page: Page) -> list[tuple[str, list[float], list[float], list[float]]]:
    """The lines of a comparison of two: name, scores, difference with its ends, won, lost, tied."""
    lines = []
    for row in page.locator("table.compare tbody tr:not(.part)").all():
        name = row.locator("th").inner_text()
        cells = [
            [float(text) for text in re.findall(r"[-+]?[0-9][0-9.]*", cell)]
            for cell in row.locator("td").all_inner_texts()
        ]
        lines.append((name, [cells[0][0], cells[1][0]], cells[2], cells[3]))
    return lines
