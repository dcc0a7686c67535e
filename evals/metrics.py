"""Scores from losses, texts and tallies: plain functions, numpy in, numbers out."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from evals.items import Tally

NUM_DRAWS = 1000  # resamples of the questions
INDICES_AT_ONCE = 1 << 16  # half a megabyte of float64, which stays in cache


def best_option(mean_losses: Sequence[np.float32]) -> int:
    """The option with the lowest mean loss, the first among equals.

    The reference compares float32 perplexities, so losses above 88.7 overflow and tie; we do too.
    """
    with np.errstate(over="ignore"):
        return int(np.argmin(np.exp(np.asarray(mean_losses, dtype=np.float32))))


TIE = 1e-6  # relative; near 10 nats it is eight steps of float32, so smaller gaps are rounding


def tied_with_best(mean_losses: Sequence[np.float32]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which options are within rounding of the best one, (options,) bool."""
    losses = np.asarray(mean_losses, dtype=np.float64)
    best = losses.min()
    result: np.ndarray[Any, np.dtype[np.bool_]] = losses <= best + TIE * max(1.0, abs(best))
    return result


def credit(
    mean_losses: Sequence[np.float32], gold: int, predicted: int, options: Sequence[bytes]
) -> float:
    """The credit of a choice in [0, 1]: a tie counts 1 / (number of tied options).

    A model that ties all options earns what guessing earns, wherever the right one is. `options`
    are the bytes of the options as asked: two with the same text are one option, and as in the
    reference the first of them counts.
    """
    tied = tied_with_best(mean_losses)
    if not tied[gold] or tied.sum() == 1:
        return float(predicted == gold)
    rivals = [option for option, near in zip(options, tied, strict=True) if near]
    first = next(number for number, option in enumerate(options) if option == options[gold])
    return 1.0 / len(set(rivals)) if first == gold else 0.0


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks. (Joshi et al. 2017, TriviaQA)"""
    text = text.replace("_", " ").lower()
    # The four quotes and the acute accent are punctuation to TriviaQA's own script.
    punctuation = set(string.punctuation + "‘’´`")
    text = "".join(" " if letter in punctuation else letter for letter in text)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split()).strip()


def clean_generation(
    text: str, *, stop: Sequence[str] = (), cot_delimiter: str = "", normalise: bool = True
) -> str:
    """The answer in a generated text: before the first stop pattern, after the last delimiter."""
    if stop:
        text = re.split("|".join(stop), text)[0]
    if cot_delimiter:
        text = text.split(cot_delimiter)[-1]
    return normalise_answer(text) if normalise else text.strip()


def generation_is_right(cleaned: str, labels: Iterable[str]) -> bool:
    """Whether the answer starts with a label. A label that normalises to nothing always fits."""
    return any(cleaned.startswith(label) for label in labels)


def score_of(tally: Tally) -> float:
    """The mean over groups of sum(numerator) / sum(denominator), or the worst of them."""
    _, group = np.unique(tally.group, return_inverse=True)
    numerator = np.bincount(group, weights=tally.numerator)
    denominator = np.bincount(group, weights=tally.denominator)
    ratios = numerator / denominator
    return float(ratios.min() if tally.worst else np.mean(ratios))


def bootstrap(tally: Tally, *, seed: int, num_draws: int = NUM_DRAWS) -> np.ndarray:
    """The score on `num_draws` resamples of the items, (num_draws,) float64.

    Items are drawn with replacement within their group, as many as the group has. Two tasks over
    the same items with the same seed draw the same items, so that their errors stay correlated.
    """
    groups = np.unique(tally.group)
    total = np.full(num_draws, np.inf) if tally.worst else np.zeros(num_draws)
    for group in groups:
        members = np.flatnonzero(tally.group == group)
        numerator, denominator = tally.numerator[members], tally.denominator[members]
        ones = bool((denominator == 1).all())  # a score per item: their sum is known
        rng = np.random.default_rng([seed, int(group)])
        at_once = min(max(1, INDICES_AT_ONCE // len(members)), num_draws)
        drawn = np.empty((at_once, len(members)), np.intp)
        values = np.empty(drawn.shape)
        for start in range(0, num_draws, at_once):
            rows = min(at_once, num_draws - start)
            drawn[:rows] = rng.integers(0, len(members), (rows, len(members)), np.uint32)
            ratio = _sums(numerator, drawn[:rows], values[:rows])
            ratio /= len(members) if ones else _sums(denominator, drawn[:rows], values[:rows])
            part = total[start : start + len(ratio)]
            if tally.worst:
                np.minimum(part, ratio, out=part)
            else:
                part += ratio
    return total if tally.worst else total / len(groups)


def _sums(of_items: np.ndarray, drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum of each row of drawn items; `values`, an array of that shape, is written over."""
    if of_items.dtype != values.dtype:  # of another library's log: summed in its own precision
        return of_items[drawn].sum(axis=1).astype(np.float64)
    return of_items.take(drawn, out=values, mode="clip").sum(axis=1)


def standard_error(draws: np.ndarray) -> float:
    """The standard deviation of the resampled scores."""
    return float(draws.std(ddof=1))


def centered(accuracy: Any, baseline: float) -> Any:
    """An accuracy on the scale from guessing (0) to perfect (1). (Li et al. 2024, DCLM)"""
    return (accuracy - baseline) / (1 - baseline)
