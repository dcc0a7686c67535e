"""Plots: what is named, and how a size is written."""

from __future__ import annotations

import re

import pytest

from leaderboard.board import plots
from leaderboard.board.plots import LABEL_LETTERS, Point, scatter


def point(label: str, size: float, value: float, rank: int) -> Point:
    return Point(label=label, size=size, value=value, error=0.0, rank=rank)


def test_a_name_is_written_once_and_fits_beside_the_plot() -> None:
    long = "rw_v2_cc_v3_f0.15_resiliparse_fasttext_vs_rw_v2_bigram_200k_train_0.1"
    points = [point(long, 10.0**n, float(n), 9 - n) for n in range(9)]
    svg = str(scatter([*points, point("other", 5.0, 0.5, 10)], axes=("x", "y")))
    labels = re.findall(r">([^<>]+)</text>", svg)
    cut = [label for label in labels if "…" in label]
    assert len(cut) == 1
    assert len(cut[0]) == LABEL_LETTERS
    assert cut[0].endswith("train_0.1")
    assert "other" in labels


@pytest.mark.parametrize(
    ("size", "words"),
    [(1.14e22, "1.14e22"), (1e22, "1e22"), (2.76e11, "276B"), (999.0, "999"), (2.5e3, "2.5k")],
)
def test_a_size_has_three_digits(size: float, words: str) -> None:
    assert plots._short(size) == words
