"""How often a submission's sampler evaluates the model, from the logs of restored images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.tasks import RestorationTask, load_task
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.logs import columns_in, read_log

COLUMN = "evaluations"


def evaluations_of(bundle: Bundle, seeds: Sequence[int], tasks: Sequence[str]) -> float | None:
    """Evaluations of the model for one sample: the mean over tasks of restoration and seeds.

    None without such tasks, and for logs from before they were counted.
    """
    restored = [name for name in tasks if isinstance(load_task(name), RestorationTask)]
    means = []
    for seed in seeds:
        for name in restored:
            if COLUMN not in columns_in(bundle, seed, name):
                return None
            log = read_log(bundle, seed, name, columns=(COLUMN,))
            means.append(float(np.mean(log[COLUMN].to_numpy())))
    return round(float(np.mean(means)), 2) if means else None
