"""The metrics of zero-shot tasks: ranks, recall, Jaccard, F1, and their averages over groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.items import Metrics, Tally

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def normalised(features: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay zero."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    result: Floats = features / np.maximum(length, 1e-12)
    return result


TIE = 2e-6
"""Rounding error of a float32 cosine in a few hundred dimensions: smaller differences are ties."""
BLOCK = 4096  # rows of a similarity matrix in memory at a time


def against(scores: Floats, right: Ints, tie: float) -> Floats:
    """Scores (rows, others) with the right one's lowered by `tie`, so that it loses near ties."""
    lowered = scores.copy()
    lowered[np.arange(len(right)), right] -= tie
    return lowered


def ranks(
    images: Floats, texts: Floats, owner: Ints, captions: Sequence[str] | None = None
) -> pa.Table:
    """The rank of each text's image, then of each image's best own text: one log row for each.

    `owner` (texts,) is the image of each text. A rank is the number of others that are more
    similar, or equally similar within `TIE`. A text of another image that equals one of the
    image's own (by `captions`) counts only if it is more similar by over `TIE`. Computed in blocks:
    the whole matrix is never in memory.
    """
    images, texts = normalised(images), normalised(texts)
    text_rank, text_best = _ranks(texts, images, owner)
    image_rank = np.empty(len(images), np.int64)
    image_best = np.empty(len(images), np.int64)
    twins = _twins(owner, captions) if captions is not None else np.empty((0, 2), np.int64)
    for start in range(0, len(images), BLOCK):
        scores = images[start : start + BLOCK] @ texts.T
        stop = start + len(scores)
        own_texts = np.flatnonzero((owner >= start) & (owner < stop))
        image = owner[own_texts] - start
        best_first = np.lexsort((-scores[image, own_texts], image))
        _, first = np.unique(image[best_first], return_index=True)
        chosen = own_texts[best_first[first]]  # the best own text of each image
        own = scores[np.arange(len(scores)), chosen]
        scores[image, own_texts] = -np.inf
        beaten = scores > own[:, None] - TIE
        near = twins[(twins[:, 0] >= start) & (twins[:, 0] < stop)] - (start, 0)
        beaten[near[:, 0], near[:, 1]] &= scores[near[:, 0], near[:, 1]] > own[near[:, 0]] + TIE
        image_rank[start:stop] = beaten.sum(axis=1)
        other = np.where(beaten, scores, -np.inf).argmax(axis=1)
        image_best[start:stop] = np.where(beaten.any(axis=1), other, chosen)
    rank = np.concatenate([text_rank, image_rank])
    return pa.table(
        {
            "row": np.arange(len(rank)),
            "side": ["text"] * len(texts) + ["image"] * len(images),
            "gold": np.concatenate([owner, np.arange(len(images))]),
            "predicted": np.concatenate([text_best, image_best]),
            "rank": rank,
            "correct": rank == 0,
        }
    )


def _ranks(queries: Floats, others: Floats, right: Ints) -> tuple[Ints, Ints]:
    rank, best = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ others.T
        stop = start + len(scores)
        lowered = against(scores, right[start:stop], TIE)
        own = lowered[np.arange(len(scores)), right[start:stop]]
        beaten = lowered > own[:, None]
        rank[start:stop] = beaten.sum(axis=1)
        other = np.where(beaten, lowered, -np.inf).argmax(axis=1)
        best[start:stop] = np.where(beaten.any(axis=1), other, right[start:stop])
    return rank, best


def _twins(owner: Ints, captions: Sequence[str]) -> Ints:
    """Pairs (image, text) where another image's text equals one of this image's own, (n, 2)."""
    same: dict[str, list[int]] = {}
    for index, caption in enumerate(captions):
        same.setdefault(caption, []).append(index)
    pairs = [
        (int(owner[index]), other)
        for equal in same.values()
        if len(equal) > 1
        for index in equal
        for other in equal
        if owner[index] != owner[other]
    ]
    return np.array(sorted(set(pairs)), dtype=np.int64).reshape(-1, 2)


