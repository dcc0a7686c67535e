"""Novelty: an entry that copies another is refused; near copies are shown to the reviewer.

Refused: the same logs, weights, packed data or list of documents as an entry of another team; the
same submission by the same team under another name. Shown to the reviewer, with the pair: datasets
that share most of their uids or documents (sketches of smallest hashes; Broder 1997, Cohen 1997) or
of their files, and models whose losses agree more closely, or vary together more, than those of two
seeds of one dataset do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

import numpy as np
from pydantic import Field

from evals.tasks import load_task
from leaderboard.submissions.answers import FEWEST_CHOICES
from leaderboard.submissions.arithmetic import Recomputed
from leaderboard.submissions.bundle import RECORD, Bundle
from leaderboard.submissions.case import Case
from leaderboard.submissions.facts import Facts
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import Frozen, ScoresRecord, digest

NEAR = 0.95  # Jaccard index of two datasets' uids
NEAR_TEXTS = 0.8  # Jaccard index of documents; changing one word in a hundred leaves 0.9
CLOSE = 0.5
"""Fraction of the usual distance between two seeds of one dataset below which another entry's
answers are shown: pairs of seeds scatter around the usual distance, other datasets are further."""
ONE_MODEL = 1e-3
"""Distance of losses below which two runs are the same. At the tiny scales two seeds were 0.11
apart or more (documents) and 1.06 (pairs)."""
SEED_DISTANCE = 0.02  # distance of losses between seeds, assumed until the board has some
MARKS_DISTANCE = 0.5
"""The same for choices, ranks and errors: two seeds whose answers agree in seven of eight
questions, half of them right, are 0.5 apart; half of that is one answer of 60."""
FEWEST = 30  # losses: a correlation of fewer says little

BySeed = Mapping[str, Sequence[float]]


class Notice(Frozen):
    """Something that breaks no rule but that a reviewer should know."""

    rule: str
    text: str
    ids: tuple[str, ...] = Field((), description="the other entries")
    informs: bool = Field(False, description="for information; needs no decision")


def pipeline_key(steps: object) -> str:
    """The hash of a pipeline's steps, independent of its name."""
    return digest(["pipeline", steps])


def facts_of(
    case: Case,
    out: Recomputed,
    figures: dict[str, float],
) -> Facts:
    """What the board stores of an entry, to compare later ones with it."""
    bundle = case.bundle
    work = case.record.work
    return Facts(
        id=case.record.id,
        team=work.team,
        method=work.method,
        benchmark=work.benchmark,
        scale=work.scale,
        track=work.track,
        pool=case.pool.id,
        dataset=case.dataset.id,
        pipeline=pipeline_key(case.dataset.work.pipeline.get("steps")),
        data=_hashes(case.dataset.outputs),
        packed=_hashes(case.packed.outputs),
        weights=_hashes(file for model in case.models for file in _large(model.outputs)),
        logs=tuple(sorted({h for scores in _all_scores(case) for h in _answers(scores)})),
        answers=tuple(sorted({*out.answers}.union(*(c.answers for c in out.checkpoints.values())))),
        seeds=tuple(case.by_seed),
        sketch=_sketch(bundle),
        losses={seed: tuple(values) for seed, values in out.losses.items()},
        marks={seed: tuple(values) for seed, values in out.marks.items()},
        tasks=dict(out.facts),
        figures=figures,
        params=case.models[0].counts.get("params"),
    )


def _all_scores(case: Case) -> Iterator[ScoresRecord]:
    """The scores of the final models and of the checkpoints that a speedrun is ranked by."""
    yield from case.by_seed.values()
    for sub in case.checkpoints:
        yield from sub.by_seed.values()


def _sketch(bundle: Bundle | None) -> tuple[int, ...]:
    """The sketch of the dataset's uids or documents; empty when it has none."""
    if bundle is None:
        return ()
    known = bundle.manifest.uids or bundle.manifest.documents
    return known.sketch if known is not None else ()


