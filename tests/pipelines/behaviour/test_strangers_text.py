"""Pools as strangers bring them: fields of any type, texts under other names, odd folders."""

from __future__ import annotations

import datetime
import logging
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.operators import because, choose
from pipelines.pipeline import Pipeline
from tests.pipelines.behaviour.stranger_pools import AT, jsonl, made, parquet

# ---- text may come later


def test_a_text_under_another_name_is_renamed_before_rows_without_text_go(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "pool/a.jsonl",
        {"content": "one"},
        {"content": "two", "text": "both"},
        {"content": None},
        {"other": 1},
    )
    rename = {"rename_field": {"old": "content", "new": "text", "existing": "keep"}}
    rows = made(tmp_path, rename)
    assert rows == [{"text": "one"}, {"text": "both", "content": "two"}]


def test_posts_and_repositories_become_texts(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "pool/a.jsonl",
        {"question": {"text": "How?"}, "answers": [{"text": "So."}, {"text": "No."}]},
    )
    assert made(tmp_path, "question_text")[0]["text"] == "Q: How?\nA: So.\nA: No."


def test_rows_without_text_go_at_the_reader_where_no_step_makes_one(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "one"}, {"text": None})
    assert made(tmp_path, "count_words") == [{"text": "one", "word_count": 1}]


def test_a_pool_without_any_text_is_an_error_that_names_its_fields(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"content": "one", "n": 1})
    with pytest.raises(PipelineError, match=r"none of the 1 rows .* has a text; .*content.*--text"):
        made(tmp_path)


def test_the_text_field_may_be_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"content": "one", "text": "old"})
    pipeline = Pipeline.from_steps([]).with_text_from("content")
    result = run(pipeline, open_pool(str(tmp_path / "pool")), out=str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / result.record.outputs[0].name)
    assert table.column("text").to_pylist() == ["one"]


def test_external_tables_without_a_text_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/a.parquet", content=["one"])
    with pytest.raises(PipelineError, match="has no column 'text'; its columns are row, content"):
        made(tmp_path, external=True)


# ---- who stays: values, not bits


def instants(unit: str, year: int) -> pa.Array:
    return pa.array([datetime.datetime(year, 1, 1)], pa.timestamp(unit))


PAIRS = {
    "int beside double": (pa.array([5]), pa.array([0.5]), 0),
    "double beside int": (pa.array([0.5]), pa.array([5]), 1),
    "unsigned beside int": (pa.array([5], pa.uint64()), pa.array([3]), 0),
    "large unsigned": (pa.array([2**53], pa.uint64()), pa.array([2.0**52]), 0),
    "negative": (pa.array([-5]), pa.array([-0.5]), 1),
    "small int": (pa.array([5], pa.int8()), pa.array([3.5], pa.float32()), 0),
    "microseconds beside nanoseconds": (instants("us", 2024), instants("ns", 2020), 0),
    "dates beside times": (pa.array([datetime.date(2024, 1, 1)]), instants("s", 2020), 0),
    "null type": (pa.nulls(1), pa.array([1]), 1),
}


@pytest.mark.parametrize("step", ["exact_dedup", "minhash_dedup"])
@pytest.mark.parametrize("kind", PAIRS)
def test_keep_by_compares_values_of_any_numeric_type(tmp_path: Path, kind: str, step: str) -> None:
    first, second, stays = PAIRS[kind]
    texts = pa.array(["one two three four five six seven eight nine ten"])
    parquet(tmp_path / "pool/0.parquet", text=texts, k=first, id=pa.array(["0"]))
    parquet(tmp_path / "pool/1.parquet", text=texts, k=second, id=pa.array(["1"]))
    assert [row["id"] for row in made(tmp_path, {step: {"keep_by": "k"}})] == [str(stays)]


