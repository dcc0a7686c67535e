"""Plots: what is named, and how a size is written."""

from __future__ import annotations

import re

import pytest

from leaderboard.board import plots
from leaderboard.board.plots import LABEL_LETTERS, Interval, Point, intervals, scatter


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


def test_an_interval_is_drawn_to_scale_and_cut_at_the_ends_of_the_span() -> None:
    """The axis runs from 290 to 760 pixels: .5 of it is at 525, .25 at 407.5."""
    rows = [
        Interval("a <b>", 0.5, 0.25, 0.75, title="a: 0.5", css="lead"),
        Interval("below", -1.0, -2.0, 0.0, title="below: -1"),
    ]
    svg = str(intervals(rows, title="t", axis="share", span=(0.0, 1.0), mark=0.5, style="text{}"))
    assert svg.startswith("<svg xmlns")
    assert "a &lt;b&gt;" in svg
    lines = re.findall(r'<line class="(\w+ ?\w*)" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert [line for line in lines if line[0] != "grid"] == [
        ("leader", "525.0", "525.0"),
        ("error lead", "407.5", "642.5"),
        ("error rest", "290.0", "290.0"),
    ]
