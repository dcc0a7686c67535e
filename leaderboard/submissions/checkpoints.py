"""A speedrun's checkpoints: each has its scores and logs in the bundle, judged as final ones are.

A speedrun is ranked by where the scores of checkpoints cross a target, so each of these scores is
computed again from the questions that the checkpoint was asked. In a bundle a checkpoint has

    checkpoints/<seed>/<step>/scores.json           its ScoresRecord, as `speedrun` wrote it
    checkpoints/<seed>/<step>/<task>/<part>.parquet its logs, as those of final scores

The record names its parent: the hash of the model's id and the checkpoint's name, which the model's
record lists with the hash of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leaderboard.submissions import lineage, record_form
from leaderboard.submissions.arithmetic import Recomputed
from leaderboard.submissions.bundle import (
    CHECKPOINTS,
    MANIFEST,
    RECORD,
    SCORES,
    checkpoint_folder,
)
from leaderboard.submissions.case import Case, CheckpointCase, scores_at
from leaderboard.submissions.curves import STEP, kept_on_the_way
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.novelty import ONE_MODEL, is_near
from pipelines.records import RecordError, digest

AGAIN = "make the bundle again with `speedrun --submit`; it adds the logs of all checkpoints"


def readable(case: Case) -> Iterator[Fault]:
    """The scores of each checkpoint can be read, and there are no more than the recipe has."""
    bundle, rule = case.bundle, case.scale.speedrun
    assert bundle is not None
    if not case.track.speedrun or rule is None:
        return  # then `form.files` refuses their files
    most = len(case.models) * (rule.checkpoints - 1)
    if len(bundle.checkpoints) > most:
        problem = Words(f"{len(bundle.checkpoints):,} checkpoints")
        yield fault(CHECKPOINTS, "", problem, Words(f"at most {most:,}, as the recipe has"), AGAIN)
        return
    for seed, checkpoint in bundle.checkpoints:
        try:
            scores_at(bundle, seed, checkpoint)
        except RecordError as error:
            name = f"{checkpoint_folder(seed, checkpoint)}/{SCORES}"
            text = Words(str(error).removeprefix(f"{name}: "))
            yield fault(name, "", text, Words("a record of scores that was not edited"), AGAIN)


def form(case: Case) -> Iterator[Fault]:
    """The scores of each checkpoint hold what scores hold, and are of its model."""
    models = {model.work.seed: model for model in case.models}
    for sub in case.checkpoints:
        scores, model = sub.by_seed[sub.seed], models.get(sub.seed)
        if model is None or sub.checkpoint not in kept_on_the_way(model):
            continue  # a file that no rule names
        parent = digest([model.id, sub.checkpoint])
        if dict(scores.parents) != {"model": parent}:
            problem = Words("scores of another model or checkpoint")
            expected = Words(f"those of {sub.label}, model {parent}")
            yield fault(sub.scores_file, "parents.model", problem, expected)
        for broken in record_form.scores_shape(sub, scores, model):
            yield broken.model_copy(update={"file": sub.scores_file})


def whole_race(case: Case) -> Iterator[Fault]:
    """On a speedrun track, each seed has scores and logs of every checkpoint of the recipe.

    With some left out, or kept elsewhere, the target would be read at another budget.
    """
    if case.bundle is None or case.scale.speedrun is None or not case.track.speedrun:
        return
    planned = list(case.package.checkpoint_steps(case.recipe))
    absent: list[str] = []
    there = {(sub.seed, sub.checkpoint) for sub in case.checkpoints}
    for model in case.models:
        seed, kept = model.work.seed, kept_on_the_way(model)
        steps = [int(label.removeprefix("step-")) for label in kept if STEP.fullmatch(label)]
        if steps != planned or len(kept) != len(planned):
            problem = Words(f"checkpoints at {', '.join(map(str, steps)) or 'no step'}")
            expected = Words(f"those of the recipe, at {', '.join(map(str, planned))}")
            yield fault(RECORD, f"model {model.id}: outputs", problem, expected)
            continue
        named = {point.checkpoint for point in case.bundle.manifest.curves.get(str(seed), ())}
        missing = [label for label in kept if (seed, label) in there and label not in named]
        if missing:
            problem = Words(f"no score of {missing[0]} and {len(missing) - 1} others")
            everything = Words(f"all {len(kept)} checkpoints")
            yield fault(MANIFEST, f"curves.{seed}", problem, everything)
        absent += [f"{label} of seed {seed}" for label in kept if (seed, label) not in there]
    if absent:
        problem = Words(f"no logs of {absent[0]} and {len(absent) - 1} others")
        expected = Words("the questions that every checkpoint was asked")
        yield fault(CHECKPOINTS, "", problem, expected, AGAIN)


def asked_alike(case: Case) -> Iterator[Fault]:
    """Each checkpoint was asked the speedrun's suite, on the data of the final scores."""
    for sub in case.checkpoints:
        scores = sub.by_seed[sub.seed]
        yield from (
            broken.model_copy(update={"file": sub.scores_file})
            for broken in lineage.asked(sub, scores)
        )
        known = {ref.name: lineage.data_of(ref) for ref in case.by_seed[sub.seed].work.tasks}
        for ref in scores.work.tasks:
            expected = known.setdefault(ref.name, lineage.data_of(ref))
            if lineage.data_of(ref) != expected:
                problem = lineage.data_of(ref)
                hint = "evaluate the checkpoints on the data of the final scores"
                yield fault(sub.scores_file, f"task {ref.name}", problem, expected, hint)


def repeated(case: Case, out: Recomputed) -> Iterator[Fault]:
    """No two checkpoints have one log, also not in other bytes or with a little noise.

    Final models count as checkpoints: their logs, too, may not be sent as those of another step.
    """
    first = {name: f"the final model of seed {min(seeds)}" for name, seeds in out.answers.items()}
    for sub in case.checkpoints:
        own = out.checkpoints[sub.seed, sub.checkpoint]
        for name in sorted(own.answers):
            other = first.setdefault(name, sub.label)
            if other != sub.label:
                yield _again(sub, f"the answers of {other} again")
                return
    losses: dict[str, Sequence[float]] = {
        f"the final model of seed {seed}": values for seed, values in out.losses.items()
    }
    for sub in case.checkpoints:
        own_losses = out.checkpoints[sub.seed, sub.checkpoint].losses
        for before, values in losses.items():
            if is_near(values, own_losses, ONE_MODEL):
                yield _again(sub, f"the losses of {before} plus a little noise")
                return
        losses[sub.label] = own_losses


def _again(sub: CheckpointCase, problem: str) -> Fault:
    return fault(sub.scores_file, "", Words(problem), Words("those of its own weights"))
