"""What a run tells about its duplicates, the size a filter needs, and odd pools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.pool import Pool, open_pool
from pipelines.formats.sample import pieces
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from pipelines.reports import duplicate_groups
from pipelines.reports.filter_size import estimates
from pipelines.storage.open import open_store

ALL: list[Any] = [
    {"exact_dedup": {"unit": "line"}},
    {"minhash_dedup": {"verify": 0.6, "keep_by": "date"}},
    {"ngram_bloom_dedup": {"expected_ngrams": 100_000, "groups": 2}},
    {"substring_dedup": {"length": 20, "units": "whitespace"}},
]


def words(rng: np.random.Generator, number: int) -> str:
    return " ".join(f"w{value}" for value in rng.integers(0, 1 << 40, number))


def write_pool(folder: Path, *shards: list[dict[str, Any]]) -> Pool:
    folder.mkdir(parents=True)
    for number, rows in enumerate(shards):
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (folder / f"{number}.jsonl").write_bytes(data)
    return open_pool(str(folder))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Shards with equal lines, near copies, paragraphs that come again, and long repeated spans."""
    rng = np.random.default_rng(11)
    rows: list[dict[str, Any]] = []
    span = words(rng, 40)
    for n in range(60):
        text = words(rng, 120)
        rows.append({"text": text, "date": "2023"})
        if n % 5 == 0:
            rows.append({"text": text.replace(text.split()[60], "changed"), "date": "2024"})
        if n % 6 == 0:
            rows.append({"text": f"{words(rng, 80)}\nSubscribe to us\n{words(rng, 80)}"})
        if n % 10 == 0:
            rows.append({"text": f"{words(rng, 50)} {span} {words(rng, 50)}"})
    rng.shuffle(rows)
    quarter = len(rows) // 4 + 1
    shards = [rows[i : i + quarter] for i in range(0, len(rows), quarter)]
    return write_pool(tmp_path_factory.mktemp("pool") / "in", *shards)


@pytest.fixture(scope="module")
def done(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("done") / "out"
    return out, run(Pipeline.from_steps(ALL, name="all"), pool, out=str(out))


@pytest.mark.parametrize("workers", [2, 7])
def test_all_four_write_the_same_bytes_with_any_number_of_workers(
    pool: Pool, done: tuple[Path, Result], tmp_path: Path, workers: int
) -> None:
    pipeline = Pipeline.from_steps(ALL, name="all")
    other = run(pipeline, pool, out=str(tmp_path / "out"), map_tasks=ProcessMap(workers))
    folder, result = done
    assert other.record.id == result.record.id
    assert other.summary.stats == result.summary.stats
    assert contents(tmp_path / "out" / "duplicates") == contents(folder / "duplicates")


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir())


def test_reports_count_groups_bytes_and_filling(done: tuple[Path, Result]) -> None:
    lines, near, bloom, spans = duplicate_groups.reports(open_store(str(done[0])))
    assert (lines.step, lines.operator) == (1, "exact_dedup")
    assert lines.groups is not None
    assert near.groups is not None
    assert spans.groups is not None
    assert lines.groups.sizes == {"9-16": 1}  # ten times "Subscribe to us"
    assert lines.groups.largest[0].example == "Subscribe to us"
    assert lines.groups.dropped == 9
    assert sum(lines.removed_bytes.values()) == 9 * len("Subscribe to us\n")
    assert near.groups.sizes == {"2": 12}
    assert near.rejected == near.groups.dropped == 12
    assert [state.group for state in bloom.filters] == [1, 2]
    for state in bloom.filters:
        assert 0 < state.inserted_ngrams < state.expected_ngrams == 100_000
        assert 0 < state.false_positive_rate < 0.01
    assert spans.groups.largest[0].size == 6  # six documents have the span
    text = duplicate_groups.report_text(lines)
    assert "9 duplicates in 1 groups" in text
    assert "Subscribe to us" in text


def test_a_group_stands_side_by_side(pool: Pool, tmp_path: Path) -> None:
    steps = [{"word_count": {"min_words": 50}}, {"minhash_dedup": {"keep_by": "date"}}]
    run(Pipeline.from_steps(steps), pool, out=str(tmp_path / "out"))
    store = open_store(str(tmp_path / "out"))
    [file] = (tmp_path / "out" / "duplicates").glob("001-*.parquet")
    row = pq.read_table(file)["row"][0].as_py()
    [group] = duplicate_groups.groups_of(store, f"{row >> 32}:{row & 0xFFFFFFFF}", most=5)
    assert (group.step, group.size) == (2, 2)
    kept, removed = group.members
    assert (kept.kept, removed.kept, removed.row) == (True, False, row)
    assert "changed" in str(kept.text)  # keep_by date: the changed copy
    assert "changed" not in str(removed.text)
    shown = duplicate_groups.group_text(group, width=100)
    assert [line for line in shown.splitlines() if " | " in line and "changed" in line]


