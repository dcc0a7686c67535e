"""A participant's operator is tried on real rows before the run: the same answers anywhere."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

import orjson
import pytest

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.engine.trial import ContractBroken
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline

HEAD = """
import pyarrow as pa
from pipelines.operators import Filter, because


class Mine(Filter):
    \"\"\"Reject some documents, for a test.\"\"\"

    reasons = ("never",)

    def reject(self, batch):
        texts = batch.text.to_pylist()
"""


def curate(tmp_path: Path, body: str, *, rows: int = 20):
    (tmp_path / "mine.py").write_text(HEAD + textwrap.indent(textwrap.dedent(body), " " * 8))
    (tmp_path / "mine.yaml").write_text(
        "steps:\n  - word_count: {min_words: 2}\n  - mine.py:Mine\n"
    )
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    lines = [orjson.dumps({"text": f"document number {n}"}) + b"\n" for n in range(rows)]
    (folder / "a.jsonl").write_bytes(b"".join(lines))
    pipeline = Pipeline.load(tmp_path / "mine.yaml")
    return run(pipeline, open_pool(str(folder)), out=str(tmp_path / "out"))


def test_an_honest_operator_is_tried_and_the_record_says_on_how_many_rows(tmp_path: Path) -> None:
    result = curate(tmp_path, 'return because([t.endswith("7") for t in texts], "never")')
    assert result.record.counts["rows_out"] == 18
    assert result.record.made_by.figures["tried_rows/step 2 (mine.py:Mine)"] == 20


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('return because([n % 2 == 1 for n in range(len(texts))], "never")', "cut after row 1"),
        (
            """
            import random
            return because([random.SystemRandom().random() < 0.5 for _ in texts], "never")
            """,
            "(two runs on the same rows differ|cut after row 1 the answers differ)",
        ),
        (
            'return because([hash(t) % 2 == 1 for t in texts], "never")',
            "another process gives other",
        ),
        (
            'return because([next(iter({"a" + t, "b" + t}))[0] == "a" for t in texts], "never")',
            "another process gives other",
        ),
        ('return because([True], "never")', "reasons: 1 answers for 20 rows"),
        ('return because([True] * (len(texts) + 1), "never")', "reasons: 21 answers for 20 rows"),
        (
            """
            import builtins
            first = getattr(builtins, "rows_seen", 0)
            builtins.rows_seen = first + len(texts)
            return because([(first + n) % 2 == 1 for n in range(len(texts))], "never")
            """,
            "cut after row 1",
        ),
    ],
)
def test_what_would_differ_elsewhere_stops_before_the_run(
    body: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractBroken, match=rf"step 2 \(mine.py:Mine\), tried on .*{message}"):
        curate(tmp_path, body)
    assert not list((tmp_path / "out").glob("done/*"))


def test_an_error_in_a_participant_s_code_names_its_file_and_line(tmp_path: Path) -> None:
    body = """
    values = [int(t[-1]) for t in texts]
    return because([1 / (v - 5) > 9 for v in values], "never")
    """
    line = HEAD.count("\n") + 3
    with pytest.raises(
        OperatorFailed, match=rf"row 5 .*ZeroDivisionError.*\(mine.py, line {line}\)"
    ):
        curate(tmp_path, body)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("raise SystemExit(3)", "SystemExit: 3 .mine.py, line"),
        ("assert not texts", "AssertionError: *.mine.py, line"),
        (
            "import numpy as np; return because(np.ma.array([True] * len(texts)), 'never')",
            "TypeError: the mask of 'never' is a masked array",
        ),
        ("return super().cases(batch)", "NotImplementedError: Mine defines no method 'cases'"),
    ],
)
def test_what_ends_a_program_is_a_failure_of_the_operator(
    line: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(OperatorFailed, match=f"row 0 .*{problem}"):
        curate(tmp_path, line)


def test_reasons_that_are_one_string_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD.replace('("never",)', '"never"') + "        pass")
    (tmp_path / "mine.yaml").write_text("steps: [mine.py:Mine]")
    with pytest.raises(PipelineError, match=r"reasons of Mine is a string; write \('never',\)"):
        Pipeline.load(tmp_path / "mine.yaml")


WORDS = """
import pyarrow as pa
from pipelines.operators import Filter, because

{head}

class Mine(Filter):
    \"\"\"Reject documents with a word of a list.\"\"\"

    reasons = ("listed",)
    _words: tuple[str, ...] = ()

    def assets(self):
        return {assets}

    def load(self, assets):
        self._words = tuple(open({path}).read().split())

    def reject(self, batch):
        texts = batch.text.to_pylist()
        return because([any(w in t.split() for w in self._words) for t in texts], "listed")
