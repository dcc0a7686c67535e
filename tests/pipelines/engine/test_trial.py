"""A participant's operator is tried on real rows before the run: the same answers anywhere."""

from __future__ import annotations

import textwrap
from pathlib import Path

import orjson
import pytest

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.engine.trial import ContractBroken
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
            return because([random.random() < 0.5 for _ in texts], "never")
            """,
            "two runs on the same rows differ",
        ),
        (
            'return because([hash(t) % 2 == 1 for t in texts], "never")',
            "another process gives other",
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
