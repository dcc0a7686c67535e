"""Checked links: templates are no copies, every pair is evidence, and the same on any workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benches.templates import pages, similarity, write
from pipelines import kernels
from pipelines.dedup.minhash import SKETCH
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING

SHARDS = 3
PAGES = pages(600, per_template=50, words=500, seed=3)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("templates") / "in"
    write(folder, PAGES.texts, shards=SHARDS)
    return str(folder)


def dedup(pool: str, out: Path, map_tasks: MapTasks = map_here, **parameters: object) -> Result:
    pipeline = Pipeline.from_steps([{"minhash_dedup": parameters}])
    return run(pipeline, open_pool(pool), out=str(out), map_tasks=map_tasks)


def page_of(row: int) -> int:
    """Which page a row of the pool is."""
    parts = np.array_split(np.arange(len(PAGES.texts)), SHARDS)
    return int(parts[row >> 32][row & 0xFFFFFFFF])


def removed(out: Path) -> list[tuple[int, int]]:
    """Pages that went, each with the one that stays for it."""
    tables = [pq.read_table(file) for file in sorted((out / "duplicates").glob("*.parquet"))]
    rows = pa.concat_tables(tables).select(["row", "kept_row"]).to_pylist()
    return [(page_of(pair["row"]), page_of(pair["kept_row"])) for pair in rows]


def copies_found(dropped: set[int]) -> float:
    """Of the pages with a planted copy, the part of which one of the two went."""
    pairs = [(n, page) for n, page in enumerate(PAGES.copy_of) if n != page]
    return sum(bool({n, page} & dropped) for n, page in pairs) / len(pairs)


def test_templates_stay_and_copies_go(pool: str, tmp_path: Path) -> None:
    """At most 1 % falsely removed, at 95 % of the recall without checks."""
    dedup(pool, tmp_path / "plain", verify=None)
    plain = removed(tmp_path / "plain")
    falsely = [p for p in plain if similarity(PAGES.texts[p[0]], PAGES.texts[p[1]]) < 0.8]
    assert len(falsely) >= len(plain) / 2  # else the test would say nothing
    dedup(pool, tmp_path / "checked")
    checked = removed(tmp_path / "checked")
    falsely = [p for p in checked if similarity(PAGES.texts[p[0]], PAGES.texts[p[1]]) < 0.8]
    assert len(falsely) <= 0.01 * len(checked)
    assert copies_found({page for page, _ in checked}) >= 0.95 * copies_found({p for p, _ in plain})


def test_every_pair_that_was_compared_is_evidence(pool: str, tmp_path: Path) -> None:
    dedup(pool, tmp_path / "out")
    files = sorted((tmp_path / "out" / "compared").glob("*.parquet"))
    assert len(files) == SHARDS
    pairs = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    assert {pair["similar"] for pair in pairs} == {True, False}
    for pair in pairs[::50]:
        expected = similarity(
            PAGES.texts[page_of(pair["row"])], PAGES.texts[page_of(pair["other"])]
        )
        assert pair["similarity"] == pytest.approx(expected, abs=1e-6)  # float32
        assert pair["similar"] == (expected >= 0.8)
    allowed = {(pair["row"], pair["other"]) for pair in pairs if pair["similar"]}
    tables = [pq.read_table(f) for f in (tmp_path / "out" / "duplicates").glob("*.parquet")]
    for pair in pa.concat_tables(tables).to_pylist():
        assert (pair["row"], pair["kept_row"]) in allowed


def test_processes_and_parts_change_nothing(pool: str, tmp_path: Path) -> None:
    here = dedup(pool, tmp_path / "here")
    there = dedup(pool, tmp_path / "there", ProcessMap(2))
    assert here.record.id == there.record.id


def test_containment_takes_a_page_that_is_a_part_of_another(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(120)]
    (tmp_path / "in").mkdir()
    texts = [" ".join(words), " ".join(words[:70])]  # 66 of 116 5-grams
    pq.write_table(pa.table({"text": pa.array(texts, STRING)}), tmp_path / "in" / "0.parquet")
    sensitive = {"bands": 60, "rows": 2, "verify": 0.9}
    pool = str(tmp_path / "in")
    assert dedup(pool, tmp_path / "jaccard", **sensitive).record.counts["rows_out"] == 2
    contained = dedup(pool, tmp_path / "part", **sensitive, verify_by="containment")
    assert contained.record.counts["rows_out"] == 1


def test_long_documents_are_compared_by_a_part_of_their_ngrams() -> None:
    rng = np.random.default_rng(5)
    base = [f"w{n}" for n in rng.integers(0, 1 << 40, 20_000)]
    other = base[:15_000] + [f"v{n}" for n in range(5_000)]
    texts = pa.array([" ".join(base), " ".join(other), " ".join(base[:50])], STRING)
    words = kernels.words.whitespace(texts)
    flat, borders, shifts = kernels.minhash.sketches(
        words.hash, words.begin, words.end, ngram=5, limit=SKETCH
    )
    assert shifts.tolist() == [5, 5, 0]  # 19,996 5-grams: one in 32
    assert 500 < borders[1] < 750
    sets = (*kernels.minhash.sorted_sets(flat, borders), shifts)
    rows = np.array([0, 2]), np.array([1, 0])
    jaccard = kernels.minhash.similarity(sets, rows[0], sets, rows[1], containment=False)
    true = 14_996 / (2 * 19_996 - 14_996)
    assert jaccard[0] == pytest.approx(true, abs=4 * (true * (1 - true) / 780) ** 0.5)
    assert jaccard[1] < 0.02
