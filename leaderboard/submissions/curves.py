"""Scores of checkpoints on the way, so that a submission's page shows a curve rather than a point.

`evaluate --checkpoint all` writes a folder of scores for each checkpoint of a model; `submit
--curve` puts their headlines into the bundle's manifest. They are the team's figures: logs of
checkpoints are not sent. What is checked: that each is of a checkpoint that the model's record has,
in the order of training, and a number. The last point is the row's own score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from leaderboard.benchmark import INTERMEDIATE
from leaderboard.rules import Benchmark
from leaderboard.submissions.bundle import MANIFEST, RECORD, CurvePoint
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.errors import RuleError
from pipelines.records import ModelRecord, Record, ScoresRecord, digest, parse_record
from pipelines.storage.chain import RECORD as RECORD_FILE
from pipelines.storage.open import open_store

CLOSE = 1e-3  # relative: the last checkpoint may be stored with fewer digits than the model
ROUNDED = 2  # steps by which benchmarks round the ends of a budget's parts
STEP = re.compile("step-[0-9]{1,12}")
MAX_VALUE = 1e6  # no metric here has such scores; a page draws the curve

Curves = dict[str, tuple[CurvePoint, ...]]


def read_curves(
    folders: Iterable[str], chain: Iterable[Record], *, headline: str, suite: str
) -> Curves:
    """The curves by seed, from folders that `evaluate --checkpoint all` or `speedrun` wrote.

    RuleError for a folder without scores of checkpoints, of another model, or by another suite.
    """
    models = [link for link in chain if isinstance(link, ModelRecord)]
    curves: Curves = {}
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


def suite_of_curves(book: Benchmark, scale: str, track: str) -> str:
    """The suite that checkpoints are measured by: the scale's, or its speedrun's."""
    rung = book.scale(scale)
    race = rung.speedrun if book.track(track).speedrun else None
    return rung.suite if race is None else race.suite


def kept_on_the_way(model: ModelRecord) -> list[str]:
    """The names of a model's checkpoints before its end, as its record lists their files."""
    folder = f"{INTERMEDIATE}/"
    names = [file.name for file in model.outputs if file.name.startswith(folder)]
    return sorted(name.removeprefix(folder).removesuffix(".safetensors") for name in names)


def whole_race(case: Case) -> Iterator[Fault]:
    """On a speedrun track, each seed has the score of every checkpoint, at the recipe's steps.

    With some left out, or more kept where the curve is steep, the target would be read elsewhere.
    """
    rule = case.scale.speedrun
    if case.bundle is None or rule is None or not case.track.speedrun:
        return
    for model in case.models:
        kept = kept_on_the_way(model)
        name = f"model {model.id}: outputs"
        steps = model.counts.get("steps", 0)
        expected = [round(steps * part / rule.checkpoints) for part in range(1, rule.checkpoints)]
        there = [int(label.removeprefix("step-")) for label in kept if STEP.fullmatch(label)]
        if len(there) != len(expected) or any(
            abs(a - b) > ROUNDED for a, b in zip(there, expected, strict=True)
        ):
            problem = Words(f"checkpoints at {', '.join(map(str, there)) or 'no step'}")
            at = Words(f"{len(expected)}, one at every {steps / rule.checkpoints:.4g} steps")
            yield fault(RECORD, name, problem, at)
        points = case.bundle.manifest.curves.get(str(model.work.seed), ())
        missing = sorted(set(kept) - {point.checkpoint for point in points})
        if missing:
            problem = Words(f"no score of {missing[0]} and {len(missing) - 1} others")
            everything = Words(f"all {len(kept)} checkpoints")
            yield fault(MANIFEST, f"curves.{model.work.seed}", problem, everything)


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