def top_of(scores: Floats, count: int) -> list[int]:
    """The positions of the `count` largest scores."""
    return sorted(np.argsort(scores)[-count:].tolist()) if count else []


def jaccard(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Jaccard's index of the best candidates and the right ones. Ties count as wrong."""
    chosen = np.zeros(len(truth), bool)
    chosen[top_of(scores - TIE * truth, int(truth.sum()))] = True
    return float((chosen & truth).sum() / (chosen | truth).sum())


def jaccard_of(predicted: Sequence[int], gold: Sequence[int]) -> float:
    """Jaccard's index of two sets of candidates."""
    union = set(predicted) | set(gold)
    return len(set(predicted) & set(gold)) / len(union) if union else 0.0


# ---- figures


def by_group(
    right: npt.NDArray[Any],
    groups: Ints,
    prefix: str,
    field: str | Sequence[str],
    worst: str,
    *,
    counted: bool = True,
) -> Metrics:
    """The mean of `right` and the size of every group, and the lowest mean as `worst`.

    A group without members has the mean None and is not considered for `worst`.
    """
    names = (
        [f"{field}:{number}" for number in range(int(groups.max()) + 1)]
        if isinstance(field, str)
        else list(field)
    )
    total = np.bincount(groups, minlength=len(names))
    hits = np.bincount(groups, weights=right, minlength=len(names))
    metrics: Metrics = {}
    for name, count, hit in zip(names, total.tolist(), hits.tolist(), strict=True):
        metrics[f"{prefix}_{name}"] = hit / count if count else None
        if counted:
            metrics[f"count_{name}"] = float(count)
    metrics[worst] = min(hit / n for hit, n in zip(hits.tolist(), total.tolist(), strict=True) if n)
    return metrics


def _with_average(
    prefix: str,
    right: npt.NDArray[Any],
    groups: Ints,
    field: str | Sequence[str],
    *,
    counted: bool = True,
) -> Metrics:
    metrics: Metrics = {f"{prefix}_avg": float(np.mean(right))}
    return metrics | by_group(right, groups, prefix, field, f"{prefix}_wg", counted=counted)


def race_right(predicted: Ints, binary: Ints) -> npt.NDArray[np.bool_]:
    """Whether race is right as the reference counts it: the second class against all others."""
    result: npt.NDArray[np.bool_] = (predicted != 1).astype(np.int64) == binary
    return result


def recall(gold: Ints, predicted: Ints) -> tuple[Ints, Ints]:
    """Hits and images per class, (classes,) each."""
    size = int(max(gold.max(), predicted.max())) + 1
    return np.bincount(gold[gold == predicted], minlength=size), np.bincount(gold, minlength=size)


def f1(gold: Ints, predicted: Ints) -> tuple[Ints, Ints]:
    """2 TP and 2 TP + FP + FN per class; 0 for classes without images."""
    size = int(max(gold.max(), predicted.max())) + 1
    hits = np.bincount(gold[gold == predicted], minlength=size)
    true = np.bincount(gold, minlength=size)
    num_predicted = np.bincount(predicted, minlength=size)
    return np.where(true > 0, 2 * hits, 0), np.where(true > 0, true + num_predicted, 0)


def macro(numerator: Ints, denominator: Ints) -> float:
    """The mean ratio over the classes with a positive denominator."""
    counted = denominator > 0
    return float(np.mean(numerator[counted] / denominator[counted]))


def f1_tally(gold: Ints, predicted: Ints) -> Tally:
    """Each image counts in its own class and in the predicted one."""
    right = (gold == predicted).astype(np.float64)
    taken = np.isin(predicted, np.unique(gold))
    numerator = np.concatenate([2 * right, np.zeros(int(taken.sum()))])
    return Tally(numerator, np.ones_like(numerator), np.concatenate([gold, predicted[taken]]))
