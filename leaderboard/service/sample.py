"""Repeat a sample of an entry on a laptop, from its bundle alone: no database, no account.

Answers: questions chosen by hash are asked of the checkpoint again, and must get the answers of the
log; of a speedrun, also of every checkpoint on the way. Uids: a part of the list, chosen by hash,
must be in the pool. Verdicts: the filter is repeated on rows of the pool chosen by hash (see
`verdicts`). Each states the probability that altering one in a hundred would have been detected.
The viewer draws the salt of the hash: if the sample were known in advance, a cheater could make
that sample alone honest.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard import rules
from leaderboard.benchmark import load_stages
from leaderboard.service.recheck import named, not_in
from leaderboard.service.repeat_answers import ask_again, checkpoints_again, final_weights
from leaderboard.service.verdicts import ALTERED, repeat_verdicts, seen_with
from leaderboard.submissions import uids as uid_lists
from leaderboard.submissions.bundle import UIDS, Bundle
from leaderboard.submissions.case import Case, official_suite
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.logs import read_parquet
from leaderboard.submissions.validate import check_bundle
from pipelines.errors import RuleError
from pipelines.records import Frozen

QUESTIONS = 50  # asked of a checkpoint over all tasks: 1% altered is seen with probability 0.39


class Sampled(Frozen):
    """What was repeated, in sentences, and what differed."""

    lines: tuple[str, ...]
    faults: tuple[Fault, ...]


def recheck_sample(
    bundle: Bundle,
    *,
    fraction: float = 0.01,
    models: Mapping[str, str] | None = None,
    data: str | None = None,
    pool: str | None = None,
    uids: str | None = None,
    dataset: str | None = None,
    assets: Sequence[str] = (),
    run_code: bool = False,
    salt: str | None = None,
) -> Sampled:
    """Check the bundle against the rules, then repeat a sample of its evaluation and curation.

    `models` are folders of checkpoints by seed. `pool` is the pool's list of uids (.npy), or its
    folder: then the filter is repeated, and its rows looked up in `dataset` (for a list of uids:
    in `uids`). The sample depends on `salt`, by default a new one. RuleError when an argument is
    missing or does not belong to the submission.
    """
    salt = secrets.token_hex(4) if salt is None else salt
    checked = check_bundle(bundle)
    if checked.faults:
        return Sampled(lines=(), faults=checked.faults)
    lines = ["every score computed again from the questions"]
    faults: list[Fault] = []
    if models:
        if data is None:
            raise RuleError("name the evaluation data: --data FOLDER")
        for seed, folder in models.items():
            faults += _answers(bundle, int(seed), folder, data, salt, lines, run_code=run_code)
    if pool is not None and pool.endswith(".npy"):
        faults += _uids(bundle, pool, uids, fraction, salt, lines)
    elif pool is not None:
        case = Case(bundle.record, rules.load_benchmark(bundle.record.work.benchmark), bundle)
        lists = case.book.dataset_format == "uids"
        location = uids if lists else dataset
        location = named(location, bundle, "the dataset", "--uids" if lists else "--dataset")
        verdicts, wrong = repeat_verdicts(
            case,
            pool=pool,
            dataset=location,
            fraction=fraction,
            salt=salt,
            assets=assets,
            run_code=run_code,
        )
        lines.append(verdicts.line)
        faults += wrong
    if not models and pool is None:
        lines.append("nothing repeated: name a checkpoint (--checkpoint) or the pool (--pool)")
    return Sampled(lines=tuple(lines), faults=tuple(faults))


def _answers(
    bundle: Bundle,
    seed: int,
    folder: str,
    data: str,
    salt: str,
    lines: list[str],
    *,
    run_code: bool = False,
) -> list[Fault]:
    scores = seeds_of(bundle.record).get(seed)
    if scores is None:
        raise RuleError(f"the submission has no seed {seed}")
    name = bundle.record.work.benchmark
    case = Case(bundle.record, rules.load_benchmark(name), bundle)
    model = load_stages(name).load(folder)
    if model.id != scores.parents["model"]:
        return [fault(folder, "model", model.id, scores.parents["model"])]
    other = final_weights(next(m for m in case.models if m.id == model.id), folder)
    if other:
        return other
    settings = scores.work.parameters.get("model")
    model = load_stages(name).as_recorded(model, settings, run_code=run_code)
    suite = official_suite(case.book, case.scale.name)
    again = ask_again(bundle, seed, model, suite, data=data, questions=QUESTIONS, salt=salt)
    chance = seen_with(again.asked)
    lines.append(
        f"seed {seed}: {again.asked} questions asked again, {again.differ} answered otherwise; an "
        f"alteration of {ALTERED:.0%} of the answers would have been seen with probability "
        f"{chance:.2f} (salt {salt})"
    )
    on_the_way, faults = checkpoints_again(
        case, seed, folder, data=data, questions=QUESTIONS, salt=salt
    )
    lines += on_the_way
    return [*again.faults, *faults]


def _uids(
    bundle: Bundle, pool: str, uids: str | None, fraction: float, salt: str, lines: list[str]
) -> list[Fault]:
    """Look up in the pool a hashed part of the list, or without it the bundle's sample."""
    claimed = bundle.manifest.uids
    if claimed is None:
        raise RuleError("this submission has no list of uids; --pool is for those that have")
    if uids is not None:
        ids = uid_lists.open_uids(uids)
        if uid_lists.describe(ids).sha256 != claimed.sha256:
            return [fault(uids, "sha256", Words("another list"), claimed.sha256)]
        number = max(1, round(fraction * claimed.count))
        key = hashlib.sha256(f"{salt} {claimed.sha256}".encode()).hexdigest()
        sample = uid_lists.choose(ids, key, number)
    else:
        sample = read_parquet(bundle, UIDS, columns=None)
    chosen = np.empty(sample.num_rows, uid_lists.RECORDS)
    chosen["f0"], chosen["f1"] = sample["high"].to_numpy(), sample["low"].to_numpy()
    known = uid_lists.open_uids(pool)
    absent = not_in(np.sort(chosen), known)
    chance = seen_with(sample.num_rows)
    lines.append(
        f"{sample.num_rows:,} uids looked up, {absent} not in the pool; a list with {ALTERED:.0%} "
        f"of foreign uids would have been seen with probability {chance:.2f}"
    )
    if absent:
        return [fault(UIDS, "uids", Words(f"{absent} that are not in the pool"), 0)]
    return []
