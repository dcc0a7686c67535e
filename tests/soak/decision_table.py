"""What a tiny scale can decide: 12 datasets, 3 seeds, 4 budgets, one table for docs/findings.md.

Three filters (the one that a baseline ranks by, size, and chance) at four strengths are trained
with three seeds at an eighth, a quarter, half and all of the scale's budget. The table says how
many pairs a smaller budget orders as the whole one does, which pairs cross, how far seeds move a
score at each budget, and whether the power that `plan` computes from the rule book's noise was
that of these runs. Everything stays in the workspace: run again to resume.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from evals.suite import load_suite  # noqa: E402
from leaderboard.board.components import Component, seed_and_order  # noqa: E402
from leaderboard.board.crossing import Point, crossing, spread  # noqa: E402
from leaderboard.board.intervals import CONFIDENCE, student_quantile  # noqa: E402
from leaderboard.board.power import error_of_gap, gap_for, power_of  # noqa: E402
from leaderboard.published.findings import OWN_RUNS  # noqa: E402
from leaderboard.rounds import round as stages  # noqa: E402
from leaderboard.rounds.experiments import experiment, scores_of, seeds_for  # noqa: E402
from leaderboard.rounds.launch import Launch  # noqa: E402
from leaderboard.rounds.workspace import open_round  # noqa: E402
from leaderboard.rules import Noise  # noqa: E402
from pipelines.execution.choose import executor  # noqa: E402
from pipelines.pipeline import Pipeline  # noqa: E402
from pipelines.records import JSON, now  # noqa: E402
from tests.soak.claim import CLAIMS  # noqa: E402

PAGE = ROOT / "docs" / "findings.md"
BUDGETS = (0.125, 0.25, 0.5, 1.0)
SEEDS = 3
STRENGTHS = (0.1, 0.25, 0.5, 0.75)  # the part that stays

Scores = Mapping[str, Sequence[Sequence[float]]]
"""By dataset: of each budget, the headline of each seed."""


def datasets_of(benchmark: str) -> dict[str, list[JSON]]:
    """The steps of every dataset's pipeline, by its name."""
    kinds: dict[str, tuple[list[JSON], dict[str, JSON]]]
    if benchmark == "dclm":
        count: JSON = {"token_count": {"tokenizer": "tiny-bpe.json"}}
        score: JSON = {"quality_score": {"model": "tiny-quality.bin"}}
        kinds = {
            "quality": ([score, count], {"by": "quality", "of": "num_tokens"}),
            "longest": ([count], {"by": "num_tokens", "of": "num_tokens"}),
            "random": ([count], {"of": "num_tokens", "seed": 124}),
        }
    else:
        scores: JSON = {"scores": {"of": "tiny_clip", "column": "tiny_clip"}}
        kinds = {
            "clip": ([scores], {"by": "tiny_clip", "missing": "drop"}),
            "largest": ([], {"by": "original_width", "missing": "drop"}),
            "random": ([], {"of": "rows", "column": "uid", "seed": 124}),
        }
    return {
        f"{kind}_{round(part * 100)}": [
            *before,
            {"select" if "by" in chosen else "hash_sample": {**chosen, "fraction": part}},
        ]
        for kind, (before, chosen) in kinds.items()
        for part in STRENGTHS
    }


# ---- what the scores say


@dataclass(frozen=True)
class Order:
    """Pairs of datasets at one budget beside the whole one."""

    pairs: int
    same: int  # ordered as at the whole budget, by their means
    clear: int  # pairs whose interval at the whole budget leaves out zero
    clear_same: int


def order_at(scores: Scores, budget: int, known: Noise | None) -> Order:
    """How many pairs one budget (by its index) orders as the last does."""
    apart = reach_of(scores, -1, known)
    pairs = same = clear = clear_same = 0
    for first, second in combinations(scores, 2):
        last = _mean(scores[second][-1]) - _mean(scores[first][-1])
        here = _mean(scores[second][budget]) - _mean(scores[first][budget])
        agrees = last * here > 0
        pairs += 1
        same += agrees
        clear += abs(last) > apart
        clear_same += agrees and abs(last) > apart
    return Order(pairs, same, clear, clear_same)


