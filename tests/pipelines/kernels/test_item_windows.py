"""The heaviest stretch of occurrences, against a search over all stretches."""

from __future__ import annotations

import random

import numpy as np

from pipelines.kernels import item_windows


def heaviest(words: list[int], local: list[int], weights: list[float], reach: int) -> float:
    best = 0.0
    for start in words:
        inside = [k for k, word in enumerate(words) if start <= word < start + reach]
        best = max(best, sum({local[k]: weights[k] for k in inside}.values()))
    return best


def test_the_stretch_is_the_heaviest_of_all() -> None:
    chance = random.Random(8)
    group, word, local, weight, expected = [], [], [], [], []
    reach = [4, 9, 1, 6, 30]
    for number, size in enumerate(reach):
        words = sorted(chance.sample(range(40), 12))
        places = [chance.randrange(5) for _ in words]
        weights = [0.5 + number for number in places]
        group += [number] * len(words)
        word, local, weight = word + words, local + places, weight + weights
        expected.append(heaviest(words, places, weights, size))
    best, first, last = item_windows.best_windows(
        *(np.array(values, np.int64) for values in (group, word, local)),
        np.array(weight),
        np.array(reach, np.int64),
    )
    assert np.allclose(best, expected)
    assert ((last - first >= 0) & (last - first < reach)).all()


def test_an_ngram_that_comes_twice_counts_once() -> None:
    zeros = np.zeros(3, np.int64)
    best, first, last = item_windows.best_windows(
        zeros, np.arange(3), zeros, np.ones(3), np.array([10])
    )
    assert best.tolist() == [1.0]
    assert (first.tolist(), last.tolist()) == ([0], [0])


def test_nothing_has_no_stretch() -> None:
    nothing = np.zeros(0, np.int64)
    best, _, _ = item_windows.best_windows(nothing, nothing, nothing, np.zeros(0), nothing)
    assert len(best) == 0