def _hashes(files: Iterable[object]) -> tuple[str, ...]:
    return tuple(sorted({file.sha256 for file in files}))  # type: ignore[attr-defined]


def _large(files: Sequence[object]) -> list[object]:
    """The weights of a model: its largest file; logs and configurations may well be equal."""
    return sorted(files, key=lambda file: file.num_bytes)[-1:]  # type: ignore[attr-defined]


def copies(
    case: Case, own: Facts, answers: Mapping[str, Collection[int]] = MappingProxyType({})
) -> Iterator[Fault]:
    """Faults for content that was submitted before, and for seeds that repeat another seed.

    `answers` maps a hash of answers to the seeds whose logs have these answers.
    """
    equal = list(_equal_seeds(case))
    yield from equal or _one_seed_again(case, own, answers)
    fixed = {track.name for track in case.book.tracks if track.pipeline}
    for other in case.known.entries(case.book.name):
        if other.id == own.id or (own.track != other.track and {own.track, other.track} & fixed):
            continue
        if other.team == own.team and (other.withdrawn or _raced(case, own, other)):
            continue
        what = _copied(own, other, one_model=own.track in fixed)
        if what is None:
            continue
        if other.team != own.team:
            problem = Words(f"{what} of submission {other.id}, which {other.team!r} sent")
            yield fault(RECORD, "chain", problem, Words("an entry of one's own"))
        elif own.dataset != other.dataset or set(own.seeds) <= set(other.seeds):
            problem = Words(f"{what} of your submission {other.id} ({other.method!r})")
            yield fault(RECORD, "chain", problem, Words("something new"), "withdraw one of the two")


def _raced(case: Case, own: Facts, other: Facts) -> bool:
    """Whether one of two entries is the speedrun of the other's dataset: it has the same models."""
    races = {track.name for track in case.book.tracks if track.speedrun}
    return own.dataset == other.dataset and (own.track in races) != (other.track in races)


def _equal_seeds(case: Case) -> Iterator[Fault]:
    """Faults for two seeds with equal weights, or with bitwise equal losses."""
    weights: dict[str, int] = {}
    for model in case.models:
        for sha256 in _hashes(_large(model.outputs)):
            other = weights.setdefault(sha256, model.work.seed)
            if other != model.work.seed:
                problem = Words(f"the trained model of seed {other} again")
                yield fault(RECORD, f"model {model.id}", problem, Words("one of its own"))
    logs: dict[tuple[str, ...], int] = {}
    for seed, scores in case.by_seed.items():
        other = logs.setdefault(_answers(scores), seed)
        if other != seed:
            problem = Words(f"the answers of seed {other} again")
            yield fault(RECORD, f"scores {scores.id}", problem, Words("those of its own model"))


def _one_seed_again(
    case: Case, own: Facts, answers: Mapping[str, Collection[int]]
) -> Iterator[Fault]:
    """A fault if one seed's answers, re-encoded or with a little noise, are sent as another's."""
    for seeds in answers.values():
        first, *others = sorted(seeds)
        if others:
            problem = Words(f"the answers of seed {first} again")
            expected = Words("those of its own model")
            yield fault(RECORD, f"scores {case.by_seed[others[0]].id}", problem, expected)
            return
    for (before, x), (other, y) in combinations(own.losses.items(), 2):
        if is_near(x, y, ONE_MODEL):
            problem = Words(f"the losses of seed {before} plus a little noise")
            expected = Words("those of its own model")
            yield fault(RECORD, f"scores {case.by_seed[int(other)].id}", problem, expected)
            return


def _answers(scores: ScoresRecord) -> tuple[str, ...]:
    """Hashes of the logs that contain losses or similarities.

    Logs of generated texts and single words are left out: two small models that answer nothing
    right may well agree on them.
    """
    return _hashes(
        file
        for ref in scores.work.tasks
        if load_task(ref.name).kind not in ("generation", "language_modeling")
        for file in scores.outputs
        if file.name.startswith(f"logs/{ref.name}/")
    )


