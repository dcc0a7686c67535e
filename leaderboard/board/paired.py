"""Two rows question by question: wins, losses, ties, a sign test, an interval, what could be seen.

Both models were asked the same questions, so each question is its own control. Questions that hang
together (several seeds' answers to one, questions on one text) are a cluster and count together
(Miller 2024, "Adding error bars to evals", equations 1 to 4):

    SE_CLT^2       = sum (d_i - d)^2 / (n - 1) / n
    SE_clustered^2 = SE_CLT^2 + sum over clusters of sum_{i != j} (d_i - d)(d_j - d) / n^2

The interval is Student's t over clusters. A tie is a tie: the sign test leaves it out. The smallest
difference that such questions show with 80% power is 2.80 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evals.kinds import kind_of
from evals.tasks import Task, load_task
from leaderboard.board.intervals import CONFIDENCE, student_quantile
from leaderboard.board.power import POWER, gap_for, noise_of
from leaderboard.board.ranking import compare, group_of
from leaderboard.board.spreads import seed_spread
from leaderboard.rules import load_benchmark
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.logs import read_log
from leaderboard.submissions.results import Difference
from leaderboard.submissions.validate import check_bundle
from pipelines.console import table
from pipelines.errors import RuleError
from pipelines.records import Frozen

GROUP = ("benchmark", "scale", "track", "pool", "suite", "suite version", "evaluation data")
"""What `group_of` holds."""

Values = npt.NDArray[np.float64]


class Paired(Frozen):
    """Second minus first; positive means that the second is better."""

    num_questions: int
    num_clusters: int
    wins: int = Field(description="questions that the second answers better")
    losses: int
    ties: int
    difference: float
    stderr: float
    low: float
    high: float
    sign_p: float = Field(description="two-sided, of wins against losses")
    detectable: float = Field(description="smallest difference seen with 80% power")


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact probability of a split at least as uneven. (Dixon and Mood 1946)"""
    number, few = wins + losses, min(wins, losses)
    if number == 0:
        return 1.0
    up = np.arange(1, few + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((number + 1 - up) / up))])  # of binomials
    half = float(np.exp(logs - number * math.log(2)).sum())
    return min(1.0, 2 * half)


def plain_error(values: Values) -> float:
    """SE_CLT: the standard error of a mean of independent values."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def clustered_error(values: Values, clusters: npt.NDArray[np.int64]) -> float:
    """SE_clustered: that of a mean of values of which those of one cluster hang together."""
    apart = values - values.mean()
    sums = np.bincount(clusters, weights=apart)
    squares = np.bincount(clusters, weights=apart**2)
    between = float((sums**2 - squares).sum()) / len(values) ** 2
    return math.sqrt(max(0.0, plain_error(values) ** 2 + between))


def compare_values(
    first: Values, second: Values, *, clusters: Sequence[int] | None = None
) -> Paired:
    """Two lists of values of the same questions, higher is better."""
    apart = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    known = np.arange(len(apart)) if clusters is None else np.asarray(clusters)
    _, numbers = np.unique(known, return_inverse=True)
    error = clustered_error(apart, numbers)
    groups = int(numbers.max()) + 1
    wins, losses = _signs(apart, numbers)
    value = float(apart.mean())
    reach = student_quantile(0.5 + CONFIDENCE / 2, max(1, groups - 1)) * error
    normal = student_quantile(0.975, 1e9) + student_quantile(POWER, 1e9)
    return Paired(
        num_questions=len(apart),
        num_clusters=groups,
        wins=wins,
        losses=losses,
        ties=groups - wins - losses,
        difference=value,
        stderr=error,
        low=value - reach,
        high=value + reach,
        sign_p=sign_test(wins, losses),
        detectable=normal * error,
    )


def _signs(apart: Values, clusters: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Clusters that are won and lost: a cluster is one vote."""
    means = np.bincount(clusters, weights=apart)
    return int((means > 1e-12).sum()), int((means < -1e-12).sum())