def test_keep_by_of_strings_beside_numbers_is_refused_with_both_shards(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["a"], k=["9"])
    parquet(tmp_path / "pool/1.parquet", text=["a"], k=[5])
    said = r"'k' holds large_string in 0\.parquet and int64 in 1\.parquet"
    with pytest.raises(ShardError, match=said):
        made(tmp_path, {"exact_dedup": {"keep_by": "k"}})


def test_keep_by_takes_fields_of_json_lines(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", AT | {"k": 0.5}, AT | {"k": 5}, AT)
    assert made(tmp_path, {"exact_dedup": {"keep_by": "k"}}) == [AT | {"k": 5}]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ids_that_are_numbers_are_compared_and_kept(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"t{n}", "id": n % 3} for n in range(9)]
    if kind == "jsonl":
        jsonl(tmp_path / "pool/a.jsonl", *rows)
    else:
        parquet(tmp_path / "pool/a.parquet", text=[r["text"] for r in rows], id=[0, 1, 2] * 3)
    assert made(tmp_path, {"exact_dedup": {"column": "id"}}) == rows[:3]


# Values that look alike as text, each in a shard of its own.
ALIKE = {"integer": 1, "string": "1", "boolean": True, "written": "True"}


@pytest.mark.parametrize("normalize", ["none", "strip_lowercase"])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("integer", "string", "it compares numbers in a.jsonl and strings in b.jsonl"),
        ("string", "integer", "it compares strings in a.jsonl and numbers in b.jsonl"),
        ("boolean", "written", "it compares booleans in a.jsonl and strings in b.jsonl"),
        ("boolean", "integer", "it compares booleans in a.jsonl and numbers in b.jsonl"),
    ],
)
def test_duplicates_by_a_field_of_other_types_in_two_shards_are_refused(
    tmp_path: Path, first: str, second: str, message: str, normalize: str
) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a", "k": ALIKE[first]})
    jsonl(tmp_path / "pool/b.jsonl", {"text": "b", "k": ALIKE[second]})
    jsonl(tmp_path / "pool/c.jsonl", {"text": "c"})  # which has no value is no type
    with pytest.raises(PipelineError, match=message):
        made(tmp_path, {"exact_dedup": {"column": "k", "normalize": normalize}})


def test_duplicates_by_a_field_of_json_lines_and_a_column_of_a_table_are_of_one_type(
    tmp_path: Path,
) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a", "k": 1})
    parquet(tmp_path / "pool/b.parquet", text=["b"], k=["1"])
    with pytest.raises(PipelineError, match=r"numbers in a\.jsonl and strings in b\.parquet"):
        made(tmp_path, {"exact_dedup": {"column": "k"}})


@pytest.mark.parametrize("normalize", ["none", "strip_lowercase"])
@pytest.mark.parametrize("other", [pa.array([1.0]), pa.array([Decimal("1.00")])])
def test_equal_numbers_of_other_types_are_duplicates(
    tmp_path: Path, other: pa.Array, normalize: str
) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a", "k": 1})
    parquet(tmp_path / "pool/b.parquet", text=["b"], k=other)
    rows = made(tmp_path, {"exact_dedup": {"column": "k", "normalize": normalize}})
    assert [row["text"] for row in rows] == ["a"]


@pytest.mark.parametrize("field", ["id", "url", "source"])
def test_names_that_are_numbers_in_one_shard_are_compared_as_text(
    tmp_path: Path, field: str
) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a", field: 1})
    jsonl(tmp_path / "pool/b.jsonl", {"text": "b", field: "1"}, {"text": "c", field: "01"})
    rows = made(tmp_path, {"exact_dedup": {"column": field}})
    assert rows == [{"text": "a", field: 1}, {"text": "c", field: "01"}]


