"""Pools as strangers bring them: fields of any type, texts under other names, odd folders."""

from __future__ import annotations

import datetime
import gzip
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
from backports import zstd

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.engine.run_folder import RunFailed
from pipelines.errors import PipelineError
from pipelines.formats.mixture import load_mixture
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError, shards_of
from pipelines.operators import because, choose
from pipelines.pipeline import Pipeline
from pipelines.storage.local import LocalStore

AT = {"text": "same text"}


def jsonl(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def made(folder: Path, *steps: Any, **options: Any) -> list[dict[str, Any]]:
    """The documents that a pipeline over `folder`/pool gives, as JSON."""
    result = run(
        Pipeline.from_steps(steps),
        open_pool(str(folder / "pool")),
        out=str(folder / "out"),
        format="jsonl.gz",
        **options,
    )
    names = [file.name for file in result.record.outputs]
    data = b"".join(gzip.decompress((folder / "out" / name).read_bytes()) for name in names)
    return [orjson.loads(line) for line in data.splitlines()]


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


# ---- files


def test_a_mark_at_the_head_of_a_file_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl").write_bytes("\ufeff".encode() + b'{"text":"a"}\n{"text":"b"}\n')
    assert made(tmp_path) == [{"text": "a"}, {"text": "b"}]


def test_zstd_with_a_window_beyond_the_default_is_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    options = {zstd.CompressionParameter.window_log: 28}
    data = zstd.compress(b'{"text":"a"}\n' * 5 + b" " * (1 << 20), options=options)
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(b'{"text":"a"}\n' * 5) + compressor.flush()
    (tmp_path / "pool/a.jsonl.zst").write_bytes(data)
    assert made(tmp_path) == [{"text": "a"}] * 5


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    jsonl(tmp_path / "elsewhere/d.jsonl", {"text": "d"})
    jsonl(tmp_path / "blobs/deadbeef", {"text": "blob"})
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    (tmp_path / "pool/b.jsonl").symlink_to("../blobs/deadbeef")
    (tmp_path / "pool/linked").symlink_to("../elsewhere")
    (tmp_path / "pool/again").symlink_to(".")
    assert [row["text"] for row in made(tmp_path)] == ["a", "blob", "d"]


def test_files_that_are_left_out_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "a.jsonl",
        "_temporary/0/b.jsonl",
        ".hidden.jsonl",
        "c.json",
        "d.jsonl.lz4",
        "_e.jsonl",
    ):
        jsonl(tmp_path / "pool" / name, {"text": name})
    with caplog.at_level(logging.WARNING):
        names = [entry.name for entry in shards_of(LocalStore(tmp_path / "pool"))]
    assert names == ["_e.jsonl", "a.jsonl"]
    assert "1 files are left out (not a format of shards): d.jsonl.lz4" in caplog.text
    assert "(plain files beside shards of another format): c.json" in caplog.text
    assert "2 files are left out (hidden, or of a job that did not end)" in caplog.text


def test_features_beside_a_table_of_pairs_are_not_reported_as_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet(tmp_path / "a.parquet", uid=["0" * 32])
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"")
    assert [entry.name for entry in shards_of(LocalStore(tmp_path))] == ["a.parquet"]
    assert "1 files are left out (not a format of shards): b.npz" in caplog.text


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    jsonl(tmp_path / "pool/closed/a.jsonl", {"text": "a"})
    os.chmod(tmp_path / "pool/closed", 0)
    with pytest.raises(OSError, match="cannot read the folder"):
        shards_of(LocalStore(tmp_path / "pool"))


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/lang=en/a.jsonl", {"text": "a"})
    parquet(tmp_path / "pool/lang=de/a.parquet", text=["b"])
    assert made(tmp_path) == [{"text": "b", "lang": "de"}, {"text": "a", "lang": "en"}]


