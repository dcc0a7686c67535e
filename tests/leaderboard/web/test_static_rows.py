"""What the script of a static site compares rows by: answers packed, files bounded."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt
import pytest

from leaderboard.web import static_rows
from leaderboard.web.static_rows import _bounded, _packed


def unpacked(packed: dict[str, object]) -> list[float]:
    """As the script reads it."""
    if "floats" in packed:
        return np.frombuffer(base64.b64decode(str(packed["floats"])), "<f4").tolist()
    data = base64.b64decode(str(packed["codes"]))
    width, levels = int(str(packed["width"])), packed["levels"]
    assert isinstance(levels, list)
    bits = [(data[at >> 3] >> (at & 7)) & 1 for at in range(int(str(packed["number"])) * width)]
    codes = [sum(bits[k + b] << b for b in range(width)) for k in range(0, len(bits), width)]
    return [levels[code] for code in codes]


@pytest.mark.parametrize(
    ("values", "num_bytes"),
    [
        pytest.param([0, 1, 1, 0, 1, 0, 0, 0, 1], 2, id="right-and-wrong-take-a-bit"),
        pytest.param([0.5, 0, 1], 1, id="two-seeds-take-two-bits"),
        pytest.param([0, 0, 0], 1, id="all-wrong"),
        pytest.param([1, 1, 1], 1, id="all-right"),
        pytest.param([-0.25, 0.75, -0.25], 1, id="negative-ones"),
        pytest.param(list(np.arange(17) / 16), 4 * 17, id="many-values-are-numbers"),
    ],
)
def test_answers_are_packed_without_loss(values: list[float], num_bytes: int) -> None:
    array: npt.NDArray[np.float32] = np.array(values, "<f4")
    packed = _packed(array)
    assert unpacked(packed) == array.tolist()
    data = base64.b64decode(packed.get("codes") or packed["floats"])
    assert len(data) == num_bytes


def test_a_file_keeps_the_shortest_tasks_and_names_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(static_rows, "MAX_BYTES", 1000)
    packed = {
        "long": {"floats": "x" * 2000},
        "short": {"codes": "x"},
        "middle": {"codes": "x" * 500},
        "absent": None,
    }
    kept, left_out = _bounded(packed)
    assert sorted(kept) == ["middle", "short"]
    assert left_out == ["long"]
