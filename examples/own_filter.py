"""A filter of your own through a whole round: curate, pack, train, evaluate, submit, board.

python examples/own_filter.py --workspace runs     (minutes at scale tiny, on two cores)
Run it again after a stop: every finished stage is skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from leaderboard.board.ranking import board
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.workspace import open_round
from leaderboard.submissions.submission import read_entries
from pipelines.execution.executors import ProcessMap

# The filter is a file next to the pipeline: its text travels to the workers and into the record,
# so changed code is another dataset.
FILTER = '''
import numpy as np
from pipelines.operators import Filter, because

class ManyDigits(Filter):
    """Reject documents full of digits: price lists and tables rather than prose."""
    max_digits: float = 10.0
    reasons = ("too_many_digits",)

    def reject(self, batch):
        rate = [1000 * sum(map(str.isdigit, t)) / max(len(t), 1) for t in batch.text.to_pylist()]
        return because(np.array(rate) > self.max_digits, "too_many_digits")
'''


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, default=Path("runs"))
    parser.add_argument("--benchmark", default="dclm")
    parser.add_argument("--scale", default="tiny")
    given = parser.parse_args(arguments)
    given.workspace.mkdir(parents=True, exist_ok=True)
    (given.workspace / "digits.py").write_text(FILTER)
    pipeline = given.workspace / "digits.yaml"
    pipeline.write_text("name: few_digits\nsteps:\n  - digits.py:ManyDigits: {max_digits: 5}\n")

    folder = str(given.workspace)
    current = open_round(given.benchmark, given.scale, workspace=folder, map_tasks=ProcessMap(2))
    curated = stages.curate(current, stages.find_pipeline(current, str(pipeline)))
    packed = stages.pack(current, curated)
    seeds = current.recipe.seeds[:1]  # more seeds, and the interval knows how they vary
    trained = training.train(current, [(curated, packed)], seeds=seeds, recipe=current.scale.recipe)
    stages.evaluate(current, trained)
    stages.submit(current, curated, seeds=seeds, track="filtering")
    for row in board(read_entries(given.workspace / "submissions")):
        print(row.rank, row.method, round(row.headline.value, 4))


if __name__ == "__main__":
    main()
