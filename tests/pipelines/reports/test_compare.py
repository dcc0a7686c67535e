"""Two datasets of one pool: every row is counted once, and every table adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.errors import DataError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.compare import compare, comparison_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """90 documents in three shards: n words, a source for two in three, a host for all."""
    (tmp_path / "in").mkdir()
    for shard in range(3):
        rows: list[dict[str, Any]] = []
        for n in range(shard, 90, 3):
            row = {"text": " ".join(["word"] * (n + 1)), "url": f"https://h{n % 2}.org/{n}"}
            rows.append(row if n % 3 == 0 else {**row, "source": f"s{n % 3}"})
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (tmp_path / "in" / f"{shard}.jsonl").write_bytes(data)
    return tmp_path


def made(folder: Path, name: str, *steps: Any) -> str:
    run(Pipeline.from_steps(list(steps)), open_pool(f"{folder}/in"), out=f"{folder}/{name}")
    return f"{folder}/{name}"


def rows_of(uri: str) -> set[int]:
    files = (Path(uri) / "data").iterdir()
    return {row for file in files for row in pq.read_table(file)["row"].to_pylist()}


def test_counts_are_those_of_the_sets_and_add_up(folder: Path) -> None:
    first = made(folder, "first", {"word_count": {"min_words": 21}})
    other = made(
        folder,
        "other",
        {"domains": {"hosts": ["h1.org"]}},
        {"word_count": {"min_words": 1, "max_words": 60}},
    )
    comparison = compare(first, other)
    a, b = rows_of(first), rows_of(other)
    assert (comparison.both, comparison.only_a, comparison.only_b, comparison.neither) == (
        len(a & b),
        len(a - b),
        len(b - a),
        90 - len(a | b),
    )
    assert len(a & b) > 0
    for cells in comparison.groups.values():
        assert sum(cell.both for cell in cells) == comparison.both
        assert sum(cell.only_a for cell in cells) == comparison.only_a
        assert sum(cell.only_b for cell in cells) == comparison.only_b
    assert set(comparison.groups) == {"source", "domain"}
    assert {cell.group for cell in comparison.groups["source"]} == {"s1", "s2", "-"}
    only = {side: [f for f in comparison.fates if f.side == side] for side in "AB"}
    assert sum(fate.rows for fate in only["A"]) == len(a - b)
    assert sum(fate.rows for fate in only["B"]) == len(b - a)
    assert only["B"][0].step == "step 1 (word_count): too_few_words"


def test_scores_are_grouped_by_quantiles(folder: Path) -> None:
    counted = {"count_words": {"column": "words"}}
    first = made(folder, "first", counted)
    other = made(folder, "other", counted, {"threshold": {"by": "words", "max_score": 30}})
    comparison = compare(first, other, scores=["words"])
    cells = comparison.groups["words"]
    assert sum(cell.both for cell in cells) == comparison.both == 30
    assert sum(cell.only_a for cell in cells) == comparison.only_a == 60
    assert len(cells) == 5
    assert all(cell.rows() >= 10 for cell in cells)  # fifths of 90 and 30 rows together
    text = comparison_text(comparison, ("first", "other"))
    assert "step 2 (threshold): score_too_high" in text
    assert "1 to " in text


def test_datasets_of_two_pools_are_refused(folder: Path) -> None:
    first = made(folder, "first", "exact_dedup")
    (folder / "in" / "0.jsonl").write_bytes(b'{"text": "other"}\n')
    other = made(folder, "other", "exact_dedup")
    with pytest.raises(DataError, match="of one pool"):
        compare(first, other)
