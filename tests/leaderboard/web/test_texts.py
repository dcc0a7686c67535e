"""The front page and the search: what they say follows from the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

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
