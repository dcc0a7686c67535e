"""Documents for a classifier: which are drawn, in which order, from what."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import xxhash

from pipelines.errors import UsageError
from pipelines.execution.executors import map_here
from pipelines.pipeline import Pipeline
from pipelines.scoring.samples import Documents, held_out, open_source, open_sources, sample


def write(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    return str(path)


def texts(name: str, number: int) -> list[str]:
    return [f"{name} document {n} of some words" for n in range(number)]


def test_one_file_is_a_source_whatever_lies_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", texts("a", 3))
    write(tmp_path / "b.jsonl", texts("b", 3))
    source = open_source(f"mine={file}")
    assert source.name == "mine"
    assert [shard.name for shard in source.pool.shards] == ["a.jsonl"]
    assert [shard.name for shard in open_source(str(tmp_path)).pool.shards] == [
        "a.jsonl",
        "b.jsonl",
    ]


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x" / "a.jsonl", ["x"])
    other = write(tmp_path / "y" / "a.jsonl", ["y"])
    with pytest.raises(UsageError, match="NAME=URI"):
        open_sources([file, other], what="--positives")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        open_source(str(tmp_path / "nothing.jsonl"))


@pytest.mark.parametrize("seed", [None, 3])
def test_the_first_by_hash_over_all_sources(tmp_path: Path, seed: int | None) -> None:
    sources = open_sources(
        [write(tmp_path / name, texts(name, 50)) for name in ("a.jsonl", "b.jsonl")], what="it"
    )
    sampled = sample(
        Documents(sources, take=20), label="x", seed=seed, work=f"{tmp_path}/w", map_tasks=map_here
    )

    def order(text: str) -> int:
        seeded = text if seed is None else f"{seed}:{text}"
        hash_ = xxhash.xxh3_64_intdigest(seeded.encode())
        return hash_ if seed is None else -hash_

    expected = sorted(texts("a.jsonl", 50) + texts("b.jsonl", 50), key=order)[:20]
    assert sampled.texts == expected
    assert [sources[n].name for n in sampled.source] == [text.split()[0] for text in expected]


def test_all_documents_that_qualify_in_the_order_of_the_pool(tmp_path: Path) -> None:
    sources = open_sources([write(tmp_path / "a.jsonl", ["one two", "one", "a b c"])], what="it")
    two = Pipeline.from_steps([{"word_count": {"min_words": 2}}])
    documents = Documents(sources, qualify=two)
    sampled = sample(documents, label="x", seed=0, work=f"{tmp_path}/w", map_tasks=map_here)
    assert sampled.texts == ["one two", "a b c"]


def test_copies_are_held_out_together(tmp_path: Path) -> None:
    sources = open_sources([write(tmp_path / "a.jsonl", texts("a", 400) * 2)], what="it")
    sampled = sample(
        Documents(sources), label="x", seed=0, work=f"{tmp_path}/w", map_tasks=map_here
    )
    mask = held_out(sampled, seed=0, fraction=0.25)
    assert (mask[:400] == mask[400:]).all()
    assert 0.15 < mask.mean() < 0.35  # 400 draws: more than four sigma
