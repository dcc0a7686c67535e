"""MinHash: recall against theory on planted duplicates, groups, who stays, odd documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.dedup.minhash import MinhashDedup
from pipelines.engine.apply import apply
from pipelines.engine.run import run
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.global_steps import near_duplicates
from pipelines.global_steps.group_keys import KeyWriter, read_verdict
from pipelines.job import Plan
from pipelines.operators import Keys
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.storage.open import open_store

WORDS = 204  # 200 shingles of 5 words
PAIRS = 400


def words(rng: np.random.Generator, number: int) -> list[str]:
    return [f"w{value}" for value in rng.integers(0, 1 << 40, number)]


def pair(rng: np.random.Generator, jaccard: float) -> tuple[str, str, float]:
    """Two texts that share their beginning, and the Jaccard similarity of their 5-grams."""
    shingles = WORDS - 4
    shared = round(2 * shingles * jaccard / (1 + jaccard))
    first = words(rng, WORDS)
    other = first[: shared + 4] + words(rng, shingles - shared)
    return " ".join(first), " ".join(other), shared / (2 * shingles - shared)


def batch_of(texts: list[str], **columns: Any) -> Batch:
    rows = pa.array(range(len(texts)), pa.int64())
    return Batch(pa.table({"row": rows, "text": pa.array(texts, STRING), **columns}))


@pytest.mark.parametrize("preset", ["14x8", "93x15"])
@pytest.mark.parametrize("jaccard", [0.95, 0.85, 0.75, 0.6, 0.4])
def test_recall_is_what_theory_says(preset: str, jaccard: float) -> None:
    rng = np.random.default_rng(round(jaccard * 100))
    pairs = [pair(rng, jaccard) for _ in range(PAIRS)]
    texts = [text for first, other, _ in pairs for text in (first, other)]
    operator = MinhashDedup.model_validate({"preset": preset})
    bands, rows = operator.shape()
    key = operator.keys(batch_of(texts)).key.reshape(PAIRS, 2, bands, 2)
    rate = (key[:, 0] == key[:, 1]).all(axis=-1).any(axis=-1).mean()
    chance = 1 - (1 - pairs[0][2] ** rows) ** bands
    sigma = (chance * (1 - chance) / PAIRS) ** 0.5
    assert abs(rate - chance) <= 4 * sigma + 1 / PAIRS


def test_texts_without_common_shingles_share_no_key() -> None:
    rng = np.random.default_rng(5)
    texts = [" ".join(words(rng, 40)) for _ in range(1000)]
    key = MinhashDedup().keys(batch_of(texts)).key
    assert len(np.unique(key, axis=0)) == len(key)


def test_a_signature_is_the_least_value_over_the_n_grams() -> None:
    factors, summands = kernels.minhash.coefficients(3, 6)
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 9, dtype=np.uint64)

    def sign(begin: int, end: int) -> Any:
        return kernels.minhash.signatures(
            hashes,
            np.array([begin]),
            np.array([end]),
            ngram=4,
            factors=factors,
            summands=summands,
        )[0]

    parts = [sign(i, i + 4) for i in range(6)]
    assert (sign(0, 9) == np.min(parts, axis=0)).all()
    assert len({tuple(part) for part in parts}) == 6
    assert (sign(0, 3) != sign(0, 2)).all()


def test_links_join_over_any_band_and_the_best_of_a_group_stays() -> None:
    rng = np.random.default_rng(2)
    base = words(rng, 300)
    chain = [base[30 * i : 30 * i + 180] for i in range(4)]  # neighbours alike, the ends not
    texts = [" ".join(part) for part in chain] + [" ".join(words(rng, 100)), "", " "]
    table = pa.table({"text": texts, "score": [1.0, None, 3.0, 2.0, 0.0, 0.0, 0.0]})
    near = {"bands": 60, "rows": 3, "verify": None}
    first = apply(Pipeline.from_steps([{"minhash_dedup": near}]), table, quarantine=False)
    assert first.table.column("row").to_pylist() == [0, 4, 5, 6]
    by = near | {"keep_by": "score"}
    best = apply(Pipeline.from_steps([{"minhash_dedup": by}]), table, quarantine=False)
    assert best.table.column("row").to_pylist() == [2, 4, 5, 6]
    least = Pipeline.from_steps([{"minhash_dedup": by | {"keep": "min"}}])
    assert apply(least, table, quarantine=False).table.column("row").to_pylist() == [0, 4, 5, 6]
    assert {row["reason"] for row in best.rejected.to_pylist()} == {"near_duplicate"}


@pytest.mark.parametrize("units", ["whitespace", "uax29", "characters"])
def test_equal_short_and_single_word_documents_are_one_group(units: str) -> None:
    texts = ["hi there", "same " * 500, "no", "hi there", "same " * 400] + ["no"] * 2000
    steps = [{"minhash_dedup": {"units": units}}]
    applied = apply(Pipeline.from_steps(steps), pa.table({"text": texts}), quarantine=False)
    assert applied.table.column("row").to_pylist() == [0, 1, 2]


def test_case_counts_unless_it_is_told_not_to() -> None:
    table = pa.table({"text": ["A Title In Six Words Here", "a title in six words here"]})
    strict = apply(Pipeline.from_steps(["minhash_dedup"]), table)
    assert strict.table.num_rows == 2
    loose = apply(Pipeline.from_steps([{"minhash_dedup": {"lowercase": True}}]), table)
    assert loose.table.num_rows == 1


def test_one_and_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    folder = tmp_path / "in"
    folder.mkdir()
    pairs = [pair(rng, 0.95) for _ in range(60)]
    texts = [first for first, _, _ in pairs] + [other for _, other, _ in pairs]
    for shard in range(4):
        lines = [{"text": text} for text in texts[shard * 30 : shard * 30 + 30]]
        (folder / f"{shard}.jsonl").write_bytes(b"".join(orjson.dumps(x) + b"\n" for x in lines))
    pipeline = Pipeline.from_steps(["minhash_dedup"], name="near")
    pool = open_pool(str(folder))
    first = run(pipeline, pool, out=str(tmp_path / "one"))
    second = run(pipeline, pool, out=str(tmp_path / "two"), map_tasks=ProcessMap(2))
    assert first.record.id == second.record.id
    assert first.record.counts["rows_out"] == 60


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="give bands and rows together"):
        MinhashDedup.model_validate({"bands": 3})
    operator = MinhashDedup.model_validate({"keep_by": "name"})
    with pytest.raises(ValueError, match="strings of at most 31 bytes, and 'name' holds one of 32"):
        operator.keys(batch_of(["a b"], name=pa.array(["x" * 32], STRING)))
    with pytest.raises(ValueError, match="'name' holds list"):
        operator.keys(batch_of(["a b"], name=pa.array([[1]])))


@pytest.mark.parametrize("num_partitions", [1, 2, 7])
@pytest.mark.parametrize("max_links", [near_duplicates.MAX_LINKS, 40])
def test_groups_are_those_of_a_plain_search_whatever_the_parts(
    tmp_path: Path, num_partitions: int, max_links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_LINKS", max_links)  # 40: joined in many parts
    rng = np.random.default_rng(4)
    rows = np.arange(300) % 3 << 32 | np.arange(300)
    keys = rng.integers(0, 150, (300, 2)).astype(np.uint64)  # two bands, few values each
    rank = rng.integers(0, 3, 300).astype(float)
    store = open_store(str(tmp_path))
    names = []
    for shard in range(3):
        here = np.flatnonzero(rows >> 32 == shard)
        writer = KeyWriter(store, f"work/keys-{shard}.parts", num_partitions)
        for band in range(2):
            key = np.stack([keys[here, band] * np.uint64(2) + np.uint64(band)] * 2, axis=1)
            unit = np.full(len(here), band)
            writer.add(Keys(np.arange(len(here)), unit, key, rank[here]), rows[here])
        names.append(writer.close().name)
    plan = Plan(
        name="x",
        steps=({"minhash_dedup": {"verify": None}},),
        input_uri="",
        output_uri=store.uri,
        num_partitions=num_partitions,
    )
    verdict, groups = near_duplicates.find_linked(
        store,
        plan=plan,
        step=0,
        state="s",
        files=names,
        sketches=[],
        rank="float64",
        compared=300,
        map_tasks=map_here,
    )
    removed = [read_verdict(store, verdict, shard)[0] for shard in range(3)]
    expected = losers_by_search(rows, keys, rank)
    assert sorted(np.concatenate(removed).tolist()) == expected
    assert groups.dropped == len(expected)
    assert groups.largest[0].size > 40


def losers_by_search(rows: Any, keys: Any, rank: Any) -> list[int]:
    """Walk from row to row over equal keys of a band; all but the best of each group."""
    left, losers = set(range(len(rows))), []
    while left:
        group, collected = [], [left.pop()]
        while collected:
            first = collected.pop()
            group.append(first)
            near = {other for other in left if (keys[first] == keys[other]).any()}
            left -= near
            collected += near
        group.sort(key=lambda first: (rank[first], rows[first]))
        losers += [int(rows[item]) for item in group[1:]]
    return sorted(losers)