def test_a_group_behind_changed_texts_says_why_it_has_none(done: tuple[Path, Result]) -> None:
    store = open_store(str(done[0]))
    [file] = (done[0] / "duplicates").glob("001-*.parquet")
    row = pq.read_table(file)["row"][0].as_py()
    [group] = duplicate_groups.groups_of(store, f"{row >> 32}:{row & 0xFFFFFFFF}", most=5)
    assert group.members[0].text is None
    assert "changed by step 1 (exact_dedup)" in duplicate_groups.group_text(group)


def test_the_command_shows_reports_and_groups(done: tuple[Path, Result]) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", "duplicates", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = call(str(done[0]))
    assert whole.returncode == 0
    assert "step 4 (substring_dedup)" in whole.stdout
    lone = call(str(done[0]), "0:999999")
    assert lone.returncode == 3
    assert "is in no group" in lone.stderr
    nothing = call(str(done[0].parent))
    assert nothing.returncode != 0
    assert "holds no run" in nothing.stderr


def test_links_below_the_asked_similarity_do_not_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = words(rng, 204).split()
    far = [*base[:150], *words(rng, 54).split()]  # J = 146 / 254 of 5-grams = 0.57
    near = [*base[:200], "other", *base[201:]]  # J = 196 / 204 = 0.96
    texts = [" ".join(t) for t in (base, far, near)]
    pool = write_pool(tmp_path / "in", *[[{"text": t}] for t in texts])
    sensitive = {"bands": 60, "rows": 2}

    def left(**parameters: Any) -> list[int]:
        out = tmp_path / f"out{parameters.get('verify')}"
        steps = [{"minhash_dedup": sensitive | parameters}]
        run(Pipeline.from_steps(steps), pool, out=str(out))
        rows = [r for p in (out / "data").iterdir() for r in pq.read_table(p)["row"].to_pylist()]
        return sorted(row >> 32 for row in rows)

    assert left(verify=None) == [0]
    assert left(verify=0.5) == [0]
    assert left(verify=0.6) == [0, 1]
    assert left(verify=0.97) == [0, 1, 2]


# ---- sizes


def test_a_sample_is_spread_over_shards_and_knows_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shards = [[{"text": words(rng, 3000)} for _ in range(300)] for _ in range(3)]
    pool = write_pool(tmp_path / "in", *shards)
    some = list(pieces(pool, shards=2, max_bytes=8 << 20))
    assert [piece.shard for piece in some] == [0, 2]
    for piece in some:
        assert not piece.whole
        assert piece.table.num_rows < 300
        share = piece.table.num_rows / 300
        assert abs(piece.file_bytes / pool.shards[piece.shard].num_bytes - share) < 0.1
    [whole] = pieces(pool, shards=1, max_bytes=1 << 40)
    assert whole.whole
    assert whole.file_bytes == pool.shards[0].num_bytes


def test_the_estimate_is_what_the_filter_then_holds(tmp_path: Path, pool: Pool) -> None:
    steps = [{"ngram_bloom_dedup": {"expected_ngrams": 1000, "false_positive_rate": 0.001}}]
    [few] = estimates(Pipeline.from_steps(steps), pool)
    assert not few.enough
    assert few.rate_as_written > 0.5
    steps[0]["ngram_bloom_dedup"]["expected_ngrams"] = few.estimated_ngrams
    run(Pipeline.from_steps(steps), pool, out=str(tmp_path / "out"))
    [report] = duplicate_groups.reports(open_store(str(tmp_path / "out")))
    [state] = report.filters
    assert 0.8 * few.estimated_ngrams <= state.inserted_ngrams <= few.estimated_ngrams


# ---- odd pools


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        (["exact_dedup"], 1_000_000),
        (["minhash_dedup"], 100_000),  # quadratic work would be minutes here as well
        ([{"substring_dedup": {"length": 5, "units": "whitespace"}}], 100_000),
    ],
)
def test_one_document_very_many_times(steps: list[Any], rows: int, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    text = pa.array(["the same again and again and again"] * (rows // 4))
    for shard in range(4):
        pq.write_table(pa.table({"text": text}), folder / f"{shard}.parquet")
    result = run(Pipeline.from_steps(steps), open_pool(str(folder)), out=str(tmp_path / "out"))
    assert result.record.counts["rows_out"] == 1
    [report] = duplicate_groups.reports(open_store(str(tmp_path / "out")))
    assert report.groups is not None
    assert report.groups.largest[0].size == rows


def test_identical_ids_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [{"id": "same", "text": f"text {n % 3}"} for n in range(9)]
    result = run(
        Pipeline.from_steps(["exact_dedup"]),
        write_pool(tmp_path / "in", rows),
        out=str(tmp_path / "out"),
    )
    assert result.record.counts["rows_out"] == 3


def test_a_shard_that_vanishes_between_passes_is_named(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "in", *[[{"text": f"t {n}"}, {"text": "x"}] for n in range(3)])
    calls = 0

    def vanishing(function: Any, tasks: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            (tmp_path / "in" / "1.jsonl").unlink()
        return map_here(function, tasks, **options)

    with pytest.raises((ShardError, FileNotFoundError), match=r"1\.jsonl"):
        run(
            Pipeline.from_steps(["exact_dedup"]),
            pool,
            out=str(tmp_path / "out"),
            map_tasks=vanishing,
        )
