"""How well scores separate good documents from others: ranking, calibration, and what a cut keeps.

All figures are of documents that the classifier was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipelines.records import Frozen

NUM_BINS = 10  # of the calibration table and of the histograms
KEPT_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # DCLM-Baseline keeps a tenth


class CalibrationBin(Frozen):
    """Documents whose scores are in [low, low + 1 / NUM_BINS)."""

    low: float
    documents: int
    mean_score: float | None = None
    positive_fraction: float | None = None


class Cut(Frozen):
    """What a threshold keeps that leaves this part of the negatives."""

    negatives_kept: float
    threshold: float
    positives_kept: float


class Evaluation(Frozen):
    """A classifier on held-out documents."""

    positives: int
    negatives: int
    without_score: int = Field(0, description="documents without any feature, left out")
    auc: float = Field(description="chance that a positive scores above a negative")
    auc_of_length: float | None = Field(description="the same of the number of characters alone")
    calibration_error: float = Field(description="mean distance of score and share of positives")
    calibration: tuple[CalibrationBin, ...]
    histograms: dict[str, tuple[int, ...]] = Field(description="documents by score, per source")
    cuts: tuple[Cut, ...]


def evaluate(
    scores: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    lengths: Sequence[int] | None,
    sources: Mapping[str, npt.NDArray[np.bool_]],
) -> Evaluation:
    """Figures of one score a document in [0, 1]; NaN where there is none.

    `lengths` are the texts', where there are any; `sources` says which documents are of which
    source. ValueError without documents of both kinds.
    """
    known = ~np.isnan(scores)
    values, labels = scores[known], positive[known]
    bins = np.minimum((values * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    calibration = tuple(_bin(number, values, labels, bins) for number in range(NUM_BINS))
    distance = sum(
        row.documents * abs((row.mean_score or 0.0) - (row.positive_fraction or 0.0))
        for row in calibration
    )
    return Evaluation(
        positives=int(labels.sum()),
        negatives=int((~labels).sum()),
        without_score=int((~known).sum()),
        auc=area_under_roc(values, labels),
        auc_of_length=None
        if lengths is None
        else area_under_roc(np.asarray(lengths, np.float64)[known], labels),
        calibration_error=distance / max(len(values), 1),
        calibration=calibration,
        histograms={
            name: tuple(np.bincount(bins[mask[known]], minlength=NUM_BINS).tolist())
            for name, mask in sources.items()
        },
        cuts=tuple(_cut(share, values, labels) for share in KEPT_SHARES),
    )


def _bin(
    number: int,
    values: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    bins: npt.NDArray[np.int64],
) -> CalibrationBin:
    here = bins == number
    count = int(here.sum())
    return CalibrationBin(
        low=number / NUM_BINS,
        documents=count,
        mean_score=float(values[here].mean()) if count else None,
        positive_fraction=float(labels[here].mean()) if count else None,
    )


def _cut(share: float, values: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> Cut:
    """The lowest score among the best `share` of the negatives, and what is at or above it."""
    others = np.sort(values[~labels])[::-1]
    threshold = float(others[max(int(len(others) * share), 1) - 1])
    return Cut(
        negatives_kept=share,
        threshold=threshold,
        positives_kept=float((values[labels] >= threshold).mean()),
    )


def area_under_roc(
    scores: Sequence[float] | npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]
) -> float:
    """The chance that a random positive scores above a random negative; ties count half."""
    values = np.asarray(scores, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    good = int(labels.sum())
    bad = len(labels) - good
    if not good or not bad:
        raise ValueError("an area under the ROC curve needs documents of both labels")
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad))
