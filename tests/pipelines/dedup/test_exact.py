"""exact_dedup against plain sets: documents, columns and lines, and who stays."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.engine.apply import apply
from pipelines.pipeline import Pipeline


def kept(table: pa.Table, **parameters: Any) -> list[int]:
    steps = [{"exact_dedup": parameters}]
    return apply(Pipeline.from_steps(steps), table, quarantine=False).table["row"].to_pylist()


def plain_lines(texts: list[str | None]) -> list[str | None]:
    """The first of equal lines stays, over all texts; one that loses all its lines goes."""
    seen: set[str] = set()
    out: list[str | None] = []
    for text in texts:
        if text is None:
            out.append(None)
            continue
        left = []
        for line in text.split("\n"):
            if line.strip().lower() not in seen:
                seen.add(line.strip().lower())
                left.append(line)
        out.append("\n".join(left) if left else None)
    return out


def test_lines_are_those_of_a_plain_set() -> None:
    rng = np.random.default_rng(3)
    vocabulary = ["", " ", "home", "Home ", "über uns", "a b", "المزيد", "x" * 50, "last"]
    texts = [
        "\n".join(str(line) for line in rng.choice(vocabulary, rng.integers(1, 6)))
        + ("\n" + str(n % 20) if n % 3 else "")
        for n in range(200)
    ]
    steps = [{"exact_dedup": {"unit": "line", "normalize": "strip_lowercase"}}]
    applied = apply(Pipeline.from_steps(steps), pa.table({"text": texts}), quarantine=False)
    left = dict(
        zip(applied.table["row"].to_pylist(), applied.table["text"].to_pylist(), strict=True)
    )
    expected = plain_lines(list(texts))
    assert [left.get(row) for row in range(len(texts))] == expected
    assert 0 < len(left) < 40  # most lose every line
    assert {row["reason"] for row in applied.rejected.to_pylist()} == {"duplicate"}


def test_the_first_stays_and_null_is_no_duplicate() -> None:
    table = pa.table({"text": ["a", "b", "a", "c", "b"], "url": ["u", None, "v", "u", None]})
    assert kept(table) == [0, 1, 3]
    assert kept(table, column="url") == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("values", "keep", "row"),
    [
        ([3, 9, 5], "max", 1),
        ([3, 9, 5], "min", 0),
        ([3.0, float("nan"), None], "max", 0),
        ([-0.0, 0.0, -1.5], "max", 0),
        ([None, 2.0, 2.0], "min", 1),
        ([True, False, False], "min", 1),
        (["2024-01-02", "2023-12-31", "2024-01-01"], "min", 1),
        ([datetime.date(2024, 1, d) for d in (2, 5, 3)], "max", 1),
        ([-5, 1 << 62, -(1 << 62)], "min", 2),
    ],
)
def test_who_stays_is_told_by_a_column(values: list[Any], keep: str, row: int) -> None:
    table = pa.table({"text": ["same"] * 3, "best": pa.array(values)})
    assert kept(table, keep_by="best", keep=keep) == [row]


def test_normal_forms_compare_and_texts_stay_as_they_are() -> None:
    table = pa.table({"text": [" One  two", "one two", "one TWO\n", "one two three"]})
    steps = [{"exact_dedup": {"normalize": "whitespace_lowercase"}}]
    left = apply(Pipeline.from_steps(steps), table).table["text"].to_pylist()
    assert left == [" One  two", "one two three"]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(Exception, match="nowhere"):
        kept(pa.table({"text": ["a"]}), column="nowhere")