def reach_of(scores: Scores, budget: int, known: Noise | None) -> float:
    """Half the 95% interval of the difference of two datasets with all seeds."""
    points = [Point(budget=1, scores=tuple(of[budget])) for of in scores.values()]
    prior = None if known is None else (known.seed_sd**2, known.seed_freedom)
    variance, freedom = spread(points, prior)
    order = 0.0 if known is None else known.order_sd**2
    seeds = len(points[0].scores)
    return student_quantile(0.5 + CONFIDENCE / 2, freedom) * float(
        (2 * variance / seeds + 2 * order) ** 0.5
    )


def seed_noise(scores: Scores, budget: int) -> Component:
    """The standard deviation over seeds at a budget, pooled over datasets, with its interval."""
    rows = [[value - _mean(of[budget]) for value in of[budget]] for of in scores.values()]
    each = [seed_and_order([[value] for value in row])[0] for row in rows]
    variance = sum(part.sd**2 for part in each) / len(each)
    freedom = sum(part.freedom for part in each)
    from scipy.stats import chi2

    low, high = (
        (variance * freedom / float(chi2.ppf(q, freedom))) ** 0.5
        for q in (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2)
    )
    return Component(name="seed", sd=variance**0.5, low=low, high=high, freedom=freedom)


def power_seen(scores: Scores, known: Noise) -> tuple[float, float, int]:
    """Comparisons of one seed an arm at the whole budget: expected to see their gap, and seeing it.

    The gap of a pair is that of its means over all seeds, which holds noise itself.
    """
    error, _, limit = error_of_gap(1, known)
    expected, seen, number = 0.0, 0, 0
    for first, second in combinations(scores, 2):
        gap = abs(_mean(scores[second][-1]) - _mean(scores[first][-1]))
        for a, b in zip(scores[first][-1], scores[second][-1], strict=True):
            expected += power_of(gap, 1, known)
            seen += abs(b - a) > limit * error
            number += 1
    return expected / number, seen / number, number


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- the section of the page


def section(
    benchmark: str,
    scale: str,
    metric: str,
    higher: bool,
    scores: Scores,
    budgets: Sequence[float],
    known: Noise | None,
) -> str:
    """The tables as Markdown."""
    name = metric.replace("_", " ")
    lines = [
        f"### {benchmark} at {scale}",
        "",
        f"{now()[:10]}, `python tests/soak/decision_table.py --benchmark {benchmark}`: "
        f"{len(scores)} datasets, {SEEDS} seeds, {name} "
        f"({'higher' if higher else 'lower'} is better), means over seeds.",
        "",
        "| dataset | " + " | ".join(f"{part:g} of the budget" for part in budgets) + " |",
        "| --- |" + " --- |" * len(budgets),
    ]
    ranked = sorted(scores, key=lambda name: _mean(scores[name][-1]), reverse=higher)
    for dataset in ranked:
        means = " | ".join(f"{_mean(values):.4f}" for values in scores[dataset])
        lines.append(f"| {dataset} | {means} |")
    lines += [
        "",
        "| budget | pairs ordered as at the whole budget | of the pairs apart there | "
        "seed noise (sd, 95%) |",
        "| --- | --- | --- | --- |",
    ]
    for index, part in enumerate(budgets):
        order, noise = order_at(scores, index, known), seed_noise(scores, index)
        lines.append(
            f"| {part:g} | {order.same} of {order.pairs} ({order.same / order.pairs:.0%}) | "
            f"{order.clear_same} of {order.clear} | "
            f"{noise.sd:.4f} [{noise.low:.4f}, {noise.high:.4f}] |"
        )
    lines += ["", crossings_text(scores, budgets, higher, known)]
    if known is not None:
        expected, seen, number = power_seen(scores, known)
        measured = seed_noise(scores, -1)
        inside = measured.low <= known.seed_sd <= measured.high
        lines += [
            "",
            f"`plan` expects a gap of {gap_for(1, known):.3g} to be seen by one seed an arm (80%), "
            f"{gap_for(SEEDS, known):.3g} by {SEEDS}. Over the {number} comparisons of single "
            f"seeds it expects {expected:.0%} to see their gap; {seen:.0%} did. The rule book's "
            f"seed noise of {known.seed_sd:.4g} is {'inside' if inside else '**outside**'} the "
            f"interval measured here.",
        ]
    return "\n".join(lines) + "\n"


