"""Why a row went in a step that looks at the whole pool: score and cut, or the copy that stays."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.pool_rows import pool_rows
from pipelines.reports.why import fates
from pipelines.storage.open import open_store

BASE = " ".join(f"w{n}" for n in range(100))
ROWS = [
    {"text": BASE, "url": "u:first", "score": 5.0},
    {"text": BASE, "url": "u:equal", "score": 4},
    {"text": BASE.replace("w50", "other"), "url": "u:near", "score": 3},
    {"text": "short and different", "url": "u:low", "score": 1.0},
    {"text": "another short one here", "url": "u:high", "score": 9},
    {"text": "the least of all", "url": "u:least", "score": 0.5},
]
STEPS = [
    "exact_dedup",
    "minhash_dedup",
    {"select": {"by": "score", "total": 2}},
]


@pytest.fixture
def run_folder(tmp_path: Path) -> str:
    (tmp_path / "in").mkdir()
    for shard in range(2):
        data = b"".join(orjson.dumps(row) + b"\n" for row in ROWS[shard::2])
        (tmp_path / "in" / f"{shard}.jsonl").write_bytes(data)
    run(Pipeline.from_steps(STEPS), open_pool(f"{tmp_path}/in"), out=f"{tmp_path}/out")
    return f"{tmp_path}/out"


def measured(run_folder: str, url: str) -> str:
    [fate] = fates(open_store(run_folder), url)
    return fate.measured()


def test_an_equal_document_names_the_copy_that_stays(run_folder: str) -> None:
    assert measured(run_folder, "u:equal") == "copy of 0:0 u:first"


def test_a_near_duplicate_names_similarity_and_copy(run_folder: str) -> None:
    # one word in 100 changed: 5 of 96 5-grams, 91 / 101
    assert measured(run_folder, "u:near") == "0.90099 (limit 0.8), copy of 0:0 u:first"


def test_a_document_below_the_cut_names_its_score_and_the_cut(run_folder: str) -> None:
    """Rows above the cut stay; of those at it, as many as there is room for."""
    assert measured(run_folder, "u:low") == "1 (limit 1)"
    assert measured(run_folder, "u:least") == "0.5 (limit 1)"


def test_a_kept_document_has_nothing_to_say(run_folder: str) -> None:
    assert measured(run_folder, "u:high") == "-"


@pytest.mark.parametrize("lowest", [False, True])
def test_cuts_from_below_are_said_as_they_are(tmp_path: Path, lowest: bool) -> None:
    (tmp_path / "in").mkdir()
    rows = [{"text": "t", "url": f"u:{n}", "score": n - 2} for n in range(5)]
    (tmp_path / "in" / "0.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    steps = [{"select": {"by": "score", "total": 2, "lowest": lowest}}]
    run(Pipeline.from_steps(steps), open_pool(f"{tmp_path}/in"), out=f"{tmp_path}/out")
    worst, expected = ("u:4", "2 (limit 0)") if lowest else ("u:0", "-2 (limit 0)")
    assert measured(f"{tmp_path}/out", worst) == expected


def test_a_pool_that_was_removed_leaves_what_the_run_knows(run_folder: str) -> None:
    """The copy is named by its number, as its URL is in the pool alone."""
    pool = Path(run_folder).parent / "in"
    pool.rename(pool.with_name("elsewhere"))
    assert measured(run_folder, "u:equal") == "copy of 0:0"
    assert measured(run_folder, "u:low") == "-"  # its score was in the pool
    [fate] = fates(open_store(run_folder), "0.jsonl:2")
    assert (fate.shard, fate.number) == (0, 2)


def test_a_file_that_came_later_is_not_of_the_run(run_folder: str) -> None:
    """It is sorted before the second shard, whose rows keep their numbers."""
    later = Path(run_folder).parent / "in" / "00.jsonl"
    later.write_bytes(orjson.dumps({"text": "came later", "url": "u:later"}) + b"\n")
    assert measured(run_folder, "u:near") == "0.90099 (limit 0.8), copy of 0:0 u:first"
    [row] = pool_rows(open_store(run_folder), [1 << 32])[1].values()
    assert row.column("url").to_pylist() == ["u:equal"]
