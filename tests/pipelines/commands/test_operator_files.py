"""`pipelines check`: several operators of a file, parameters of a pipeline, functions of a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.errors import PipelineError

MINE = '''
from pydantic import Field
from pipelines.operators import Filter, because


class Longest(Filter):
    """Reject long documents by their letters."""

    most: int = Field(description="letters")
    reasons = ("too_long",)

    def reads(self):
        return ("text",)

    def reject(self, batch):
        return because([len(t) > self.most for t in batch.text.to_pylist()], "too_long")


class Plain(Filter):
    """Reject documents without an a."""

    reasons = ("no_a",)

    def reads(self):
        return ("text",)

    def reject(self, batch):
        return because(["a" not in t for t in batch.text.to_pylist()], "no_a")


def few_commas(page, most=3):
    return [page] if page["text"].count(",") < most else []
'''


def check(tmp_path: Path, file: str, *options: str) -> Result:
    (tmp_path / "mine.py").write_text(MINE)
    steps = "steps:\n  - mine.py:Longest: {most: 5}\n  - mine.py:few_commas: {most: 2}\n"
    (tmp_path / "mine.yaml").write_text("name: mine\n" + steps)
    return CliRunner().invoke(app, ["check", str(tmp_path / file), *options])


def test_an_operator_that_lacks_a_parameter_does_not_keep_others_from_being_tried(
    tmp_path: Path,
) -> None:
    done = check(tmp_path, "mine.py")
    assert done.exit_code == 0
    assert "Plain, few_commas keep all promises" in done.output
    assert "Longest was not tried: " in done.output
    assert "most is not given" in done.output


@pytest.mark.parametrize("given", ['{"Longest": {"most": 5}}', '{"most": 5}'])
def test_parameters_are_those_of_one_class_or_of_whichever_has_them(
    tmp_path: Path, given: str
) -> None:
    done = check(tmp_path, "mine.py", "--parameters", given)
    assert (done.exit_code, "Longest, Plain, few_commas keep all" in done.output) == (0, True)


def test_steps_of_a_pipeline_are_tried_with_its_parameters(tmp_path: Path) -> None:
    done = check(tmp_path, "mine.yaml")
    assert done.exit_code == 0
    assert "step 1 (mine.py:Longest), step 2 (mine.py:few_commas) keep all" in done.output


def test_a_parameter_that_no_operator_has_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path, "mine.py", "--parameters", '{"moost": 5}')
    assert isinstance(done.exception, PipelineError)
    assert "none of Longest, Plain, few_commas has the parameter moost" in str(done.exception)