"""


def with_words(tmp_path: Path, **parts: str) -> Result:
    (tmp_path / "words.txt").write_text("7")
    (tmp_path / "in").mkdir()
    lines = [orjson.dumps({"text": f"document number {n}"}) + b"\n" for n in range(10)]
    (tmp_path / "in" / "a.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "mine.py").write_text(WORDS.format(**{"head": "", "assets": "()", **parts}))
    (tmp_path / "mine.yaml").write_text("steps: [mine.py:Mine]\n")
    pipeline = Pipeline.load(tmp_path / "mine.yaml", assets=tmp_path)
    return run(pipeline, open_pool(str(tmp_path / "in")), out=str(tmp_path / "out"))


def test_a_file_that_an_operator_opens_and_does_not_declare_is_in_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = str(tmp_path / "words.txt")
    result = with_words(tmp_path, path=repr(words))
    assert result.record.counts["rows_out"] == 9
    step = "step 1 (mine.py:Mine)"
    assert result.record.made_by.figures[f"undeclared_files/{step}"] == 1
    sha256 = hashlib.sha256(b"7").hexdigest()
    named = result.record.made_by.locations[f"undeclared/{step}/0"]
    assert named == f"{words} (sha256 {sha256})"
    assert f"{step} opens files that no step declares ({words})" in caplog.text


def test_a_file_that_is_opened_at_import_is_seen(tmp_path: Path) -> None:
    words = repr(str(tmp_path / "words.txt"))
    result = with_words(tmp_path, head=f"open({words}).close()", path="'/dev/null'")
    assert result.record.made_by.figures["undeclared_files/step 1 (mine.py:Mine)"] == 1


def test_a_declared_asset_is_vouched_for(tmp_path: Path) -> None:
    result = with_words(tmp_path, assets='("words.txt",)', path='assets.path("words.txt")')
    assert result.record.counts["rows_out"] == 9
    assert [asset.name for asset in result.record.work.assets] == ["words.txt"]
    assert not [f for f in result.record.made_by.figures if f.startswith("undeclared")]


def test_changed_code_of_a_helper_beside_the_file_is_another_dataset(tmp_path: Path) -> None:
    head, path = "from words_of_mine import PATH", "PATH"
    (tmp_path / "words_of_mine.py").write_text("import of_helpers\nPATH = of_helpers.NOTHING\n")
    (tmp_path / "of_helpers.py").write_text("NOTHING = '/dev/null'\n")
    first = with_words(tmp_path, head=head, path=path).record
    assert first.counts["rows_out"] == 10
    names = [module.name for module in first.work.modules]
    assert names == ["mine.py", "of_helpers.py", "words_of_mine.py"]
    (tmp_path / "of_helpers.py").write_text(f"NOTHING = {str(tmp_path / 'words.txt')!r}\n")
    pool = open_pool(str(tmp_path / "in"))
    changed = Pipeline.load(tmp_path / "mine.yaml", assets=tmp_path)
    second = run(changed, pool, out=str(tmp_path / "second")).record
    assert second.counts["rows_out"] == 9
    assert second.key != first.key
    # The record alone holds all the code, wherever the files are.
    modules = {module.name: module for module in first.work.modules}
    again = Pipeline.from_steps(["mine.py:Mine"], modules=modules, assets=tmp_path)
    assert run(again, pool, out=str(tmp_path / "again")).record.counts["rows_out"] == 10


SCORER = """
import numpy as np
from pipelines.operators import Select


class Mine(Select):
    \"\"\"Score documents; some have none.\"\"\"

    def score(self, batch):
        texts = batch.text.to_pylist()
        return np.array([float("nan") if t[-1] in "369" else len(t) for t in texts])
"""


def test_a_row_without_a_score_is_the_same_answer_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCORER)
    (tmp_path / "mine.yaml").write_text(
        "steps:\n  - mine.py:Mine: {fraction: 0.5, missing: drop}\n"
    )
    (tmp_path / "in").mkdir()
    lines = [orjson.dumps({"text": f"document number {n}"}) + b"\n" for n in range(20)]
    (tmp_path / "in/a.jsonl").write_bytes(b"".join(lines))
    pipeline = Pipeline.load(tmp_path / "mine.yaml")
    record = run(pipeline, open_pool(str(tmp_path / "in")), out=str(tmp_path / "out")).record
    assert record.counts["rows_out"] == 10
    assert record.made_by.figures["tried_rows/step 1 (mine.py:Mine)"] == 20


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("None", "modify returned a NoneType; return a mapping of columns' names"),
        ("batch.table", "modify returned a Table; return a mapping"),
        ('{"text": texts}', r"modify gave a list for 'text'; give an Arrow array, as pa\.array"),
        ('{"text": pa.array(texts)}', "modify wrote 'text' as string, declared as large_string"),
        ('setattr(batch, "table", None)', r"no setter \(mine\.py, line \d+\)"),
    ],
)
def test_what_a_modifier_may_not_return_or_change_is_said(
    tmp_path: Path, answer: str, message: str
) -> None:
    with pytest.raises(OperatorFailed, match=message):
        run_modifier(tmp_path, answer)


def test_texts_of_another_type_are_the_modifiers_fault(tmp_path: Path) -> None:
    """Not the pool's, whose column of text would be advised."""
    message = r"modify wrote 'text' as string; texts of documents are pa.large_string\(\)"
    with pytest.raises(OperatorFailed, match=message):
        run_modifier(tmp_path, '{"text": pa.array(texts)}', declared="string")


def run_modifier(tmp_path: Path, answer: str, *, declared: str = "large_string") -> None:
    """Run a modifier of texts that returns an expression, over one document."""
    code = f"""
        import pyarrow as pa
        from pipelines.operators import Modifier


        class Mine(Modifier):
            \"\"\"Write texts anew, for a test.\"\"\"

            def writes(self):
                return {{"text": pa.{declared}()}}

            def modify(self, batch):
                texts = batch.text.to_pylist()
                return {answer}
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(code))
    (tmp_path / "mine.yaml").write_text("name: mine\nsteps:\n  - mine.py:Mine\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b'{"text": "a document"}\n')
    pipeline = Pipeline.load(tmp_path / "mine.yaml")
    run(pipeline, open_pool(str(tmp_path / "in")), out=str(tmp_path / "out"))
