"""DCLM's pipeline files are read as ours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
import typer
import yaml

from pipelines import dclm_yaml_rules
from pipelines.__main__ import app
from pipelines.console import call, main
from pipelines.engine.apply import apply
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.pipeline import Pipeline
from pipelines.registry import registry
from pipelines.storage.open import open_store
from pipelines.text.aggregates import (
    histogram,
    percentiles,
    weighted_histogram,
    weighted_percentiles,
)

C4_PART = """
- source: cc_april_2019
  steps:
    - func: move_url_modifier
    - func: page_length_filter
      length_type: char
      max_length: .inf
    - commit
    - func: split_lines_modifier
    - func: exact_dedup
      content_key: url
      normalize: normalize_url
    - func: exact_dedup
      content_key: text
      normalize: normalize_whitespace_and_lowercase
      selection_key: url
      selection_normalize: hash_text
    - func: join_lines_modifier
    - func: quality_filter
      key: score
      threshold: 0.5
      _aggregate:
        score: {type: percentiles}
"""


def load(text: str, folder: Path, **options: str) -> Pipeline:
    path = folder / "theirs.yaml"
    path.write_text(text)
    return Pipeline.load(path, **options)


def test_steps_become_operators_and_a_line_dedup_becomes_one_step(tmp_path: Path) -> None:
    pipeline = load(C4_PART, tmp_path)
    assert pipeline.yaml_value() == {
        "name": "theirs",
        "steps": [
            "url_from_metadata",
            {"length": {"unit": "character"}},
            {"exact_dedup": {"column": "url", "normalize": "url"}},
            {
                "exact_dedup": {
                    "unit": "line",
                    "normalize": "strip_lowercase",
                    "keep_by": "url",
                    "keep": "min",
                    "keep_order": "md5",
                }
            },
            {"threshold": {"by": "score", "min_score": 0.5}},
            {"value_counts": {"by": "score", "digits": 4, "statistic": "percentiles"}},
        ],
    }


def test_what_import_prints_is_the_same_pipeline(tmp_path: Path) -> None:
    pipeline = load(C4_PART, tmp_path)
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(pipeline.yaml_value()))
    assert Pipeline.load(path).spec()["steps"] == pipeline.spec()["steps"]


def test_every_rule_names_an_operator_and_parameters_that_exist() -> None:
    consumed = {"threshold", "lower_better", "key_must_exist", "key_prefix", "seed", "skip"}
    consumed |= {"allow_overwrite", "match_substrings"}
    for name, rule in dclm_yaml_rules.RULES.items():
        fields = registry()[rule.operator].model_fields
        for parameter in [*rule.names.values(), *rule.fixed]:
            assert parameter in fields or parameter in consumed, (name, parameter)
        assert set(rule.defaults) <= set(rule.names), name
        assert registry()[rule.operator].reference == name


def test_a_file_with_several_sources_needs_a_name(tmp_path: Path) -> None:
    text = "- {source: a, steps: [{func: move_url_modifier}]}\n- {source: b, steps: []}\n"
    with pytest.raises(PipelineError, match="has the sources a, b; give --input NAME=POOL"):
        load(text, tmp_path)
    assert [step.name for step in load(text, tmp_path, source="a").steps] == ["url_from_metadata"]


def test_run_explain_and_try_take_a_source_of_the_file_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = "[{func: page_length_filter, length_type: word, min_length: %d}]"
    text = "".join(
        f"- {{source: {n}, steps: {steps % size}}}\n" for n, size in (("a", 2), ("b", 4))
    )
    (tmp_path / "dclm.yaml").write_text(text)
    (tmp_path / "in").mkdir()
    lines = '{"text": "one two three"}\n{"text": "one two three four"}\n{"text": "one"}\n'
    (tmp_path / "in" / "0.jsonl").write_text(lines)

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(app, list(arguments))
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    file, pool = str(tmp_path / "dclm.yaml"), str(tmp_path / "in")
    for source, kept in (("a", 2), ("b", 1)):
        where = ("--input", pool, "--out", str(tmp_path / source), "--source", source)
        assert f"{kept} of 3 rows" in call("run", file, *where)
    assert "1 steps in 1 passes" in call("explain", file, "--source", "b")
    shown = call("try", file, "--text", f"{pool}/0.jsonl", "--source", "b")
    assert "rejected" in shown


def test_a_mapper_or_argument_that_does_not_exist_is_named() -> None:
    with pytest.raises(PipelineError, match=r"step 1: unknown mapper 'stop_word_filtr'; did"):
        Pipeline.from_steps([{"func": "stop_word_filtr"}])
    with pytest.raises(PipelineError, match="takes no argument 'min_stop_wrd'; did you mean"):
        Pipeline.from_steps([{"func": "stop_word_filter", "min_stop_wrd": 2}])
    with pytest.raises(PipelineError, match="the word model 'nope' is unknown"):
        Pipeline.from_steps([{"func": "word_counter_enricher", "model": "nope"}])


def test_a_participants_function_in_a_file_is_called_with_pages(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(
        "def halves(page, at=1):\n"
        "    text = page['text']\n"
        "    if not text:\n"
        "        return []\n"
        "    return [{**page, 'text': text[:at], 'n': 1}, {**page, 'text': text[at:], 'n': 2}]\n"
        "def shorter_than(limit):\n"
        "    return lambda page: [page] if len(page['text']) < limit else []\n"
    )
    steps = "[{func: mine.own.halves, at: 2}, {func: mine.own.shorter_than, limit: 3}]"
    pipeline = load(f"- {{source: cc, steps: {steps}}}", tmp_path)
    result = apply(pipeline, pa.table({"text": ["abcd", "", "abcdefg"], "url": ["u", "v", "w"]}))
    assert result.table.column("text").to_pylist() == ["ab", "cd", "ab"]
    assert result.table.column("url").to_pylist() == ["u", "u", "w"]
    assert result.table.column("extra").to_pylist() == ['{"n":1}', '{"n":2}', '{"n":1}']
    assert result.errors.num_rows == 0


def test_an_answer_that_is_no_list_of_pages_is_an_error_on_that_row(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def bad(page):\n    return page\n")
    pipeline = load("- {source: cc, steps: [{func: own.bad}]}", tmp_path)
    result = apply(pipeline, pa.table({"text": ["a"]}))
    [message] = result.errors.column("message").to_pylist()
    assert "expected a list of pages" in message


def test_lists_are_found_by_base_name_among_the_assets(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("casino\n\n")
    step = {"func": "substring_filter", "banlist_from_fname": "baselines/mappers/banlists/bad.txt"}
    pipeline = Pipeline.from_steps([step], assets=tmp_path)
    result = apply(pipeline, pa.table({"text": ["a Casino", "a house"]}))
    assert result.table.column("text").to_pylist() == ["a house"]


TWO_SOURCES = """
- source: web
  steps:
    - func: page_length_filter
      length_type: word
      min_length: 2
