"""Check a submission again, before or after it is accepted; a maintainer runs this.

Always: the bundle's hash, every rule, every score from the questions. With a pool: the whole list
of uids, compared with the pool's. With a rerun: the checkpoints are evaluated again, and the scores
must agree within `AGREE` standard errors; of a speedrun's checkpoints on the way each answer must.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from typing import Literal

import numpy as np

from evals.run import run as run_suite
from leaderboard import rules
from leaderboard.benchmark import load_stages
from leaderboard.database.states import StoredSubmission
from leaderboard.service.repeat_answers import OF_A_CHECKPOINT, checkpoints_again, final_weights
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import MANIFEST, UIDS, Bundle
from leaderboard.submissions.case import Case
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.results import Row
from leaderboard.submissions.uids import AT_ONCE, Uids, describe, npy_sha256, open_uids
from leaderboard.submissions.validate import check_bundle, official_suite, read_parquet
from pipelines.errors import RuleError
from pipelines.records import Frozen

AGREE = 3.0  # standard errors of the difference: 0.3% of honest reruns are outside


class Rechecked(Frozen):
    """What was checked, in sentences, and what was wrong."""

    id: str
    level: Literal["none", "sampled", "full"]
    lines: tuple[str, ...]
    faults: tuple[Fault, ...]


def recheck(
    service: Service,
    id: str,
    *,
    pool: str | None = None,
    uids: str | None = None,
    rerun: bool = False,
    models: Sequence[str] = (),
    data: str | None = None,
    run_code: bool = False,
    who: str = "maintainer",
) -> Rechecked:
    """Check a submission again and record the level reached; any fault records level `none`.

    RuleError when a requested check lacks its input: the location of uids, models or data.
    """
    submission = service.store.get(id)
    if not submission.bundle:
        raise RuleError(f"submission {id} is {submission.kind}: there is no bundle to check")
    lines: list[str] = []
    faults = list(_bytes(service, submission, lines))
    level: Literal["none", "sampled", "full"] = "none"
    if not faults:
        bundle = service.bundle(submission)
        checked = check_bundle(bundle)
        faults += checked.faults
        if checked.measured is not None:
            stored = service.store.rows([id])
            again = checked.measured.row
            if any(_differ(row, again) for row in stored):
                other = Words("other figures on the board")
                faults.append(fault(id, "figures", other, Words("those computed again")))
            lines.append("every score computed again from the questions")
            level = "sampled"
    if not faults and pool is not None:
        faults += _whole_list(service, submission, pool, uids, lines)
        level = "none" if faults else "full"
    if not faults and rerun:
        faults += _rerun(service, submission, models, data, lines, run_code=run_code)
        level = "none" if faults else "full"
    why = "; ".join(map(str, faults)) if faults else "; ".join(lines)
    service.store.rechecked(id, "none" if faults else level, who=who, why=why)
    return Rechecked(
        id=id, level="none" if faults else level, lines=tuple(lines), faults=tuple(faults)
    )


def _differ(stored: Row, again: Row) -> bool:
    return any(
        stored.figures[name].values != figure.values for name, figure in again.figures.items()
    )


def _bytes(service: Service, submission: StoredSubmission, lines: list[str]) -> list[Fault]:
    with open(service.local(submission), "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != submission.bundle_sha256:
        return [fault(submission.bundle, "sha256", sha256, submission.bundle_sha256)]
    lines.append(f"the bundle is the one that was sent ({sha256[:16]})")
    return []


# ---- uids


def _whole_list(
    service: Service, submission: StoredSubmission, pool: str, uids: str | None, lines: list[str]
) -> list[Fault]:
    bundle = service.bundle(submission)
    claimed = bundle.manifest.uids
    if claimed is None:
        raise RuleError(
            f"submission {submission.id} has no list of uids; --pool is for those that have"
        )
    ids = open_uids(named(uids, bundle, "the list of uids", "--uids"))
    listed = describe(ids)
    if listed != claimed:
        return [
            fault(
                MANIFEST,
                "uids",
                f"{listed.count} uids, {listed.sha256}",
                f"{claimed.count} uids, {claimed.sha256}",
            )
        ]
    lines.append(f"all {listed.count:,} uids have the hash that was submitted")
    [dataset] = chain_of(bundle.record)["dataset"]
    stored = [file.sha256 for file in dataset.outputs if file.name.endswith(".npy")]
    if stored and stored != [npy_sha256(ids)]:
        return [fault("dataset", "sha256", npy_sha256(ids), stored[0], "the record's own file")]
    sample = read_parquet(bundle, UIDS, columns=None)
    chosen = np.empty(sample.num_rows, ids.dtype)
    chosen["f0"], chosen["f1"] = sample["high"].to_numpy(), sample["low"].to_numpy()
    absent = not_in(chosen, ids)
    if absent:
        return [fault(UIDS, "uids", Words(f"{absent} that are not in the list"), 0)]
    outside = not_in(ids, open_uids(pool))
    if outside:
        return [fault("dataset", "uids", Words(f"{outside} that are not in the pool"), 0)]
    lines.append("every uid is in the pool")
    return []


def named(location: str | None, bundle: Bundle, what: str, option: str) -> str:
    """Where the dataset is: as whoever runs this says, never as its sender wrote.

    A sender may write an address inside of our network, or a bucket that our keys open. RuleError
    says what the sender wrote.
    """
    if location:
        return location
    claimed = bundle.manifest.dataset.location
    if not claimed:
        raise RuleError(f"{what} is not public; name it with {option}")
    raise RuleError(
        f"the team says that {what} is at {claimed!r}; addresses of others are not opened by "
        f"themselves: look at it, and name it with {option}"
    )


def not_in(ids: Uids, pool: Uids) -> int:
    """How many records of one sorted list are not in another; both are read once, in pieces."""
    absent, start = 0, 0
    for begin in range(0, len(ids), AT_ONCE):
        part = np.asarray(ids[begin : begin + AT_ONCE])
        while len(part):
            piece = np.asarray(pool[start : start + AT_ONCE])
            if not len(piece):
                absent += len(part)
                break
            top = piece[-1]
            reach = int(np.searchsorted(part, top, side="right"))
            here, part = part[:reach], part[reach:]
            places = np.searchsorted(piece, here)
            absent += int((piece[np.minimum(places, len(piece) - 1)] != here).sum())
            if len(part):
                start += len(piece)
    return absent


# ---- rerun


def _rerun(
    service: Service,
    submission: StoredSubmission,
    models: Sequence[str],
    data: str | None,
    lines: list[str],
    *,
    run_code: bool,
) -> list[Fault]:
    bundle = service.bundle(submission)
    package = load_stages(submission.benchmark)
    case = Case(bundle.record, rules.load_benchmark(submission.benchmark), bundle)
    suite = official_suite(case.book, submission.scale)
    folders = dict(model.partition("=")[::2] for model in models)
    faults: list[Fault] = []
    for seed, scores in seeds_of(bundle.record).items():
        folder = folders.get(str(seed))
        if not folder:
            raise RuleError(f"name the model of seed {seed}: --checkpoint {seed}=FOLDER")
        if data is None:
            raise RuleError("name the evaluation data: --data FOLDER")
        model = package.load(folder)
        if model.id != scores.parents["model"]:
            faults.append(fault(folder, "model", model.id, scores.parents["model"]))
            continue
        other = final_weights(next(m for m in case.models if m.id == model.id), folder)
        if other:
            faults += other
            continue
        settings = scores.work.parameters.get("model")
        model = package.as_recorded(model, settings, run_code=run_code)
        with tempfile.TemporaryDirectory(prefix="recheck-") as out:
            again = run_suite(model, suite=suite, data=data, out=out)
        for name, score in scores.results.aggregates.items():
            again_score = again.results.aggregates[name]
            error = math.hypot(score.stderr or 0.0, again_score.stderr or 0.0)
            apart = abs(again_score.value - score.value)
            if apart > AGREE * error + 1e-12:
                faults.append(
                    fault(
                        f"seed {seed}",
                        name,
                        again_score.value,
                        score.value,
                        f"{AGREE:g} standard errors are {AGREE * error:.4g}",
                    )
                )
            lines.append(
                f"seed {seed}: {name} {again_score.value:.6f}, submitted {score.value:.6f}"
            )
        on_the_way, wrong = checkpoints_again(
            case, seed, folder, data=data, questions=OF_A_CHECKPOINT, salt=""
        )
        lines += on_the_way
        faults += wrong
    return faults
