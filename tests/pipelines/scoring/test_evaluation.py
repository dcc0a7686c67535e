"""Figures of scores against labels, computed by hand on a few documents."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.scoring.evaluation import area_under_roc, evaluate


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0),
        ([0.9, 0.2, 0.8, 0.1], [1, 1, 0, 0], 0.75),  # three of four pairs in order
        ([0.5, 0.5], [1, 0], 0.5),  # a tie counts half
    ],
)
def test_area_under_roc(scores: list[float], labels: list[int], area: float) -> None:
    assert area_under_roc(scores, np.array(labels) == 1) == area


def test_area_needs_both_labels() -> None:
    with pytest.raises(ValueError, match="both labels"):
        area_under_roc([0.5], np.array([True]))


def test_evaluation_of_five_documents() -> None:
    scores = np.array([0.95, 0.91, 0.15, 0.05, np.nan])
    positive = np.array([True, False, True, False, True])
    here = np.array([True, True, False, False, False])
    evaluation = evaluate(scores, positive, [5, 4, 3, 2, 1], {"web": here, "books": ~here})
    assert (evaluation.positives, evaluation.negatives, evaluation.without_score) == (2, 2, 1)
    assert evaluation.auc == 0.75  # 0.15 is above 0.05 and below 0.91
    assert evaluation.auc_of_length == 0.75
    top, low, lowest = (evaluation.calibration[n] for n in (9, 1, 0))
    assert (top.documents, top.mean_score, top.positive_fraction) == (2, pytest.approx(0.93), 0.5)
    assert (low.documents, low.positive_fraction) == (1, 1.0)
    assert (lowest.documents, lowest.positive_fraction) == (1, 0.0)
    # two documents .43 away, one .85, one .05
    assert evaluation.calibration_error == pytest.approx((2 * 0.43 + 0.85 + 0.05) / 4)
    assert evaluation.histograms["web"] == (0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
    assert evaluation.histograms["books"] == (1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    half = evaluation.cuts[-1]
    assert (half.negatives_kept, half.threshold, half.positives_kept) == (0.5, 0.91, 0.5)