def crossings_text(
    scores: Scores, budgets: Sequence[float], higher: bool, known: Noise | None
) -> str:
    """How many pairs cross, and which."""
    prior = None if known is None else (known.seed_sd**2, known.seed_freedom)
    order = 0.0 if known is None else known.order_sd**2
    outcomes: dict[str, list[str]] = {}
    for first, second in combinations(scores, 2):
        curves = [
            [
                Point(budget=part, scores=tuple(values))
                for part, values in zip(budgets, scores[name], strict=True)
            ]
            for name in (first, second)
        ]
        verdict = crossing(
            *curves, names=(first, second), higher_is_better=higher, known=prior, order=order
        )
        outcomes.setdefault(verdict.outcome, []).append(f"{first} and {second}")
    crossed = outcomes.get("crossing", [])
    ahead = len(outcomes.get("first ahead", [])) + len(outcomes.get("second ahead", []))
    rest = sum(map(len, outcomes.values())) - len(crossed) - ahead
    return (
        f"Of the pairs {ahead} have one side ahead at every budget, {len(crossed)} cross"
        + (f" ({'; '.join(crossed)})" if crossed else "")
        + f", and {rest} cannot be distinguished over a part of the budgets."
    )


def write(benchmark: str, text: str) -> None:
    """Put the benchmark's section below the heading, at the end of the page."""
    page = PAGE.read_text(encoding="utf-8")
    body, _, own = page.partition(f"\n{OWN_RUNS}\n")
    parts = [part for part in own.split("\n### ") if part.strip()]
    kept = [f"### {part.strip()}\n" for part in parts if not part.startswith(f"{benchmark} ")]
    sections = "\n".join(sorted([*kept, text]))
    PAGE.write_text(f"{body.rstrip()}\n\n{OWN_RUNS}\n\n{sections}", encoding="utf-8")


# ---- the runs


def play(benchmark: str, workspace: str, workers: int) -> str:
    """Train and evaluate everything; the section for the page."""
    current = open_round(benchmark, "tiny", workspace=workspace, map_tasks=executor(workers))
    CLAIMS[benchmark].prepare(current)
    suite = load_suite(stages.suite_name(current))
    assets = current.stages.assets("tiny", workspace=workspace)
    pipelines = [
        Pipeline.from_steps(steps, name=name, assets=assets)
        for name, steps in datasets_of(benchmark).items()
    ]
    curated = [stages.curate(current, pipeline) for pipeline in pipelines]
    seeds = seeds_for(current.recipe, SEEDS)
    scores: dict[str, list[list[float]]] = {part.method: [] for part in curated}
    for budget in BUDGETS:
        recipe = current.recipe
        if budget != 1:
            recipe = current.stages.changed(recipe, budget=budget)
        records = scores_of(experiment(current, recipe, seeds), curated, seeds, Launch(how="here"))
        for part, of_part in zip(curated, records, strict=True):
            values = [record.results.aggregates[suite.headline].value for record in of_part]
            scores[part.method].append(values)
    known = current.scale.noise_of(suite.headline)
    return section(
        benchmark, "tiny", suite.headline, suite.higher_is_better, scores, BUDGETS, known
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", choices=sorted(CLAIMS), default="dclm")
    parser.add_argument("--workspace", default="build/soak")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    started = time.monotonic()
    text = play(arguments.benchmark, arguments.workspace, arguments.workers)
    write(arguments.benchmark, text)
    sys.stdout.write(f"{text}\n{time.monotonic() - started:.0f} s; written to {PAGE.name}\n")


if __name__ == "__main__":
    main()
