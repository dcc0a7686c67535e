"""What a newcomer types in the first hours, and what comes back."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from tests.pipelines.behaviour.stranger_pools import jsonl, made

MINE = '''
from pipelines.operators import Filter, because


class Mine(Filter):
    """Reject texts that are short, in one way or another."""

    least: int
    reasons = ("short",)

    def reject(self, batch):
        texts = batch.text.to_pylist()
        {body}
'''

PAGES = """
def with_length(page):
    page["n_chars"] = len(page["text"])
    return [page]
"""


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def said(config: Path, text: str) -> str:
    """The message about a pipeline's file."""
    config.write_text(textwrap.dedent(text))
    with pytest.raises(PipelineError) as error:
        Pipeline.load(config)
    return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jsonl(tmp_path / "pool/part-00.jsonl", *({"id": n, "text": "a" * n} for n in (30, 4)))
    jsonl(tmp_path / "pool/part-01.jsonl", {"id": 7, "text": "b" * 7, "url": "http://b.org/7"})
    (tmp_path / "pages.py").write_text(PAGES)
    (tmp_path / "mine.py").write_text(MINE.format(body='return because([False], "short")'))
    return tmp_path


def steps_of(folder: Path, *steps: str) -> Pipeline:
    (folder / "p.yaml").write_text("steps:\n" + "".join(f"  - {step}\n" for step in steps))
    return Pipeline.load(folder / "p.yaml")


@pytest.mark.parametrize("format", ["jsonl.gz", "parquet"])
def test_a_field_that_a_page_function_sets_is_selected_by(folder: Path, format: str) -> None:
    """In pages whose ids are numbers, which stay numbers."""
    pipeline = steps_of(folder, "pages.py:with_length", "select: {by: n_chars, total: 1, of: rows}")
    result = run(pipeline, open_pool(str(folder / "pool")), out=str(folder / "out"), format=format)
    assert result.record.counts["rows_out"] == 1
    if format == "jsonl.gz":
        folder_of = folder / "again"
        (folder_of / "pool").mkdir(parents=True)
        for file in result.record.outputs:
            name = file.name.rpartition("/")[2]
            (folder_of / "pool" / name).write_bytes((folder / "out" / file.name).read_bytes())
        [row] = made(folder_of)
        assert (row["id"], row["n_chars"]) == (30, 30)


def test_a_page_whose_text_is_no_string_is_named(folder: Path) -> None:
    (folder / "pages.py").write_text("def bad(page):\n    return [{'text': 5}]\n")
    with pytest.raises(OperatorFailed, match="returned a page whose text is int, not a string"):
        run(
            steps_of(folder, "pages.py:bad"),
            open_pool(str(folder / "pool")),
            out=str(folder / "out"),
        )


def test_a_column_behind_a_page_function_that_no_row_has_is_an_error_of_the_run(
    folder: Path,
) -> None:
    pipeline = steps_of(folder, "pages.py:with_length", "threshold: {by: nothing, min_score: 1}")
    with pytest.raises(OperatorFailed, match="nothing"):
        run(pipeline, open_pool(str(folder / "pool")), out=str(folder / "out"))


@pytest.mark.parametrize(
    ("body", "aside"),
    [
        ("return [len(text) < 5 for text in texts]", False),
        ('return because([len(text) for text in texts], "short")', False),
        ('return because([text[99] == "a" for text in texts], "short")', True),
    ],
)
def test_quarantine_is_advised_for_rows_and_not_for_an_answer_of_the_wrong_form(
    folder: Path, body: str, aside: bool
) -> None:
    (folder / "mine.py").write_text(MINE.format(body=body))
    with pytest.raises(OperatorFailed) as error:
        run(
            steps_of(folder, "mine.py:Mine: {least: 1}"),
            open_pool(str(folder / "pool")),
            out=str(folder / "out"),
        )
    assert "repair the operator" in str(error.value)
    assert ("--quarantine" in str(error.value)) == aside


def test_messages_about_an_operator_of_one_s_own_say_how_to_see_it(folder: Path) -> None:
    message = said(folder / "p.yaml", "steps: [mine.py:Mine: {leats: 3}]")
    assert "step 1: Mine: least is not given; unknown parameter 'leats'; did you mean" in message
    assert message.endswith("see: pipelines ops Mine --from mine.py")
    assert "least" in typed("ops", "Mine", "--from", folder / "mine.py").stdout
    wrong = typed("ops", "Mine")
    assert "one of your own: --from FILE.py" in str(wrong.exception)


def test_page_functions_are_listed_and_a_file_without_operators_is_refused(folder: Path) -> None:
    assert "with_length" in typed("ops", "--from", folder / "pages.py").stdout
    (folder / "empty.py").write_text("X = 1\n")
    nothing = typed("ops", "--from", folder / "empty.py")
    assert "defines no operator" in str(nothing.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps:\n  - language: {keep: en}\n", "step 1: language: keep = 'en': write a list, [en]"),
        (
            "steps:\n  - exact_dedup\n  - nonsense\n",
            "step 2: unknown operator 'nonsense'",
        ),
        ("steps:\n  - language: {keep: [en]\n", "p.yaml is not YAML: line 3, column 1: expected"),
        (
            "steps: []\nsteps: []\n",
            "p.yaml is not YAML: line 2, column 1: the key 'steps' is there twice",
        ),
    ],
)
def test_mistakes_in_a_pipeline_s_file_are_placed_as_people_count(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in said(tmp_path / "p.yaml", text)


def test_a_baseline_s_name_in_place_of_a_file_says_how_to_get_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"BENCHMARK baselines tiny_baseline > tiny_baseline\.yaml"
    ):
        Pipeline.load("tiny_baseline")
    with pytest.raises(PipelineError, match=r"there is no pipeline file .*gone\.yaml$"):
        Pipeline.load(tmp_path / "gone.yaml")


def test_explain_says_what_the_pool_has_to_have(folder: Path) -> None:
    steps_of(folder, "language: {keep: [en]}")
    shown = typed("explain", folder / "p.yaml").stdout
    assert "the pool has to have: language, language_probability" in shown
    steps_of(folder, "language_id", "language: {keep: [en]}")
    assert "the pool has to have" not in typed("explain", folder / "p.yaml").stdout


def test_why_finds_a_row_by_the_name_that_messages_have_for_its_shard(folder: Path) -> None:
    run(
        steps_of(folder, "word_count: {min_words: 2}"),
        open_pool(str(folder / "pool")),
        out=str(folder / "out"),
        allow_empty=True,
    )
    by_name = typed("why", folder / "out", "part-01.jsonl:0")
    assert by_name.stdout == typed("why", folder / "out", "1:0").stdout
    assert "too_few_words" in by_name.stdout
    assert typed("why", folder / "out", "http://b.org:80").exit_code != 0  # an address with a port
    assert "too_few_words" in typed("why", folder / "out", "http://b.org/7").stdout
