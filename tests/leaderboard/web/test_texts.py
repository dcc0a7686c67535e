"""The front page and the search: what they say follows from the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from leaderboard.database.store import Store
from leaderboard.published.literature import put_references, renew_references
from leaderboard.service.service import Service
from leaderboard.web.app import create_app
from pipelines.storage.local import LocalStore


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("board")
    store = Store(f"sqlite:///{folder / 'x.db'}")
    put_references(store)
    yield TestClient(create_app(Service(store, LocalStore(folder / "files"))))
    store.close()


def test_the_front_page_has_a_summary_a_chart_and_an_answer_for_each_benchmark(
    client: TestClient,
) -> None:
    page = client.get("/").text
    for title in ("DataComp for language models", "DataComp for image-text models"):
        assert f">{title}</h2>" in page
    assert page.count('<table class="summary">') == 3  # ranked boards of both, and 7b-open
    assert 'href="/boards/datacomp/medium/filtering">medium</a>' in page
    assert "No errors are published, so 3 others may be as good." in page  # at xlarge
    assert page.count("<svg ") >= 2
    assert 'action="/search"' in page


def test_a_search_looks_on_all_boards(client: TestClient) -> None:
    page = client.get("/search", params={"q": "fineweb"}).text
    assert "2 rows have “fineweb” in the name" in page
    assert page.count(">FineWeb-Edu</a>") == 2
    assert "dclm 7b-1x, filtering" in page
    assert "dclm 7b-2x, filtering" in page
    assert "<form" in client.get("/search").text
    nothing = client.get("/search", params={"q": "<script>"}).text
    assert "No accepted row has “&lt;script&gt;”" in nothing
    assert client.get("/search", params={"q": "x" * 201}).status_code == 422


def test_a_method_has_a_page_with_its_rows_of_every_board(client: TestClient) -> None:
    page = client.get("/methods/dclm", params={"name": "FineWeb-Edu"}).text
    assert "2 rows of this name" in page
    assert page.count('<th scope="row"><a href="/submissions/') == 2
    for board in ("7b-1x, filtering", "7b-2x, filtering"):
        assert f">{board}</a>" in page
    assert "<h2>Over scales</h2>" in page
    assert client.get("/methods/dclm", params={"name": "no such"}).status_code == 404
    assert client.get("/methods/dclm").status_code == 404
    assert client.get("/methods/nothing", params={"name": "FineWeb-Edu"}).status_code == 404


def test_a_team_has_a_page_and_one_without_rows_has_none(client: TestClient) -> None:
    rows = client.get("/api/v1/boards/dclm/7b-1x/filtering").json()["rows"]
    team = next((row["team"] for row in rows if row["team"]), "")
    answer = client.get("/teams", params={"name": team or "nobody"})
    assert answer.status_code == (200 if team else 404)
    assert client.get("/teams", params={"name": "nobody at all"}).status_code == 404


def test_the_metric_of_the_scales_can_be_chosen(client: TestClient) -> None:
    page = client.get("/scales/dclm").text
    names = re.findall(r'<option value="([^"]+)"', page)
    assert len(names) > 1
    other = client.get("/scales/dclm", params={"metric": names[-1]}).text
    assert f'<option value="{names[-1]}" selected>' in other
    assert f"by {names[-1].replace('_', ' ')}" in other
    assert client.get("/scales/dclm", params={"metric": "nothing"}).status_code == 404


def test_methods_can_be_chosen_for_the_crossings(client: TestClient) -> None:
    page = client.get("/crossings/dclm").text
    names = re.findall(r'<option value="([^"]+)"', page)
    assert "FineWeb-Edu" in names
    two = client.get("/crossings/dclm", params={"name": ["FineWeb-Edu", "DCLM-Baseline"]})
    assert two.status_code == 200
    assert "DCLM-Baseline ahead at 138G" in re.sub("<wbr>", "", two.text)
    assert '<option value="FineWeb-Edu" selected>' in two.text
    assert "no_filter has no row with a budget in this track" in two.text
    for wrong in ({"name": "nobody"}, {"metric": "nothing"}, {"track": "nowhere"}):
        assert client.get("/crossings/dclm", params=wrong).status_code == 404
    assert client.get("/crossings/nothing").status_code == 404
    assert client.get("/crossings/dclm", params={"name": ["x"] * 7}).status_code == 422


def test_a_price_that_is_not_known_is_unknown_and_not_nothing(client: TestClient) -> None:
    page = client.get("/crossings/dclm").text
    assert '<td class="n">unknown</td>' in page
    assert "No price is known." in page
    assert "Unknown is not 0." in page


def test_a_cost_that_is_not_known_is_not_drawn_and_not_nothing(client: TestClient) -> None:
    page = client.get("/boards/dclm/7b-1x/filtering/plots").text
    assert "the cost of curation" not in page  # no printed row says it


def test_references_of_an_older_database_are_marked_when_it_is_served(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    put_references(store)
    board = next(board for board in store.boards() if board.benchmark == "datacomp")
    ids = list(store.accepted(board.benchmark, board.scale, board.track))
    marked = [row for row in store.rows(ids) if row.from_memory]
    assert marked
    old, off = marked[:2]
    store.import_row(
        old.model_copy(update={"from_memory": False}), kind="reference", who="then", why=""
    )
    store.import_row(
        off.model_copy(update={"from_memory": False}), kind="reference", who="then", why=""
    )
    store.move(off.submission_id, "refused", who="maintainer")
    before = store.revision()
    assert renew_references(store) == 1
    assert store.rows([old.submission_id]) == [old]
    assert store.get(off.submission_id).state == "refused"
    assert store.revision() == before + 1
    assert renew_references(store) == 0
    store.close()