def compare_task(task: Task, first: Bundle, second: Bundle) -> Paired | None:
    """Two submissions on one task, a question with its seeds a cluster; None: no such sum.

    A task whose score is no sum over questions (the worst of groups) is left to the resamples.
    RuleError is the check's business: both logs are taken to be of the same data.
    """
    sides = [contributions(task, bundle) for bundle in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    rows = sorted(set(sides[0]) & set(sides[1]))
    if len(rows) < 2:
        return None
    a, b = (np.array([side[row] for row in rows]) for side in (sides[0], sides[1]))
    return compare_values(a * len(rows), b * len(rows))


class Comparison(Frozen):
    """Two submissions beside each other; differences are second minus first, better is positive."""

    first: str
    second: str
    metric: str
    values: tuple[float, float]
    headline: Difference | None = Field(description="with the noise of runs; None: not known")
    seeds: tuple[int, int]
    detectable: float | None = Field(description="gap that the fewer seeds see with 80% power")
    tasks: dict[str, Paired]
    not_paired: tuple[str, ...] = Field((), description="tasks whose score is no sum")


def compare_bundles(first: Bundle, second: Bundle) -> Comparison:
    """The headline with the noise of runs, and every task question by question.

    RuleError when the two are not of one scale, suite and data.
    """
    sides = []
    for bundle in (first, second):
        checked = check_bundle(bundle)
        if checked.measured is None:
            raise RuleError(f"{bundle.where} breaks a rule: {checked.faults[0]}")
        sides.append(checked.measured)
    a, b = sides
    for what, left, right in zip(GROUP, group_of(a.row), group_of(b.row), strict=True):
        if left != right:
            raise RuleError(f"these rows cannot be compared: {what} is {left!r} and {right!r}")
    metric = a.row.headline.metric
    spread = seed_spread([a.row, b.row], metric)
    gap = compare(a.row, b.row, metric, a.draws[metric], b.draws[metric], spread)
    known = noise_of(load_benchmark(a.row.benchmark).scale(a.row.scale), metric)
    tasks, rest = {}, []
    for name in [task.task for task in a.row.tasks]:
        paired = compare_task(load_task(name), first, second)
        if paired is None:
            rest.append(name)
        else:
            tasks[name] = paired
    fewer = min(len(a.row.seeds), len(b.row.seeds))
    return Comparison(
        first=a.row.method,
        second=b.row.method,
        metric=metric,
        values=(a.row.headline.value, b.row.headline.value),
        headline=None
        if gap is None
        else Difference(value=-gap.value, low=-gap.high, high=-gap.low),
        seeds=(len(a.row.seeds), len(b.row.seeds)),
        detectable=None if known is None else gap_for(fewer, known[0]),
        tasks=tasks,
        not_paired=tuple(rest),
    )


def comparison_text(comparison: Comparison) -> str:
    """The comparison for a terminal: what is shown, and what could have been."""
    words = comparison.metric.replace("_", " ")
    first, second = comparison.values
    lines = [f"{words}: {comparison.first} {first:.4f}, {comparison.second} {second:.4f}"]
    gap = comparison.headline
    if gap is None:
        lines.append("an error is not known, so nothing is known of the difference")
    else:
        apart = "cannot be distinguished" if gap.holds_zero else "are apart"
        better, value, low, high = comparison.second, gap.value, gap.low, gap.high
        if value < 0:
            better, value, low, high = comparison.first, -value, -high, -low
        lines.append(f"{better} is better by {value:+.4f} [{low:+.4f}, {high:+.4f}]: they {apart}")
    if comparison.detectable is not None:
        number = min(comparison.seeds)
        arm = "1 seed an arm sees" if number == 1 else f"{number} seeds an arm see"
        lines.append(f"{arm} a gap of {comparison.detectable:.4g} with 80%")
    rows = [
        (
            name,
            entry.wins,
            entry.losses,
            entry.ties,
            f"{entry.difference:+.4f}",
            f"[{entry.low:+.4f}, {entry.high:+.4f}]",
            f"{entry.sign_p:.3f}",
            f"{entry.detectable:.4f}",
        )
        for name, entry in comparison.tasks.items()
    ]
    header = ("task", "wins", "losses", "ties", "better by", "95%", "sign test", "could see")
    text = "\n".join(lines) + "\n\n" + table(rows, header=header)
    text += (
        "\n\nOf the tasks, the questions alone vary: another training run is not in the interval."
    )
    if comparison.not_paired:
        text += f"\nNo sum over questions: {', '.join(comparison.not_paired)}"
    return text


def contributions(task: Task, bundle: Bundle) -> dict[int, float] | None:
    """What each question adds to the score, higher is better, the mean over seeds."""
    total: dict[int, list[float]] = {}
    for seed in seeds_of(bundle.record):
        log = read_log(bundle, seed, task.name)
        tally = kind_of(task).tally(task, log)
        if tally.worst or len(tally.numerator) != len(log):
            return None
        _, group = np.unique(tally.group, return_inverse=True)
        whole = np.bincount(group, weights=tally.denominator)
        sign = 1.0 if task.higher_is_better else -1.0
        parts = sign * tally.numerator / whole[group] / len(whole)
        for row, part in zip(log["row"].to_pylist(), parts.tolist(), strict=True):
            total.setdefault(row, []).append(part)
    return {row: sum(parts) / len(parts) for row, parts in total.items()}
