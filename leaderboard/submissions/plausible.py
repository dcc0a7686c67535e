"""Point out figures that are far ahead of everything measured at their scale.

An entirely fabricated log can satisfy every rule, and so can an honest breakthrough. Nothing is
refused here: the reviewer sees which figures no other entry comes near, and reruns the checkpoint
before accepting (`leaderboard recheck ID --rerun`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from leaderboard.submissions.case import Case
from leaderboard.submissions.facts import Facts
from leaderboard.submissions.novelty import Notice
from pipelines.records import Score, ScoresRecord

FEWEST_DATASETS = 8
"""With fewer, the spread is poorly known, and the quantile below would be seven times it."""
CHANCE = 0.001
"""The probability that an honest entry is pointed out by chance, over all of its figures."""


def figures_of(seeds: Sequence[ScoresRecord]) -> dict[str, float]:
    """The values of `Facts.figures`: each task and aggregate, the mean over all seeds."""
    values: dict[str, list[float]] = {}
    for scores in seeds:
        for name, score in _figures(scores).items():
            values.setdefault(name, []).append(score.value)
    return {
        name: float(np.mean(of_seeds))
        for name, of_seeds in values.items()
        if len(of_seeds) == len(seeds)
    }


def far_ahead(case: Case, own: Facts) -> Iterator[Notice]:
    """Figures ahead of the best other dataset, and further from their mean than chance allows.

    The test is whether one more draw from the same normal distribution would be this far from the
    mean of the others (a prediction interval of Student's t; Grubbs 1969 tests the largest of a
    sample the same way), at a level shared by all figures. Each dataset counts once, no matter
    how many teams sent it.
    """
    [scores, *_] = case.by_seed.values()
    others = _one_of_each_dataset(case, own)
    shown = _figures(scores)
    for name, value in own.figures.items():
        rest = np.array([other.figures[name] for other in others if name in other.figures])
        sign = 1 if shown[name].higher_is_better else -1
        if len(rest) < FEWEST_DATASETS or sign * value <= (sign * rest).max():
            continue
        spread = np.hypot(rest.std(ddof=1) * np.sqrt(1 + 1 / len(rest)), shown[name].stderr or 0.0)
        limit = _quantile(1 - CHANCE / len(own.figures), len(rest) - 1)
        if abs(value - rest.mean()) > limit * spread:
            best = (sign * rest).max() * sign
            text = (
                f"{name}: {value:.4f}; the best of {len(rest)} other datasets has {best:.4f}, "
                f"their mean is {rest.mean():.4f}: rerun the checkpoint before accepting"
            )
            yield Notice(rule="plausible.figures", text=text)


def other_models(case: Case, own: Facts) -> Iterator[Notice]:
    """Models whose size differs from accepted entries: one recipe makes one model size."""
    others = {
        other.params: other.id
        for other in case.known.entries(case.book.name)
        if other.accepted and other.scale == own.scale and other.params is not None
    }
    if others and own.params not in others:
        shown = ", ".join(f"{params:,}" for params in sorted(others)[:3])
        size = "no number of" if own.params is None else f"{own.params:,}"
        text = f"the models have {size} parameters; those of accepted entries have {shown}"
        yield Notice(rule="plausible.params", text=text, ids=tuple(others.values())[:3])


def _figures(scores: ScoresRecord) -> Mapping[str, Score]:
    return {**{score.task: score for score in scores.results.tasks}, **scores.results.aggregates}


def _one_of_each_dataset(case: Case, own: Facts) -> list[Facts]:
    """Accepted entries of the same board, the newest of each dataset; never the same dataset."""
    board = (own.scale, own.track)
    newest = {
        other.dataset: other
        for other in case.known.entries(case.book.name)
        if other.accepted and (other.scale, other.track) == board and other.dataset != own.dataset
    }
    return list(newest.values())


def _quantile(probability: float, degrees: float) -> float:
    from scipy.special import (
        stdtrit,
    )  # takes a second to import: only once there are eight datasets

    return float(stdtrit(degrees, probability))