def test_a_run_in_its_own_pool_is_refused_and_a_run_below_is_left_out(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    pool = open_pool(str(tmp_path / "pool"))
    for out in ("pool", "pool/run", "pool/../pool/run"):
        with pytest.raises(RunFailed, match="lies in the pool"):
            run(Pipeline.from_steps([]), pool, out=str(tmp_path / out))
    made(tmp_path)
    os.rename(tmp_path / "out", tmp_path / "pool/moved")
    assert [entry.name for entry in shards_of(LocalStore(tmp_path / "pool"))] == ["a.jsonl"]


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(ShardError, match="is a file; give the folder that holds it"):
        shards_of(LocalStore(tmp_path / "a.jsonl"))


def test_attributes_of_dolma_join_the_file_of_their_own_folder(tmp_path: Path) -> None:
    for folder, score in (("", 0.1), ("x/", 0.9)):
        rows = [{"id": str(n), "text": f"{folder}{n}"} for n in range(2)]
        jsonl(tmp_path / f"pool/documents/{folder}a.jsonl", *rows)
        scores = [{"id": str(n), "attributes": {"t": [[0, 1, score]]}} for n in range(2)]
        jsonl(tmp_path / f"pool/attributes/tagger/{folder}a.jsonl", *scores)
    scores_ = [row["attributes"]["t"][0][2] for row in made(tmp_path)]
    assert scores_ == [0.1, 0.1, 0.9, 0.9]


def test_a_mixture_adds_up_and_takes_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    line = "sources: [{dataset: a, name: a, share: 0.9}, {dataset: b, name: b, share: %s}]\n"
    path.write_text(line % "0.1" + "total_tokens: 8e9\n")
    assert load_mixture(path).total_tokens == 8_000_000_000
    for share in ("0.2", "0.05"):
        path.write_text(line % share + "total_tokens: 1000\n")
        with pytest.raises(ValueError, match="the shares add up to"):
            load_mixture(path)


def test_a_key_that_comes_twice_in_a_pipeline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: p\nsteps: [count_words]\nsteps: []\n")
    with pytest.raises(PipelineError, match="the key 'steps' is there twice"):
        Pipeline.load(path)


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


# ---- files that are not what their name says, and columns that are not what readers take them for


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b'{"text": "a"}\n', mtime=0), "the file is compressed with gzip, not lines"),
        (zstd.compress(b'{"text": "a"}\n'), "the file is compressed with zstd, not lines"),
        ('{"text": "a"}\n'.encode("utf-16"), "the file is UTF-16"),
        (b"PAR1" + b"\x00" * 20 + b"PAR1", "the file is parquet"),
    ],
)
def test_a_file_under_a_wrong_name_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl").write_bytes(data)
    with pytest.raises(ShardError, match=rf"a\.jsonl, record 1: {message}"):
        made(tmp_path)


def test_a_file_that_is_compressed_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl.gz").write_bytes(gzip.compress(gzip.compress(b'{"text": "a"}\n')))
    with pytest.raises(ShardError, match="compressed with gzip once more"):
        made(tmp_path)


@pytest.mark.parametrize("text", [[["a", "b"]], [{"a": "b"}], [1], [datetime.date(2024, 1, 1)]])
def test_a_text_that_is_none_is_refused_with_its_shard(tmp_path: Path, text: list[Any]) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["good"])
    parquet(tmp_path / "pool/1.parquet", text=text)
    with pytest.raises(ShardError, match=r"1\.parquet: the column 'text' holds .*expected strings"):
        made(tmp_path)


def test_the_folder_of_null_is_null(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/lang=__HIVE_DEFAULT_PARTITION__/a.parquet", text=["a"])
    parquet(tmp_path / "pool/lang=de%2Fat/a.parquet", text=["b"])
    assert made(tmp_path) == [{"text": "a"}, {"text": "b", "lang": "de/at"}]


def test_rows_of_a_shard_without_the_text_column_go_as_no_text(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["a"])
    parquet(tmp_path / "pool/1.parquet", content=["b"])
    assert made(tmp_path) == [{"text": "a"}]