def _copied(own: Facts, other: Facts, *, one_model: bool = False) -> str | None:
    """What an entry has in common with another; None when nothing.

    `one_model`: all entries of the track have the same data and models.
    """
    if set(own.logs) & set(other.logs) or set(own.answers) & set(other.answers):
        return "the answers"
    if one_model:
        return None
    if set(own.weights) & set(other.weights):
        return "the trained model"
    if own.team == other.team:
        again = own.dataset != other.dataset and own.packed and own.packed == other.packed
        return "the packed data" if again else None
    baseline = own.pipeline == other.pipeline
    if not baseline and _is_one_model(own, other):
        return "the answers, plus a little noise,"
    if not baseline and own.packed and own.packed == other.packed:
        return "the packed data"
    if not baseline and own.data and own.data == other.data:
        return "the dataset"
    return None


def _is_one_model(own: Facts, other: Facts) -> bool:
    """Whether losses, or many other marks, agree more closely than two training runs ever do."""
    losses = loss_distance(own, other)
    if losses is not None and losses < ONE_MODEL:
        return True
    if not _asked_alike(own, other):
        return False
    marks = _least_distance(own.marks, other.marks, fewest=FEWEST_CHOICES)
    return marks is not None and marks < ONE_MODEL


def _asked_alike(a: Facts, b: Facts) -> bool:
    """Whether both answered the same questions, as two scales of one suite do."""
    data_a = {name: task.data for name, task in a.tasks.items()}
    return a.scale == b.scale or (
        bool(data_a) and data_a == {name: task.data for name, task in b.tasks.items()}
    )


def similar(case: Case, own: Facts) -> Iterator[Notice]:
    """Notices of near copies, for the reviewer."""
    if case.track.pipeline:  # the data and the models are those of every entry
        return
    entries = [entry for entry in case.known.entries(case.book.name) if entry.id != own.id]
    accepted = [entry for entry in entries if entry.accepted]
    usual = seed_distance([entry.losses for entry in accepted], SEED_DISTANCE)
    usual_marks = seed_distance([entry.marks for entry in accepted], MARKS_DISTANCE)
    yield from _near_seeds(own, usual)
    near = NEAR_TEXTS if case.book.modality == "text" else NEAR
    for other in entries:
        yield from _trained_again(own, other)
        if other.withdrawn and other.team == own.team:
            continue
        same = other.pipeline == own.pipeline and other.pool == own.pool
        if same and other.team != own.team:
            text = f"the same pipeline and pool as {other.method!r} of {other.team!r}"
            yield Notice(rule="novelty.pipeline", text=text, ids=(other.id,))
        if same and other.dataset == own.dataset:
            continue  # one dataset, with further seeds or by two teams
        shared = None if same else overlap(own, other)
        if shared is not None and shared >= near:
            text = f"{shared:.0%} of the dataset is that of {other.method!r} of {other.team!r}"
            yield Notice(rule="novelty.dataset", text=text, ids=(other.id,))
        if not _asked_alike(own, other):
            continue
        for what, apart, between_seeds in (
            ("losses", _least_distance(own.losses, other.losses), usual),
            ("answers", _least_distance(own.marks, other.marks), usual_marks),
        ):
            if apart is not None and apart < CLOSE * between_seeds:
                text = (
                    f"{what} correlate with those of {other.method!r} of {other.team!r} by "
                    f"{1 - apart**2 / 2:.5f}; two seeds of one dataset do by "
                    f"{1 - between_seeds**2 / 2:.5f}"
                )
                yield Notice(rule=f"novelty.{what}", text=text, ids=(other.id,))


