"""Real null pairs at tiny: samples of one pool that differ in the seed of the draw alone.

Seven random samples, trained with one seed each, make 21 pairs in which nothing is better. The
board may call at most one of them ahead (5%).
"""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import pytest

from leaderboard.board.ranking import compare, measure
from leaderboard.board.spreads import seed_spread
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.workspace import open_round
from leaderboard.submissions.submission import Entry, read_entries
from pipelines.execution.executors import ProcessMap
from tests.soak.claim import CLAIMS

pytestmark = pytest.mark.soak

DRAWS = 7


def ahead(entries: list[Entry]) -> tuple[int, int]:
    """Of all pairs, how many differ by an interval that leaves out zero."""
    measured = [measure(entry) for entry in entries]
    metric = measured[0].row.headline.metric
    spread = seed_spread([entry.row for entry in measured], metric)
    false = 0
    pairs = list(combinations(measured, 2))
    for a, b in pairs:
        gap = compare(a.row, b.row, metric, a.draws[metric], b.draws[metric], spread)
        assert gap is not None
        false += not gap.holds_zero
    return false, len(pairs)


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp"])
def test_samples_of_one_pool_are_not_told_apart(benchmark: str, tmp_path: Path) -> None:
    current = open_round(benchmark, "tiny", workspace=str(tmp_path), map_tasks=ProcessMap(2))
    CLAIMS[benchmark].prepare(current)  # the sample is of the size of a pipeline with a model
    sampled = stages.find_pipeline(current, "random_same_size")
    drawn = [stages.curate(current, draw) for draw in stages.draws_of(sampled, DRAWS)]
    arms = [(curated, stages.pack(current, curated)) for curated in drawn]
    seeds = current.recipe.seeds[:1]
    trained = training.train(current, arms, seeds=seeds, recipe=current.scale.recipe)
    stages.evaluate(current, trained)
    for curated in drawn:
        stages.submit(current, curated, seeds=seeds, track="filtering")
    entries = read_entries(tmp_path / "submissions")
    false, pairs = ahead(entries)
    scores = sorted(measure(entry).row.headline.value for entry in entries)
    said = ", ".join(f"{score:.4f}" for score in scores)
    sys.stdout.write(f"\n{benchmark}: {false} of {pairs} null pairs called ahead; scores {said}\n")
    assert pairs == DRAWS * (DRAWS - 1) // 2
    assert false <= 0.05 * pairs
