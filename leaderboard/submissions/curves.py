"""Scores of checkpoints on the way, so that a submission's page shows a curve rather than a point.

`evaluate --checkpoint all` writes a folder of scores for each checkpoint of a model; `submit
--curve` puts their headlines into the bundle's manifest. What is checked of every curve: that each
point is of a checkpoint that the model's record has, in the order of training, and a number. The
last point is the row's own score. Of a speedrun the bundle has the logs, too, and each point is
computed again from them (`checkpoints`); elsewhere the points are the team's figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from leaderboard.benchmark import INTERMEDIATE
from leaderboard.submissions.bundle import MANIFEST, CurvePoint
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.errors import RuleError
from pipelines.records import ModelRecord, Record, ScoresRecord, digest, parse_record
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD as RECORD_FILE
from pipelines.storage.open import open_store

CLOSE = 1e-3  # relative: the last checkpoint may be stored with fewer digits than the model
STEP = re.compile("step-[0-9]{1,12}")
MAX_VALUE = 1e6  # no metric here has such scores; a page draws the curve

Curves = dict[str, tuple[CurvePoint, ...]]


@dataclass(frozen=True)
class Measured:
    """The scores of one checkpoint, and the folder with its logs."""

    seed: int
    checkpoint: str
    scores: ScoresRecord
    store: Store


def read_checkpoints(
    folders: Iterable[str], chain: Iterable[Record], *, suite: str
) -> list[Measured]:
    """Every checkpoint of folders that `evaluate --checkpoint all` or `speedrun` wrote.

    RuleError for a folder without scores of checkpoints, of another model, or by another suite.
    """
    models = [link for link in chain if isinstance(link, ModelRecord)]
    measured: list[Measured] = []
    for folder in folders:
        store = open_store(folder)
        records = {}
        for entry in store.list():
            name, _, file = entry.name.partition("/")
            if file == RECORD_FILE and name.startswith("step-"):
                where = f"{store.uri}/{entry.name}"
                records[name] = parse_record(store.read_bytes(entry.name), source=where)
        if not records:
            raise RuleError(
                f"{folder} has no scores of checkpoints; write them by `evaluate MODEL "
                "--checkpoint all --out FOLDER` and name that folder"
            )
        model = _model_of(models, records, folder)
        for name, record in sorted(records.items()):
            if not isinstance(record, ScoresRecord) or record.work.suite != suite:
                raise RuleError(f"{folder}/{name} holds no scores of suite {suite}")
            inside = open_store(f"{folder.rstrip('/')}/{name}")
            measured.append(Measured(model.work.seed, name, record, inside))
    return measured


def curves_of(measured: Iterable[Measured], *, headline: str) -> Curves:
    """The headline of each checkpoint, by seed."""
    curves: Curves = {}
    for point in measured:
        score = point.scores.results.aggregates[headline]
        own = CurvePoint(checkpoint=point.checkpoint, value=score.value, stderr=score.stderr)
        seed = str(point.seed)
        curves[seed] = (*curves.get(seed, ()), own)
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


def kept_on_the_way(model: ModelRecord) -> list[str]:
    """The names of a model's checkpoints before its end, as its record lists their files."""
    folder = f"{INTERMEDIATE}/"
    names = [file.name for file in model.outputs if file.name.startswith(folder)]
    return sorted(name.removeprefix(folder).removesuffix(".safetensors") for name in names)


def curves(case: Case) -> Iterator[Fault]:
    """Each curve is of a submitted seed, through checkpoints that its model's record has."""
    assert case.bundle is not None
    models = {str(model.work.seed): model for model in case.models}
    for seed, points in sorted(case.bundle.manifest.curves.items()):
        where = f"curves.{seed}"
        if seed not in models:
            yield fault(MANIFEST, where, Words("a seed without a model"), sorted(models))
            continue
        known = kept_on_the_way(models[seed])
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