def _trained_again(own: Facts, other: Facts) -> Iterator[Notice]:
    """A notice of seeds that the team sent before with other answers: it may have picked a run.

    Another machine gives other answers, too; so a person looks at both entries.
    """
    one_data = own.dataset == other.dataset or (own.packed and own.packed == other.packed)
    one_board = (own.scale, own.track) == (other.scale, other.track)
    if own.team != other.team or not one_board or not one_data:
        return
    again = [
        seed
        for seed in sorted(set(own.seeds) & set(other.seeds))
        if _said_by(own, seed) != _said_by(other, seed) and set(own.tasks) == set(other.tasks)
    ]
    if again:
        state = "was withdrawn" if other.withdrawn else "is here"
        shown = ", ".join(map(str, again))
        text = (
            f"seeds {shown} of this data were sent before with other answers; that entry {state}: "
            "were they trained until the score was good?"
        )
        yield Notice(rule="novelty.seeds", text=text, ids=(other.id,))


def _said_by(entry: Facts, seed: int) -> tuple[Sequence[float], Sequence[float]]:
    return entry.losses.get(str(seed), ()), entry.marks.get(str(seed), ())


def _near_seeds(own: Facts, usual: float) -> Iterator[Notice]:
    """Seeds whose losses agree more closely than those of other entries' seeds."""
    for (first, x), (other, y) in combinations(own.losses.items(), 2):
        if len(x) == len(y) >= FEWEST and (apart := _distance(x, y)) < CLOSE * usual:
            text = (
                f"losses of seeds {first} and {other} correlate by {1 - apart**2 / 2:.6f}; two "
                f"seeds of one dataset do by {1 - usual**2 / 2:.5f}"
            )
            yield Notice(rule="novelty.seeds", text=text)


def overlap(a: Facts, b: Facts) -> float | None:
    """Jaccard index of two datasets: by sketches, else by files; None when not comparable."""
    if a.sketch and b.sketch:
        size = min(len(a.sketch), len(b.sketch))
        union = sorted(set(a.sketch) | set(b.sketch))[:size]
        return len(set(union) & set(a.sketch) & set(b.sketch)) / len(union)
    if a.sketch or b.sketch or len(a.data) < 2 or len(b.data) < 2:
        return None
    return len(set(a.data) & set(b.data)) / len(set(a.data) | set(b.data))


def loss_distance(a: Facts, b: Facts) -> float | None:
    """The least distance between loss vectors of the two; None when not comparable."""
    return _least_distance(a.losses, b.losses) if _asked_alike(a, b) else None


def _least_distance(a: BySeed, b: BySeed, *, fewest: int = FEWEST) -> float | None:
    pairs = [_distance(x, y) for x in a.values() for y in b.values() if len(x) == len(y) >= fewest]
    return min(pairs, default=None)


def seed_distance(entries: Iterable[BySeed], otherwise: float) -> float:
    """The usual distance between two seeds of one dataset on this board: the median.

    The least would be set by anyone who sends one seed as two. `otherwise` is the result without
    any pair.
    """
    distances = [
        _distance(x, y)
        for entry in entries
        for x, y in combinations(entry.values(), 2)
        if len(x) == len(y) >= FEWEST
    ]
    return float(np.median(distances)) if distances else otherwise


def is_near(x: Sequence[float], y: Sequence[float], distance: float) -> bool:
    """Whether two samples of losses on the same questions are nearer than a distance."""
    return len(x) == len(y) >= FEWEST and _distance(x, y) < distance


def _distance(x: Sequence[float], y: Sequence[float]) -> float:
    """Root mean square difference of the standardised losses: sqrt(2 (1 - r)), r Pearson's.

    Adding a constant to every loss, or scaling them, changes nothing. If all losses are equal
    there is nothing to correlate: the distance is that of independent ones, sqrt(2).
    """
    a, b = np.asarray(x), np.asarray(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    if size == 0:
        return float(np.sqrt(2))
    return float(np.sqrt(max(0.0, 2 - 2 * float(a @ b) / size)))
