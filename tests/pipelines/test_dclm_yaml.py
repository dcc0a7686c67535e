"""DCLM's pipeline files are read as ours."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from pipelines import dclm_yaml_rules
from pipelines.__main__ import app
from pipelines.console import main
from pipelines.engine.apply import apply
from pipelines.errors import PipelineError
from pipelines.pipeline import Pipeline
from pipelines.registry import registry

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
            {"value_counts": {"by": "score"}},
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
    with pytest.raises(PipelineError, match="has the sources a, b; name one"):
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
    with pytest.raises(PipelineError, match=r"steps\[0\]: unknown mapper 'stop_word_filtr'; did"):
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
