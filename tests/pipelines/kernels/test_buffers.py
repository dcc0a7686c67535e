"""Rows in parts behind which bytes can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pipelines.kernels.buffers import buffers_of, padded
from pipelines.schema import STRING


@pytest.mark.parametrize("padding", [0, 3, 8, 100])
@pytest.mark.parametrize("texts", [[], [""], ["ab", "", "cdefg"], ["abcdefghij"]])
def test_all_rows_are_in_parts_with_room_behind_them(texts: list[str], padding: int) -> None:
    data, offsets = buffers_of(pa.array(["cut", *texts], STRING).slice(1))
    seen = []
    for part, borders, rows in padded(data, offsets, padding):
        assert len(part) >= borders[-1] + padding
        assert list(range(len(texts)))[rows] == list(range(len(seen), len(seen) + len(borders) - 1))
        seen += [bytes(part[a:b]).decode() for a, b in itertools.pairwise(borders)]
    assert seen == texts


def test_rows_with_room_are_not_copied() -> None:
    data, offsets = buffers_of(pa.array(["a" * 50, "b" * 50], STRING))
    parts = list(padded(data, offsets, 20))
    assert [rows for _, _, rows in parts] == [slice(0, 1), slice(1, 2)]
    assert parts[0][0] is data
    assert np.shares_memory(parts[0][1], offsets)
