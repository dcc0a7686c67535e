"""What an operator declares it writes is written, or the run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline

FORGETFUL = '''
import numpy as np
import pyarrow as pa

from pipelines.operators import Fold, Modifier, Splitter


class Modify(Modifier):
    """Declare two columns and write one."""

    def writes(self):
        return {"digits": pa.int64(), "quality": pa.float64()}

    def modify(self, batch):
        return {"digits": pa.array([0] * batch.num_rows, pa.int64())}


class Split(Splitter):
    """Declare a column that the parts do not have."""

    def writes(self):
        return {"quality": pa.float64()}

    def split(self, batch):
        return batch.table.drop_columns("row"), np.arange(batch.num_rows)


class Step(Fold):
    """Declare a column and write none."""

    reasons = ("seen",)

    def writes(self):
        return {"quality": pa.float64()}

    def start(self):
        return 0

    def step(self, state, batch):
        return state, {}
'''


@pytest.mark.parametrize("name", ["Modify", "Split", "Step"])
@pytest.mark.parametrize("row", [b'{"text": "a b"}', b'{"text": "a b", "quality": 0.5}'])
@pytest.mark.parametrize("quarantine", [False, True])
def test_a_declared_column_that_is_not_written_ends_the_run(
    tmp_path: Path, name: str, row: bytes, quarantine: bool
) -> None:
    (tmp_path / "mine.py").write_text(FORGETFUL)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(row + b"\n")
    pipeline = Pipeline.from_steps([f"mine.py:{name}"], folder=tmp_path)
    expected = (
        rf"step 1 \(mine\.py:{name}\) on shard a\.jsonl: {name.lower()} did not write 'quality', "
        r"which writes\(\) declares; return it for every batch .* or take it out of writes\(\)"
    )
    with pytest.raises(OperatorFailed, match=expected):
        run(
            pipeline,
            open_pool(str(tmp_path / "in")),
            out=str(tmp_path / "out"),
            quarantine=quarantine,
        )


HARMFUL = '''
import numpy as np
import pyarrow as pa

from pipelines.operators import Modifier, Splitter

BROKEN = pa.array([b"\\xff"], pa.large_binary()).view(pa.large_string())


class Rows(Modifier):
    """Give all rows one identity."""

    def writes(self):
        return {"row": pa.int64()}

    def modify(self, batch):
        return {"row": pa.array([7] * batch.num_rows, pa.int64())}


class Bytes(Modifier):
    """Write a text that is not UTF-8."""

    def writes(self):
        return {"text": pa.large_string()}

    def modify(self, batch):
        return {"text": pa.concat_arrays([BROKEN] * batch.num_rows or [BROKEN.slice(1)])}


class Extra(Modifier):
    """Write something else where the fields without a column are."""

    def writes(self):
        return {"extra": pa.large_string()}

    def modify(self, batch):
        return {"extra": pa.array(["x"] * batch.num_rows, pa.large_string())}


class Parents(Splitter):
    """Count parents from the end."""

    def split(self, batch):
        return batch.table, np.full(batch.num_rows, -1)


class Parts(Splitter):
    """Give parts that are not UTF-8."""

    def split(self, batch):
        texts = pa.concat_arrays([BROKEN] * batch.num_rows or [BROKEN.slice(1)])
        return pa.table({"text": texts}), np.arange(batch.num_rows)
'''


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Rows", "modify wrote 'row', by which rows are known; take another name"),
        ("Bytes", "Invalid UTF8"),
        ("Extra", "the column 'extra' holds text that is not a JSON object"),
        ("Parents", "split returned the parents -1 to -1 for 1 rows"),
        ("Parts", "Invalid UTF8"),
    ],
)
def test_what_would_harm_the_dataset_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(HARMFUL)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "a b"}\n')
    pipeline = Pipeline.from_steps([f"mine.py:{name}"], folder=tmp_path)
    with pytest.raises(OperatorFailed, match=message):
        run(pipeline, open_pool(str(tmp_path / "in")), out=str(tmp_path / "out"))