- source: code
  steps:
    - func: word_counter_enricher
      key: words
      _aggregate:
        words: {type: percentiles}
        source: {type: histogram}
"""


def two_pools(folder: Path) -> None:
    for name, texts in {"web": ["one two", "three"], "code": ["a b c", "d", "e f"]}.items():
        (folder / name).mkdir()
        rows = [orjson.dumps({"text": text, "source": name}) + b"\n" for text in texts]
        (folder / name / "a.jsonl").write_bytes(b"".join(rows))
    (folder / "two.yaml").write_text(TWO_SOURCES)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        call(typer.main.get_command(app), list(arguments))
    return int(ended.value.code or 0)


def test_several_sources_become_one_dataset_that_keeps_each_ones_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_pools(tmp_path)
    monkeypatch.chdir(tmp_path)
    inputs = ["run", "two.yaml", "--input", "code=code", "--input", "web=web", "--out", "out"]
    assert command(*inputs) == 0
    assert "4 rows of 2 sources" in capsys.readouterr().out
    pool = open_pool("out")
    tables = [table for shard in pool.shards for table in read_shard_tables(shard.name)]
    assert sorted(t for table in tables for t in table.column("text").to_pylist()) == [
        *("a b c", "d", "e f"),
        "one two",
    ]
    chains = {
        name: orjson.loads(Path(f"out/sources/{name}.json").read_bytes())
        for name in ("web", "code")
    }
    for name, chain in chains.items():
        own = orjson.loads(Path(f"out/runs/{name}/record.json").read_bytes())
        assert own["id"] in [record["id"] for record in chain]
    stats = orjson.loads(Path("out/runs/code/stats.json").read_bytes())
    assert stats["aggregates"]["2"]["words"]["median"] == 2
    assert stats["aggregates"]["3"]["source"] == {"code": 3}
    first = orjson.loads(Path("out/record.json").read_bytes())["id"]
    assert command(*inputs) == 0  # everything is there
    assert orjson.loads(Path("out/record.json").read_bytes())["id"] == first


def test_a_plan_shows_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_pools(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command("explain", "two.yaml") == 0
    shown = capsys.readouterr().out
    assert shown.index("source web:") < shown.index("length") < shown.index("source code:")
    assert command("explain", "two.yaml", "--json") == 0
    assert list(orjson.loads(capsys.readouterr().out)) == ["web", "code"]
    assert command("explain", "two.yaml", "--source", "code") == 0
    assert "source web" not in capsys.readouterr().out


def read_shard_tables(name: str) -> list[pa.Table]:
    return [chunk.table for chunk in read_shard(open_store("out"), name, shard=0)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["web=web"], "has the sources web, code: give --input code=POOL too"),
        (["web=web", "cod=code"], "has no source 'cod'; did you mean 'code'"),
        (["web=web", "code"], "--input code: write each of several inputs as NAME=POOL"),
        (["web=web", "web=code"], "gives the source 'web' twice"),
        (["web"], "has the sources web, code; give --input NAME=POOL for each"),
    ],
)
def test_inputs_that_are_not_those_of_the_sources_are_refused(
    inputs: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two_pools(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = [word for text in inputs for word in ("--input", text)]
    assert command("run", "two.yaml", *given, "--out", "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("{type: median}", "expected a mapping whose type is percentiles or histogram"),
        ("{type: histogram, transform: upper}", "unknown transform 'upper'"),
        ("{type: histogram, transform: threshold_transform}", "needs a threshold"),
    ],
)
def test_a_summary_of_another_type_is_refused(how: str, message: str, tmp_path: Path) -> None:
    text = TWO_SOURCES.replace("{type: percentiles}", how)
    with pytest.raises(PipelineError, match=message):
        load(text, tmp_path, source="code")


def test_summaries_of_counts_are_those_of_the_list() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 4, 7, 10, 101, 500):
        values = rng.integers(0, 20, size).astype(float).tolist()
        counts = dict(Counter(values))
        assert weighted_percentiles(counts) == pytest.approx(percentiles(values))
        assert weighted_histogram(counts) == pytest.approx(histogram(values))


def test_classifiers_of_imported_files_are_compiled(tmp_path: Path) -> None:
    text = """
- source: cc
  steps:
    - {func: detect_lang_whole_page_enricher}
    - {func: detect_lang_paragraph_enricher}
    - {func: classify_fasttext_hq_prob_enricher}
"""
    steps = load(text, tmp_path).yaml_value()["steps"]
    assert [next(iter(step.values()))["engine"] for step in steps] == ["compiled"] * 3