@pytest.mark.parametrize(
    "values",
    [[1, 1], [1, "x"], [["a"], ["b"]], [{"a": 1}, {}], [True, False], [1.5, None]],
    ids=str,
)
@pytest.mark.parametrize("field", ["id", "url", "source", "language", "date"])
def test_names_of_any_type_end_no_step_and_come_out_as_they_were(
    tmp_path: Path, field: str, values: list[Any]
) -> None:
    """Steps that count by source or by host, and evidence with an address, read these fields."""
    rows = [{"text": f"a text {n}", field: value} for n, value in enumerate(values)]
    again = {"text": "a text 0", field: values[0]}
    jsonl(tmp_path / "pool/a.jsonl", *rows, again, {"text": "short"})
    steps: list[Any] = ["exact_dedup", "minhash_dedup", {"word_count": {"min_words": 2}}]
    if field == "url":
        steps += [{"domains": {"hosts": ["bad.org"]}}, {"url_words": {"words": ["bad"]}}]
    assert made(tmp_path, *steps) == [
        {name: value for name, value in row.items() if value is not None} for row in rows
    ]


def test_samples_by_a_number_are_alike_in_json_lines_and_parquet(tmp_path: Path) -> None:
    ids = list(range(200))
    jsonl(tmp_path / "j/pool/a.jsonl", *({"text": "t", "id": n} for n in ids))
    parquet(tmp_path / "p/pool/a.parquet", text=["t"] * 200, id=ids)
    for step in (
        {"sample_rows": {"column": "id", "keep_fraction": 0.5}},
        {"hash_sample": {"column": "id", "fraction": 0.5}},
    ):
        kept = [{row["id"] for row in made(tmp_path / kind, step)} for kind in ("j", "p")]
        assert kept[0] == kept[1]
        assert 60 < len(kept[0]) < 140
        for kind in ("j", "p"):
            os.rename(tmp_path / kind / "out", tmp_path / kind / f"was-{next(iter(step))}")


def test_select_takes_fields_of_json_lines_times_and_large_integers(tmp_path: Path) -> None:
    jsonl(tmp_path / "j/pool/a.jsonl", *({"text": "t", "s": s} for s in (0.5, 3, 2)))
    best = {"select": {"by": "s", "fraction": 0.5}}
    assert [row["s"] for row in made(tmp_path / "j", best)] == [3]
    parquet(tmp_path / "l/pool/a.parquet", text=["a", "b"], s=[2**60 + 1, 1])
    assert [row["text"] for row in made(tmp_path / "l", best)] == ["a"]
    times = pa.array([datetime.date(2020, 1, 1), datetime.date(2024, 1, 1)])
    parquet(tmp_path / "t/pool/a.parquet", text=["a", "b"], s=times)
    assert [row["text"] for row in made(tmp_path / "t", best)] == ["b"]


def test_a_shard_without_the_score_column_goes_as_no_score(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["a", "b"], s=[1.0, 2.0])
    parquet(tmp_path / "pool/1.parquet", text=["c"])
    step = {"select": {"by": "s", "fraction": 1.0, "missing": "drop"}}
    assert [row["text"] for row in made(tmp_path, step)] == ["a", "b"]


@pytest.mark.parametrize("endless", [float("-inf"), float("inf")])
def test_infinite_scores_sort_like_numbers(tmp_path: Path, endless: float) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["a", "b", "c"], s=[endless] * 2 + [0.0])
    step = {"select": {"by": "s", "total": 2}}
    expected = ["a", "b"] if endless > 0 else ["a", "c"]
    assert [row["text"] for row in made(tmp_path, step)] == expected


# ---- one home for a field


def test_what_a_step_computes_replaces_what_the_document_brought(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "one two", "word_count": 99, "url": "u", "x": [1]})
    rows = made(tmp_path, {"count_words": {"overwrite": True}})
    assert rows == [{"text": "one two", "url": "u", "word_count": 2, "x": [1]}]


def test_columns_of_a_table_come_before_the_fields_inside_extra(tmp_path: Path) -> None:
    inside = '{"text":"other","id":"other","source":"x"}'
    parquet(tmp_path / "pool/a.parquet", text=["the document"], id=["1"], extra=[inside])
    assert made(tmp_path) == [{"text": "the document", "id": "1", "source": "x"}]


