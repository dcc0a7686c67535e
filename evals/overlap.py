"""Which items of a suite occur in a dataset: documents for tasks of text, pairs for image tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from evals.decontamination import Match, text_overlap
from evals.images.overlap import image_overlap
from evals.overlap_report import TaskOverlap
from evals.reports import Run
from evals.suite import load_suite
from evals.tasks import OF_GENERATORS, EvalError, ImageTask
from pipelines.execution.executors import MapTasks, map_here
from pipelines.text.contamination import NGRAM


class SuiteOverlap(Protocol):
    """Which items of a suite occur in a dataset.

    `matches` are items with their passages, highest scores first.
    """

    matches: list[Match]

    def report(self, run: Run | None = None) -> list[TaskOverlap]:
        """The overlap of each task; with a run also its score over the items not found."""


def overlap_with(
    dataset: str,
    suite: str | Path,
    data: str | Path,
    *,
    ngram: int = NGRAM,
    map_tasks: MapTasks = map_here,
) -> SuiteOverlap:
    """Search a dataset for the items of a suite, its shards in parallel.

    `suite` is a name or a file, `data` the folder of its evaluation data. `dataset` has documents
    for a suite of texts, tars of images and captions for a suite of images. EvalError for a suite
    of both, or of generators.
    """
    tasks = load_suite(suite).load_tasks()
    of_images = [task for task in tasks if isinstance(task, ImageTask)]
    if len(of_images) == len(tasks):
        return image_overlap(dataset, of_images, str(data), ngram=ngram, map_tasks=map_tasks)
    generated = [task.name for task in tasks if isinstance(task, OF_GENERATORS)]
    if of_images or generated:
        names = ", ".join(generated or [task.name for task in of_images])
        raise EvalError(
            f"suite {suite}: {names}: the overlap is that of a suite of texts or of a suite of "
            "labelled images; name one"
        )
    return text_overlap(dataset, suite, data, ngram=ngram, map_tasks=map_tasks)
