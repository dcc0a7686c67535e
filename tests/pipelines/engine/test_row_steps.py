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