@pytest.mark.parametrize(
    "extra", [pa.array([{"a": 1}]), pa.array([5]), pa.array(["plain"]), pa.array(["[1]"])]
)
def test_a_column_called_extra_of_something_else_is_refused(tmp_path: Path, extra: Any) -> None:
    parquet(tmp_path / "pool/a.parquet", text=["t"], extra=extra)
    with pytest.raises(ShardError, match=r"a\.parquet: the column 'extra' holds .* rename"):
        made(tmp_path)


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    table = pa.Table.from_arrays(
        [pa.array(["t"]), pa.array([1]), pa.array([2])], ["text", "x", "x"]
    )
    pq.write_table(table, tmp_path / "pool/a.parquet")
    with pytest.raises(ShardError, match=r"a\.parquet: the column 'x' is there twice"):
        made(tmp_path)


def test_every_type_of_parquet_is_written_as_json(tmp_path: Path) -> None:
    noon = datetime.datetime(2024, 1, 2, 12)
    parquet(
        tmp_path / "pool/a.parquet",
        text=["t"],
        ns=pa.array([np.datetime64("2024-01-02T12:00:00.000000001")], pa.timestamp("ns")),
        us=pa.array([noon]),
        price=pa.array([Decimal("1.50")]),
        raw=pa.array([b"\xff\x00"]),
        lasts=pa.array([datetime.timedelta(seconds=90)]),
        inner=pa.array([{"raw": b"\xff"}]),
        pairs=pa.array([[("k", "v"), ("k2", "v2")]], pa.map_(pa.string(), pa.string())),
    )
    assert made(tmp_path) == [
        {
            "text": "t",
            "ns": "2024-01-02T12:00:00.000000001",
            "us": "2024-01-02T12:00:00",
            "price": "1.50",
            "raw": "/wA=",
            "lasts": 90.0,
            "inner": {"raw": "/w=="},
            "pairs": {"k": "v", "k2": "v2"},
        }
    ]


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_texts_as_bytes_are_read_as_utf8(tmp_path: Path, type_: pa.DataType) -> None:
    parquet(tmp_path / "pool/a.parquet", text=pa.array(["é".encode()], type_))
    assert made(tmp_path) == [{"text": "é"}]


def test_a_shard_whose_texts_are_all_null_does_not_stop_the_pool(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/0.parquet", text=pa.nulls(2))
    parquet(tmp_path / "pool/1.parquet", text=["t"])
    assert made(tmp_path) == [{"text": "t"}]


def test_a_pools_own_column_row_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet(tmp_path / "pool/a.parquet", text=["t"], row=["mine"])
    with caplog.at_level(logging.WARNING):
        made(tmp_path)
    assert "the column 'row' is replaced" in caplog.text


def test_integers_beyond_64_bits_and_deep_rows_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    deep = b'{"text":"b","x":' + b"[" * 300 + b"]" * 300 + b"}\n"
    long = b'{"text":"c","docid":18446744073709551617}\n'
    fits = b'{"text":"d","docid":18446744073709551615}\n'
    text = b'{"text":"18446744073709551617"}\n'
    (tmp_path / "pool/a.jsonl").write_bytes(deep + long + fits + text)
    assert made(tmp_path, quarantine=True) == [
        {"text": "d", "docid": 2**64 - 1},
        {"text": str(2**64 + 1)},
    ]
    (quarantine,) = (tmp_path / "out/quarantine").iterdir()
    errors = [orjson.loads(line) for line in quarantine.read_bytes().splitlines()]
    assert [(error["shard"], error["row"]) for error in errors] == [("a.jsonl", 0), ("a.jsonl", 1)]
    assert "'docid' holds an integer beyond 64 bits" in errors[1]["error"]


# ---- a participant's own code


def test_because_refuses_what_is_no_mask() -> None:
    for mask in ([1, 0, 1], np.array([0, 1]), np.array([[True]]), ["yes"]):
        with pytest.raises(TypeError, match="expected one boolean a row"):
            because(mask, "x")  # type: ignore[arg-type]
    assert because([], "x").to_pylist() == []  # type: ignore[arg-type]
    assert because([True, False], "x").to_pylist() == ["x", None]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="masks of"):
        choose([(np.array([True]), "a"), (np.array([True, False]), "b")])


