"""Sources and domains of which too much goes: reported, or the run stops."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.global_steps.losses import Loss, TooMuchLost, losses_of
from pipelines.pipeline import Pipeline
from pipelines.reports.duplicate_groups import report_text, reports
from pipelines.storage.open import open_store


@pytest.fixture
def pool(tmp_path: Path) -> str:
    """40 pages of shop.example that are all one, 40 of blog.example that differ."""
    rows = []
    for n in range(40):
        same = " ".join(f"w{word}" for word in range(40))
        other = " ".join(f"v{word}" for word in range(100 * n, 100 * n + 40))
        rows.append({"text": same, "url": f"https://shop.example/{n}", "source": "crawl"})
        rows.append({"text": other, "url": f"http://me@blog.example:80/{n}", "source": "crawl"})
    (tmp_path / "in").mkdir()
    for shard in range(2):
        lines = [orjson.dumps(row) for row in rows[shard::2]]
        (tmp_path / "in" / f"{shard}.jsonl").write_bytes(b"\n".join(lines))
    return str(tmp_path / "in")


def test_a_domain_of_which_nearly_all_goes_is_reported(pool: str, tmp_path: Path) -> None:
    run(Pipeline.from_steps(["minhash_dedup"]), open_pool(pool), out=f"{tmp_path}/out")
    [report] = reports(open_store(f"{tmp_path}/out"))
    assert report.losses == (Loss(kind="domain", name="shop.example", rows=40, lost=39),)
    assert "ALARM" in report_text(report)


def test_a_run_stops_where_it_was_told_to(pool: str, tmp_path: Path) -> None:
    steps = [{"minhash_dedup": {"stop_at_loss": 0.9}}]
    with pytest.raises(TooMuchLost, match=r"39 of the 40 documents of the domain 'shop\.example'"):
        run(Pipeline.from_steps(steps), open_pool(pool), out=f"{tmp_path}/out")


def test_shards_add_up_and_small_sources_are_left_out() -> None:
    parts = [
        {"source": {"a": [15, 15], "b": [10, 10], "c": [100, 50]}, "domain": {}},
        {"source": {"a": [5, 0]}, "domain": {"d.e": [20, 11]}},
    ]
    assert losses_of(parts) == (
        Loss(kind="source", name="a", rows=20, lost=15),
        Loss(kind="domain", name="d.e", rows=20, lost=11),
    )
