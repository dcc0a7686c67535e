"""Mixtures: how often each row comes, whatever cuts the work, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from pipelines.engine.run import run
from pipelines.errors import DataError
from pipelines.execution.executors import MapTasks, ProcessMap
from pipelines.formats import mix
from pipelines.formats.mixture import Mixture, load_mixture
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from pipelines.records import DatasetRecord, RecordError


def dataset(folder: Path, word: str, rows: int) -> str:
    source = folder / f"pool-{word}"
    source.mkdir(parents=True)
    for shard in range(2):
        lines = [orjson.dumps({"text": f"{word} {shard} {n}"}) for n in range(rows // 2)]
        (source / f"{shard}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    out = folder / word
    run(Pipeline.from_steps([], name=word), open_pool(str(source)), out=str(out))
    return str(out)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    return {word: dataset(folder, word, rows) for word, rows in (("web", 2000), ("code", 400))}


def mixture(folder: Path, **content: Any) -> Mixture:
    file = folder / "mixture.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_mixture(file)


def rows_of(uri: str, out: Path, **options: Any) -> tuple[list[tuple[str, str]], str]:
    """All rows of a mixture by reading it as a pool, and the id of that run."""
    import pyarrow.parquet as pq

    result = run(Pipeline.from_steps([], name="all"), open_pool(uri), out=str(out), **options)
    tables = [pq.read_table(out / file.name) for file in result.record.outputs]
    pairs = [
        pair
        for table in tables
        for pair in zip(table["source"].to_pylist(), table["text"].to_pylist(), strict=True)
    ]
    return pairs, result.record.id


def test_rows_come_as_often_as_their_source_says(sources: dict[str, str], tmp_path: Path) -> None:
    given = [
        {"dataset": sources["web"], "name": "web", "repeat": 0.25},
        {"dataset": sources["code"], "name": "code", "repeat": 2.5},
    ]
    record = mix.mix(mixture(tmp_path, sources=given), name="m", out=str(tmp_path / "m"))
    rows, _ = rows_of(str(tmp_path / "m"), tmp_path / "out")
    web = [text for name, text in rows if name == "web"]
    code = [text for name, text in rows if name == "code"]
    assert all(text.startswith("web ") for text in web)
    assert len(web) == len(set(web))
    assert abs(len(web) - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    times = [code.count(text) for text in set(code)]
    assert set(times) == {2, 3}
    assert abs(times.count(3) - 200) < 4 * 10
    assert abs(record.counts["rows_out"] - len(rows)) < 60
    # no text was copied
    assert sum(p.stat().st_size for p in (tmp_path / "m").rglob("*.mix.json")) < 10_000


def test_the_choice_depends_on_seed_and_rows_alone(sources: dict[str, str], tmp_path: Path) -> None:
    given = [{"dataset": sources["web"], "name": "web", "repeat": 0.3}]
    for seed in (0, 1):
        left = mixture(tmp_path, sources=given, seed=seed)
        mix.mix(left, name="m", out=str(tmp_path / f"m{seed}"))
    first, first_id = rows_of(str(tmp_path / "m0"), tmp_path / "a")
    again, again_id = rows_of(str(tmp_path / "m0"), tmp_path / "b", map_tasks=ProcessMap(2))
    other, _ = rows_of(str(tmp_path / "m1"), tmp_path / "c")
    assert (first, first_id) == (again, again_id)
    overlap = len(set(first) & set(other)) / len(first)
    assert 0.2 < overlap < 0.4  # two independent thirds


def test_shares_of_a_token_target(sources: dict[str, str], tmp_path: Path) -> None:
    given = [
        {"dataset": sources["web"], "name": "web", "share": 0.75},
        {"dataset": sources["code"], "name": "code", "share": 0.25},
    ]
    content = {"sources": given, "total_tokens": 6000, "bytes_per_token": 4.0}
    record = mix.mix(mixture(tmp_path, **content), name="m", out=str(tmp_path / "m"))
    repeats = {row["name"]: row["repeat"] for row in mix.plan_rows(record)}
    sizes = {}
    for name, uri in sources.items():
        sizes[name] = orjson.loads((Path(uri) / "record.json").read_bytes())["counts"]["text_bytes"]
    assert repeats["web"] == pytest.approx(0.75 * 6000 * 4 / sizes["web"], rel=1e-4)
    assert repeats["code"] == pytest.approx(0.25 * 6000 * 4 / sizes["code"], rel=1e-4)
    with pytest.raises(ValueError, match=r"'web' would be repeated .* more than max_repeat"):
        mix.mix(mixture(tmp_path, **content | {"total_tokens": 10**6}), name="m", out="never")


def test_the_record_names_every_source(sources: dict[str, str], tmp_path: Path) -> None:
    given = [{"dataset": uri, "name": name, "repeat": 1} for name, uri in sources.items()]
    record = mix.mix(mixture(tmp_path, sources=given), name="m", out=str(tmp_path / "m"))
    assert isinstance(record, DatasetRecord)
    ids = {orjson.loads((Path(uri) / "record.json").read_bytes())["id"] for uri in sources.values()}
    assert {row["record"] for row in mix.plan_rows(record)} == ids
    chain = orjson.loads((tmp_path / "m" / "sources" / "web.json").read_bytes())
    assert [record["kind"] for record in chain] == ["pool", "dataset"]
    again = mix.mix(mixture(tmp_path, sources=given), name="m", out=str(tmp_path / "again"))
    assert again.id == record.id


# ---- sources by a column


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of two shards: 40 rows of 10 bytes a topic, scores 0.00 to 0.99 in order."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "pool").mkdir()
    for shard in range(2):
        rows = range(50 * shard, 50 * shard + 50)
        lines = [
            {
                "text": f"row {n:06d}",
                "topic": ["news", "sport", None][0 if n % 5 < 2 else 1 if n % 5 < 4 else 2],
                "score": n / 100,
            }
            for n in rows
        ]
        data = b"\n".join(map(orjson.dumps, lines))
        (folder / "pool" / f"{shard}.jsonl").write_bytes(data + b"\n")
    out = str(folder / "set")
    run(Pipeline.from_steps([], name="all"), open_pool(str(folder / "pool")), out=out)
    return out


def numbers(rows: list[tuple[str, str]], source: str) -> list[int]:
    return [int(text.split()[1]) for name, text in rows if name == source]


def test_values_of_a_column_are_sources(scored: str, tmp_path: Path) -> None:
    source = {"dataset": scored, "name": "t", "by": "topic", "repeats": {"news": 2, "sport": 0.5}}
    record = mix.mix(mixture(tmp_path, sources=[source]), name="m", out=str(tmp_path / "m"))
    rows, _ = rows_of(str(tmp_path / "m"), tmp_path / "out")
    news = [n for n in range(100) if n % 5 < 2]
    assert sorted(numbers(rows, "t/news")) == sorted(news * 2)
    sport = numbers(rows, "t/sport")
    assert len(sport) == len(set(sport))
    assert 8 <= len(sport) <= 32  # half of 40
    assert {name for name, _ in rows} == {"t/news", "t/sport"}  # rows without a topic do not come
    assert [(row["name"], row["repeat"]) for row in mix.plan_rows(record)] == [
        ("t/news", 2),
        ("t/none", 0),
        ("t/sport", 0.5),
    ]
    chain = orjson.loads((tmp_path / "m" / "sources" / "t.json").read_bytes())
    assert [record["kind"] for record in chain] == ["pool", "dataset"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "topics", "shares": {"news": 1}}, "no row has a value in 'topics'"),
        ({"by": "topic", "shares": {"nwes": 1}}, "shares name 'nwes', and no row is in that part"),
    ],
)
def test_parts_that_no_row_is_in_are_named(
    scored: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source = {"dataset": scored, "name": "t"} | changes
    given = mixture(tmp_path, sources=[source], total_tokens=100)
    with pytest.raises(DataError, match=message):
        mix.mix(given, name="m", out=str(tmp_path / "m"))


def test_better_rows_come_more_often(scored: str, tmp_path: Path) -> None:
    source = {"dataset": scored, "name": "q", "by": "score", "edges": [0.2, 0.9]}
    given = mixture(tmp_path, sources=[source | {"repeats": [0, 1, 3]}])
    mix.mix(given, name="m", out=str(tmp_path / "m"), map_tasks=ProcessMap(2))
    rows, _ = rows_of(str(tmp_path / "m"), tmp_path / "out")
    assert sorted(numbers(rows, "q/0.2 to 0.9")) == list(range(20, 90))
    assert sorted(numbers(rows, "q/from 0.9")) == sorted([*range(90, 100)] * 3)
    assert not numbers(rows, "q/below 0.2")


def test_temperature_decides_what_nothing_else_does(scored: str, tmp_path: Path) -> None:
    # 1,000 bytes of text are 250 tokens: news and sport 100 each, none 50
    content = {"total_tokens": 200, "bytes_per_token": 4.0, "temperature": 2.0}
    source = {"dataset": scored, "name": "t", "by": "topic"}
    record = mix.mix(
        mixture(tmp_path, sources=[source], **content), name="m", out=str(tmp_path / "m")
    )
    repeats = {row["part"]: row["repeat"] for row in mix.plan_rows(record)}
    whole = 2 * 100**0.5 + 50**0.5
    assert repeats["news"] == pytest.approx(200 * 100**0.5 / whole / 100, abs=1e-5)
    assert repeats["none"] == pytest.approx(200 * 50**0.5 / whole / 50, abs=1e-5)
    content |= {"max_repeat": 1.0, "temperature": 1e9, "total_tokens": 240}
    capped = mix.mix(
        mixture(tmp_path, sources=[source], **content), name="m", out=str(tmp_path / "c")
    )
    repeats = {row["part"]: row["repeat"] for row in mix.plan_rows(capped)}
    assert repeats == pytest.approx({"news": 0.95, "none": 1.0, "sport": 0.95})


def test_shares_of_all_by_name(scored: str, tmp_path: Path) -> None:
    source = {"dataset": scored, "name": "t", "by": "topic"}
    content: dict[str, Any] = {"sources": [source], "total_tokens": 100, "bytes_per_token": 4.0}
    shares = {"t/news": 0.25, "t/none": 0.75}
    given = mixture(tmp_path, **content, shares=shares, max_repeat=2.0)
    record = mix.mix(given, name="m", out=str(tmp_path / "m"))
    repeats = {row["part"]: row["repeat"] for row in mix.plan_rows(record)}
    assert repeats == {"news": 0.25, "none": 1.5, "sport": 0.0}
    wrong = mixture(tmp_path, **content, shares={"t/weather": 1.0})
    with pytest.raises(ValueError, match=r"no source 't/weather'; there are: t/news, t/none"):
        mix.mix(wrong, name="m", out=str(tmp_path / "never"))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_counts_the_same_parts(scored: str, tmp_path: Path, ray_cluster: MapTasks) -> None:
    source = {"dataset": scored, "name": "q", "by": "score", "edges": [0.5], "repeats": [1, 2]}
    given = mixture(tmp_path, sources=[source])
    here = mix.mix(given, name="m", out=str(tmp_path / "a"))
    there = mix.mix(given, name="m", out=str(tmp_path / "b"), map_tasks=ray_cluster)
    assert here.id == there.id


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"sources": [{"dataset": "x", "name": "a", "by": "t", "edges": [2, 1], "repeat": 1}]},
            "ascending",
        ),
        (
            {"sources": [{"dataset": "x", "name": "a", "by": "t", "edges": [1], "repeats": [1]}]},
            "1 repeats for 1 edges; expected 2",
        ),
        ({"sources": [{"dataset": "x", "name": "a", "edges": [1], "repeat": 1}]}, "give by"),
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"dataset": "x", "name": "a"}]}, "give repeat or share"),
        ({"sources": [{"dataset": "x", "name": "a", "share": 0.5}]}, "total_tokens is missing"),
        ({"sources": [{"dataset": "x", "name": "a", "repeat": 0}]}, "greater than 0"),
        ({"sources": [{"dataset": "x", "name": "a", "repeat": 1}] * 2}, "two sources have one"),
        ({"sauces": []}, "sauces"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(tmp_path, **content)


def test_a_source_that_is_gone_or_changed_is_named(tmp_path: Path) -> None:
    uri = dataset(tmp_path, "web", 20)
    first = mixture(tmp_path, sources=[{"dataset": uri, "name": "web", "repeat": 1}])
    mix.mix(first, name="m", out=str(tmp_path / "m"))
    [file, *_] = sorted((Path(uri) / "data").iterdir())
    file.write_bytes(b"other")
    with pytest.raises(ShardError, match=r"is not the file that was mixed"):
        rows_of(str(tmp_path / "m"), tmp_path / "out")
    file.unlink()
    with pytest.raises(ShardError, match=file.name):
        rows_of(str(tmp_path / "m"), tmp_path / "out2")
    empty = mixture(tmp_path, sources=[{"dataset": str(tmp_path), "name": "x", "repeat": 1}])
    with pytest.raises(RecordError, match="a source is the folder of a finished dataset"):
        mix.mix(empty, name="m", out=str(tmp_path / "never"))
