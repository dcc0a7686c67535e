"""The front page and the search: what they say follows from the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from leaderboard.board.describe import verdict, verdict_in_short
from leaderboard.database.store import Store
from leaderboard.published.literature import put_references
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


def test_a_verdict_in_short_counts_the_whole_board() -> None:
    class Row:
        superseded_by = ""

        def __init__(self, tie: bool | None) -> None:
            self.tied_with_leader = tie

    leader = Row(None)
    assert verdict_in_short([leader]) == "The only entry."  # type: ignore[list-item]
    others = [Row(False), Row(False), Row(True), Row(None)]
    assert verdict_in_short([leader, *others]) == (  # type: ignore[list-item]
        "Ahead of 2 of 4; not distinguishable from 1; not known for 1."
    )


def test_a_verdict_names_the_ties_where_they_are_few_and_short() -> None:
    class Row:
        superseded_by = ""
        ranked = True
        seeds = (1, 2)

        def __init__(self, method: str, tie: bool | None) -> None:
            self.method, self.tied_with_leader = method, tie

    leader, beaten = Row("mine", None), Row("raw", False)
    short = [Row("basic", True), Row("text", True)]
    assert verdict([leader, *short, beaten]) == (  # type: ignore[list-item]
        "mine is ahead of 1 of 3 others. It is not distinguishable from 2: basic and text."
    )
    many = [Row(f"variant_{n}", True) for n in range(33)]
    assert verdict([leader, *many, beaten]) == (  # type: ignore[list-item]
        "mine is ahead of 1 of 34 others. It is not distinguishable from 33."
    )
