"""Reports on runs over pairs: the pool's record lists tars and features besides the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.engine.run import retry, run
from pipelines.errors import DataError
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline
from pipelines.records import File, PoolRecord, PoolSource, PoolWork, made_by, now, sha256_file
from pipelines.reports.compare import compare
from pipelines.reports.duplicate_groups import groups_of
from pipelines.reports.known_duplicates import known_duplicates
from pipelines.reports.why import fates
from pipelines.storage.open import open_store

ROWS = 60  # of each of two tables: 20 drawings, three pairs each; one in five is small
DEDUP = {"exact_dedup": {"column": "url"}}
SIZE = {"picture_size": {"min_side": 32}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole pool: `record.json` lists features before tables, and tables next to the tars."""
    folder = tmp_path_factory.mktemp("pool")
    for name in ("metadata", "shards"):
        (folder / name).mkdir()
    files = []
    for number in range(2):
        rows = range(number * ROWS, (number + 1) * ROWS)
        table = pa.table(
            {
                "uid": [f"{row:032x}" for row in rows],
                "url": [f"https://h.org/{row % 20 + 20 * number}.svg" for row in rows],
                "text": [f"drawing {row}" for row in rows],
                "original_width": [16 if row % 5 == 0 else 224 for row in rows],
                "original_height": [224] * ROWS,
            }
        )
        np.savez(folder / "metadata" / f"{number}.npz", l14_img=np.eye(ROWS, 8, dtype=np.float16))
        pq.write_table(table, folder / "metadata" / f"{number}.parquet")
        (folder / "shards" / f"{number}.tar").write_bytes(b"")
        pq.write_table(table.select(["uid"]), folder / "shards" / f"{number}.parquet")
        names = ("shards/{}.tar", "shards/{}.parquet", "metadata/{}.npz", "metadata/{}.parquet")
        files += [name.format(number) for name in names]
    source = PoolSource(name="test", version="1", sha256="", licence="MIT")
    record = PoolRecord.seal(
        work=PoolWork(name="test", variant="pairs", sources=(source,), parameters={}),
        parents={},
        outputs=[
            File(name=n, sha256=sha256_file(folder / n), num_bytes=(folder / n).stat().st_size)
            for n in files
        ],
        made_by=made_by(now()),
    )
    (folder / "record.json").write_bytes(record.to_json())
    return folder


def made(pool: Path, name: str, *steps: object) -> str:
    out = str(pool.parent / name)
    run(Pipeline.from_steps(list(steps)), open_pairs(str(pool)), out=out, format="uids")  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def folder(pool: Path) -> str:
    return made(pool, "deduplicated", SIZE, DEDUP)


def test_what_became_of_a_pair_is_said_by_uid_row_and_url(folder: str) -> None:
    store = open_store(folder)
    [small] = fates(store, f"{60:032x}")
    assert (small.shard, small.number, small.reason) == (1, 0, "too_small")
    [copy] = fates(store, "1:21")
    assert (copy.reason, copy.kept_url) == ("duplicate", "https://h.org/21.svg")
    assert copy.measured() == "copy of 1:1 https://h.org/21.svg"
    kept = fates(store, "https://h.org/21.svg")
    assert [(fate.number, fate.fate) for fate in kept] == [
        (1, "kept"),
        (21, "rejected"),
        (41, "rejected"),
    ]
    assert not fates(store, "7:0")


def test_a_group_of_pairs_is_shown_with_the_rows_of_its_table(folder: str) -> None:
    [group] = groups_of(open_store(folder), "1:41", most=5)
    assert {member.url for member in group.members} == {"https://h.org/21.svg"}
    assert [(m.shard, m.number, m.kept) for m in group.members] == [
        (1, 1, True),
        (1, 41, False),
        (1, 21, False),
    ]


def test_a_run_over_pairs_is_found_done_and_printed(folder: str) -> None:
    assert retry(folder).skipped
    for command in ("retry", "report"):
        result = CliRunner().invoke(app, [command, folder])
        assert result.exit_code == 0, result.output
        assert "rows, in " in result.output


def test_recall_and_precision_by_what_is_known(pool: Path, folder: str) -> None:
    """By url everything is right; by caption, which no two pairs share, everything is wrong."""
    [by_url] = known_duplicates(open_store(folder), "url")
    assert (by_url.step, by_url.operator, by_url.rows_in) == (2, "exact_dedup", 96)
    # drawings 0, 5, 10, 15 of each table lose all their pairs to their size
    assert (by_url.copies, by_url.dropped_copies) == (64, 64)
    assert (by_url.dropped, by_url.dropped_alike) == (64, 64)
    [by_caption] = known_duplicates(open_store(folder), "text")
    assert (by_caption.recall, by_caption.precision) == (None, 0.0)
    captions = made(pool, "captions", {"exact_dedup": {"column": "text"}})
    [nothing] = known_duplicates(open_store(captions), "url")
    assert (nothing.copies, nothing.recall, nothing.precision) == (80, 0.0, None)
    with pytest.raises(DataError, match="no deduplication that drops rows as a whole"):
        known_duplicates(open_store(made(pool, "sizes", SIZE)), "url")
    result = CliRunner().invoke(app, ["duplicates", folder, "--same", "url"])
    assert "exact_dedup       96      64    64  100.0%             64  100.0%" in result.output
    with pytest.raises(DataError, match="has a column 'nothing'"):
        known_duplicates(open_store(folder), "nothing")


def test_two_lists_of_pairs_are_compared_by_rows(pool: Path, folder: str) -> None:
    large = made(pool, "large", SIZE)
    unequal = made(pool, "unequal", DEDUP)
    comparison = compare(large, unequal)
    # 40 drawings stay of the pool, 8 of them small; of the 96 large pairs 32 are the first
    assert (comparison.both, comparison.only_a, comparison.only_b) == (32, 64, 8)
    assert comparison.neither == 2 * ROWS - 32 - 64 - 8
    assert {(f.side, f.step, f.rows) for f in comparison.fates} == {
        ("A", "step 1 (exact_dedup): duplicate", 64),
        ("B", "step 1 (picture_size): too_small", 8),
    }
    assert sum(cell.rows() for cell in comparison.groups["domain"]) == 32 + 64 + 8
    assert (compare(folder, large).only_a, compare(folder, large).only_b) == (0, 64)
