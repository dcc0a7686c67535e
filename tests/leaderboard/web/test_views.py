"""What a page says of a record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from leaderboard.board.describe import still_there
from pipelines.records import PackedRecord, PackedWork, made_by, now


def submission(results: Any) -> Any:
    packed = PackedRecord.seal(
        work=PackedWork(mode="reshard", layout="webdataset"),
        parents={"dataset": "0" * 32},
        results=results,
        made_by=made_by(now()),
    )
    return SimpleNamespace(chain=(packed,))


def test_a_page_says_how_many_images_were_still_there() -> None:
    counts = {"rows": 2000, "success": 1720, "failed/timeout": 30, "failed/http_404": 250}
    answer = still_there(submission({"pictures": {"record": "1" * 32, "counts": counts}}))
    assert answer == (
        "1,720 of the pool's 2,000 images were there (86.0%), http_404 250, timeout 30."
    )


def test_a_page_is_silent_where_the_record_is() -> None:
    for results in (None, {}, {"pictures": {"counts": {}}}, {"pictures": 3}):
        assert still_there(submission(results)) == ""