FILTER = """
from typing import ClassVar
import numpy as np
from pipelines.operators import Filter, because
{more}

class Short(Filter):
    reasons: ClassVar = ("short",)
    def reject(self, batch):
        return {answer}
"""


def test_a_mask_returned_in_place_of_reasons_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    answer = "np.zeros(batch.num_rows, dtype=bool)"
    (tmp_path / "f.py").write_text(FILTER.format(more="", answer=answer))
    (tmp_path / "p.yaml").write_text("steps: [f.py:Short]\n")
    pool = open_pool(str(tmp_path / "pool"))
    with pytest.raises(OperatorFailed, match=r"return because\(mask, reason\)"):
        run(Pipeline.load(tmp_path / "p.yaml"), pool, out=str(tmp_path / "out"))


def test_operators_of_a_package_travel_with_all_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lib" / "strangers_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("LIMIT = 1\n")
    answer = "because([len(t) <= LIMIT for t in batch.text.to_pylist()], 'short')"
    (package / "f.py").write_text(
        FILTER.format(more="from strangers_package.helper import LIMIT", answer=answer)
    )
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"}, {"text": "long"})
    pool = open_pool(str(tmp_path / "pool"))
    steps = ["strangers_package.f:Short"]
    first = run(Pipeline.from_steps(steps), pool, out=str(tmp_path / "one")).record
    (module,) = first.work.modules
    assert module.name == "strangers_package.f"
    assert "LIMIT = 1" in module.text
    (package / "helper.py").write_text("LIMIT = 0\n")
    changed = Pipeline.from_steps(steps)
    assert run(changed, pool, out=str(tmp_path / "two")).record.key != first.key
    with pytest.raises(PipelineError, match=r"the code of strangers_package\.f:Short is another"):
        Pipeline.from_steps(steps, modules={module.name: module})


# ---- addresses


def test_hosts_match_however_an_address_or_an_entry_is_written(tmp_path: Path) -> None:
    bad = [
        "bad.org/path",
        "<http://bad.org/>",
        "//www.bad.org",
        "http://BAD.ORG:80/",
        "http:\\\\bad.org\\x",
        "http://xn--mnchen-3ya.de",
        "http://münchen.de",
    ]
    good = ["http://notbad.org/", "http://bad.org.evil.com/", "http://[::1", ""]
    jsonl(tmp_path / "pool/a.jsonl", *({"text": "t", "url": url} for url in bad + good))
    for number, entry in enumerate(("bad.org", ".bad.org", "*.bad.org", "http://bad.org/")):
        step = {"domains": {"hosts": [entry, "münchen.de"]}}
        assert [row["url"] for row in made(tmp_path, step)] == good
        os.rename(tmp_path / "out", tmp_path / f"was-{number}")
    listed = {"url_substrings": {"hosts": True, "phrases": ["notbad.org"]}}
    assert len(made(tmp_path, listed)) == len(bad + good) - 1


DRIVER = """
import os, signal, sys, time
from pipelines.execution.executors import ProcessMap

def work(path):
    open(path + str(os.getpid()), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    ProcessMap(2)(work, [sys.argv[1]] * 2)
"""


def test_workers_end_with_their_driver(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "pids").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "driver.py"), f"{tmp_path}/pids/"]
    driver = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(file.name) for file in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    driver.kill()
    driver.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_text_field_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    pool = tmp_path / "in"
    pool.mkdir()
    (pool / "a.jsonl").write_bytes(b'{"content": "x"}\n{"content": "y"}\n')
    with pytest.raises(PipelineError, match=r"none of the 2 rows .* the fields are content, "):
        run(
            Pipeline.from_steps([]).with_text_from("body"),
            open_pool(str(pool)),
            out=str(tmp_path / "out"),
        )
