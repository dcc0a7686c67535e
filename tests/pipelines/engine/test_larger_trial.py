"""State and habits of a participant's operator that 64 rows do not show stop the run."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.engine import larger_trial
from pipelines.engine.larger_trial import difference
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.engine.trial import ContractBroken
from pipelines.formats.pool import open_pool
from pipelines.operators import Dedup, Keys
from pipelines.pipeline import Pipeline

HEAD = '''
from pipelines.operators import Filter, because

calls = []


class Mine(Filter):
    """Reject some documents, for a test."""

    reasons = ("never",)

    def reject(self, batch):
        texts = batch.text.to_pylist()
'''


def curate(tmp_path: Path, body: str, *, rows: int) -> Result:
    (tmp_path / "mine.py").write_text(HEAD + textwrap.indent(textwrap.dedent(body), " " * 8))
    (tmp_path / "in").mkdir()
    lines = [orjson.dumps({"text": f"document number {n}"}) + b"\n" for n in range(rows)]
    (tmp_path / "in/a.jsonl").write_bytes(b"".join(lines))
    pipeline = Pipeline.from_steps(
        [{"word_count": {"min_words": 2}}, "mine.py:Mine"], folder=tmp_path
    )
    return run(pipeline, open_pool(str(tmp_path / "in")), out=str(tmp_path / "out"))


@pytest.mark.parametrize(
    "body",
    [
        'return because([len(texts) > 100 for _ in texts], "never")',
        'return because([len(texts) > 900 for _ in texts], "never")',
        'return because([n > 500 for n, _ in enumerate(texts)], "never")',
        """
        calls.extend(texts)
        first = len(calls) - len(texts)
        return because([first + n > 1500 for n, _ in enumerate(texts)], "never")
        """,
    ],
    ids=["batch above 100 rows", "batch above 900 rows", "row 500 of a batch", "row 1500 seen"],
)
def test_what_only_larger_batches_show_stops_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(larger_trial, "TRIAL_SECONDS", 600.0)  # a busy machine is slow
    with pytest.raises(
        ContractBroken, match=r"step 2 \(mine\.py:Mine\).*rows \d+ to \d+ get other"
    ):
        curate(tmp_path, body, rows=1200)


def test_an_honest_operator_is_tried_on_two_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larger_trial, "TRIAL_SECONDS", 600.0)
    result = curate(
        tmp_path, 'return because([t.endswith("7") for t in texts], "never")', rows=2500
    )
    assert result.record.counts["rows_out"] == 2250
    assert result.record.made_by.figures["tried_rows/step 2 (mine.py:Mine)"] == 2000


def test_an_operator_that_is_slow_is_tried_on_as_many_rows_as_the_time_lets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larger_trial, "TRIAL_SECONDS", 0.0)
    result = curate(tmp_path, 'return because([False for _ in texts], "never")', rows=300)
    assert result.record.made_by.figures["tried_rows/step 2 (mine.py:Mine)"] == 64


class Words(Dedup):
    """Every word is a unit; `limit` words a batch are given keys."""

    limit: int

    def keys(self, batch: Batch) -> Keys:
        position = np.repeat(np.arange(batch.num_rows), 2)[: self.limit]
        zeros = np.zeros(len(position), np.int64)
        key = np.stack([batch.rows[position].astype(np.uint64)] * 2, axis=1)
        return Keys(position=position, unit=zeros, key=key, rank=zeros)


@pytest.mark.parametrize(("limit", "differs"), [(10_000, False), (300, True)])
def test_units_of_a_dedup_are_compared_row_by_row(limit: int, differs: bool) -> None:
    batch = Batch(pa.table({"row": pa.array(range(400)), "text": ["a b"] * 400}))
    assert (difference(Words(limit=limit), [batch], seed="x") is not None) is differs
