"""Rules on images whose corruption is known."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.image_text.corruption import CleanShare, Corruption, NoiseLevel, Weight


def batch(**columns: list[object]) -> Batch:
    rows = {
        "corruption": ["none", "gaussian", "gaussian", "mask", None],
        "level": [0.0, 0.2, 0.5, 0.9, 0.1],
        **columns,
    }
    table = pa.table({**rows, "row": pa.array(range(5), pa.int64())})
    kinds = table["corruption"].cast(pa.large_string())
    return Batch(table.set_column(0, "corruption", kinds))


def reasons(operator: Corruption | CleanShare, rows: Batch) -> list[str | None]:
    result = operator.reject(rows)
    assert isinstance(result, pa.Array)
    return result.to_pylist()


def test_corruption_keeps_kinds_and_levels_up_to_the_limit() -> None:
    rule = Corruption(keep=("none", "gaussian"), max_level=0.2)
    expected = [None, None, "too_corrupted", "other_corruption", "other_corruption"]
    assert reasons(rule, batch()) == expected


def test_clean_share_draws_by_hash_of_the_uid() -> None:
    uids = [f"{n:032x}" for n in range(4000)]
    table = pa.table(
        {
            "corruption": pa.array(["none", "gaussian"] * 2000, pa.large_string()),
            "uid": pa.array(uids, pa.large_string()),
            "row": pa.array(range(4000), pa.int64()),
        }
    )
    rule = CleanShare(clean=0.25, corrupted=0.75)
    kept = [reason is None for reason in reasons(rule, Batch(table))]
    assert sum(kept[::2]) == pytest.approx(500, abs=80)
    assert sum(kept[1::2]) == pytest.approx(1500, abs=80)
    assert kept == [reason is None for reason in reasons(rule, Batch(table))]
    other = CleanShare(clean=0.25, corrupted=0.75, seed=1)
    assert kept != [reason is None for reason in reasons(other, Batch(table))]


def written(operator: NoiseLevel | Weight, rows: Batch) -> list[float | None]:
    result = operator.modify(rows)
    assert isinstance(result, dict)
    [column] = result.values()
    return [None if value is None else round(value, 4) for value in column.to_pylist()]


def test_noise_level_is_set_for_its_kinds_only() -> None:
    assert written(NoiseLevel(of_level=2.0, kinds=("gaussian",)), batch()) == [
        None,
        0.4,
        1.0,
        None,
        None,
    ]
    assert written(NoiseLevel(sigma_min=0.0), batch()) == [None, 0.0, 0.0, 0.0, None]
    estimates = batch(estimate=[0.1, 0.3, None, 0.7, 0.9])
    rule = NoiseLevel(column="estimate", kinds=("gaussian", "mask"))
    assert written(rule, estimates) == [None, 0.3, None, 0.7, None]


def test_noise_level_takes_exactly_one_source() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        NoiseLevel()
    with pytest.raises(ValueError, match="exactly one"):
        NoiseLevel(sigma_min=1.0, of_level=1.0)


def test_weight_by_kind_and_column() -> None:
    assert written(Weight(clean=9.0), batch()) == [9.0, 1.0, 1.0, 1.0, 1.0]
    scored = batch(score=[2.0, 0.5, 0.0, 1.0, 3.0])
    assert written(Weight(clean=2.0, column="score"), scored) == [4.0, 0.5, 0.0, 1.0, 3.0]
    with pytest.raises(ValueError, match="below 0"):
        Weight(column="score").modify(batch(score=[-1.0, 0.0, 0.0, 0.0, 0.0]))
