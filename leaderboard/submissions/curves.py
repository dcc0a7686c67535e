"""Scores of checkpoints on the way, so that a submission's page shows a curve rather than a point.

`evaluate --checkpoint all` writes a folder of scores for each checkpoint of a model; `submit
--curve` puts their headlines into the bundle's manifest. They are the team's figures: logs of
checkpoints are not sent. What is checked: that each is of a checkpoint that the model's record has,
in the order of training, and a number. The last point is the row's own score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from leaderboard.benchmark import INTERMEDIATE
from leaderboard.submissions.bundle import MANIFEST, CurvePoint
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.errors import RuleError
from pipelines.records import ModelRecord, Record, ScoresRecord, digest, parse_record
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

CLOSE = 1e-3  # relative: the last checkpoint may be stored with fewer digits than the model
MAX_VALUE = 1e6  # no metric here has such scores; a page draws the curve

Curves = dict[str, tuple[CurvePoint, ...]]


def read_curves(folders: Iterable[str], chain: Iterable[Record], *, headline: str) -> Curves:
    """The curves by seed, from folders that `evaluate --checkpoint all` wrote.

    RuleError for a folder without scores of checkpoints, of another model, or by another suite.
    """
    links = list(chain)
    models = [link for link in links if isinstance(link, ModelRecord)]
    [suite, *_] = [link.work.suite for link in links if isinstance(link, ScoresRecord)]
    curves: Curves = {}
    for folder in folders:
        store = open_store(folder)
        records = {}
        for entry in store.list():
            name, _, file = entry.name.partition("/")
            if file == RECORD and name.startswith("step-"):
                where = f"{store.uri}/{entry.name}"
                records[name] = parse_record(store.read_bytes(entry.name), source=where)
        if not records:
            raise RuleError(
                f"{folder} has no scores of checkpoints; write them by `evaluate MODEL "
                "--checkpoint all --out FOLDER` and name that folder"
            )
        model = _model_of(models, records, folder)
        points = []
        for name, record in sorted(records.items()):
            if not isinstance(record, ScoresRecord) or record.work.suite != suite:
                raise RuleError(f"{folder}/{name} holds no scores of suite {suite}")
            score = record.results.aggregates[headline]
            points.append(CurvePoint(checkpoint=name, value=score.value, stderr=score.stderr))
        curves[str(model.work.seed)] = tuple(points)
    return curves


def _model_of(
    models: Sequence[ModelRecord], records: dict[str, Record], folder: str
) -> ModelRecord:
    for model in models:
        if all(
            record.parents.get("model") == digest([model.id, name])
            for name, record in records.items()
        ):
            return model
    raise RuleError(
        f"{folder} holds scores of checkpoints of other models than those that are submitted"
    )


def curves(case: Case) -> Iterator[Fault]:
    """Each curve is of a submitted seed, through checkpoints that its model's record has."""
    assert case.bundle is not None
    models = {str(model.work.seed): model for model in case.models}
    for seed, points in sorted(case.bundle.manifest.curves.items()):
        where = f"curves.{seed}"
        if seed not in models:
            yield fault(MANIFEST, where, Words("a seed without a model"), sorted(models))
            continue
        folder = f"{INTERMEDIATE}/"
        known = {
            output.name.removeprefix(folder).removesuffix(".safetensors")
            for output in models[seed].outputs
            if output.name.startswith(folder)
        }
        steps = models[seed].counts.get("steps", 0)
        for point in points:
            if point.step > steps or not abs(point.value) <= MAX_VALUE:
                problem = Words(f"step {point.step:,}, {point.value:g}")
                expected = Words(f"at most the model's {steps:,} steps, and a score")
                yield fault(MANIFEST, where, problem, expected)
            if point.checkpoint not in known:
                expected = Words("a checkpoint of the model's record")
                yield fault(MANIFEST, where, point.checkpoint, expected)
        own = models[seed].work.seed
        last = points[-1] if points else None
        if last is not None and last.step == steps and own in case.by_seed:
            score = case.by_seed[own].results.aggregates.get(case.suite.headline)
            if score is not None and not math.isclose(last.value, score.value, rel_tol=CLOSE):
                expected = Words(f"{score.value:g}, the seed's own score")
                yield fault(MANIFEST, where, Words(f"{last.value:g} at the last step"), expected)
        if any(b.step <= a.step for a, b in pairwise(points)):
            yield fault(MANIFEST, where, Words("steps in another order"), Words("each later once"))
