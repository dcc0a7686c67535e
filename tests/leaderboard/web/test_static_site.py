"""The static site: the same pages as files, single questions too."""

import json
import re
from pathlib import Path

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web.static_site import export_service
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip


def test_pages_of_questions_are_files_and_every_link_between_files_leads_somewhere(
    tmp_path: Path,
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    service = Service(store, open_store(tmp_path / "files"))
    token, _ = create_token(store, "t", scopes=["submit"], team="a team")
    for method, skill in (("better", 0.9), ("a method", 0.5)):
        submission, _ = service.receive(make_zip(tmp_path, method=method, skill=skill), token)
        service.check_next("check")
        store.move(submission.id, "accepted", who="maintainer")
    site = tmp_path / "site"
    export_service(service, site, questions=7)
    store.close()
    stem = site / "submissions" / f"{submission.id}-heldout_ending"
    text = Path(f"{stem}.html").read_text()
    assert text.count('<li id="q') == 7
    assert "the first 7 of 60 questions" in text
    data = json.loads(Path(f"{stem}.json").read_text())
    assert [question["row"] for question in data["questions"]] == list(range(7))
    dead = []
    for page in site.rglob("*.html"):
        for address in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if "://" not in address and not (page.parent / address).exists():
                dead.append(f"{page.relative_to(site)}: {address}")
    assert dead == []
    board = (site / "boards" / "dclm-tiny-filtering.html").read_text()
    assert 'class="filters board-filter" hidden' in board
    page = (site / "submissions" / f"{submission.id}.html").read_text()
    assert f'href="../compare/{submission.id}.html">beside the leader</a>' in page
    compared = (site / "compare" / f"{submission.id}.html").read_text()
    assert "Differences are to <strong>better</strong>" in compared
    assert "<form" not in compared
    [rival] = re.findall(r'<option value="([0-9a-f]{32}-heldout_ending.json)">better', text)
    assert (site / "submissions" / rival).exists()
    row = json.loads((site / "compare" / f"{submission.id}.json").read_text())
    assert (row["method"], row["seeds"], row["left_out"]) == ("a method", [124], [])
    assert [task["answers"]["number"] for task in row["tasks"]] == [60] * len(row["tasks"])
    assert "static/compare.js" in (site / "compare" / "index.html").read_text()
    [method] = re.findall(r'href="\.\./(methods/[^"]+)"', page)
    assert "1 row of this name" in (site / method).read_text()
