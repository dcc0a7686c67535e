"""Ask weights again what a log says they answered, question by question.

The weights are those that the model's record names: their sha256 is compared first, since a folder
with the right record may hold other weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from evals.controls import chosen_rows
from evals.kinds import kind_of, read_data
from evals.suite import Suite
from evals.tasks import PER_BYTE, Task
from leaderboard.benchmark import INTERMEDIATE
from leaderboard.service.image_sample import asked_again
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.case import Case, CheckpointCase
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.logs import read_log
from pipelines.errors import RuleError
from pipelines.records import ModelRecord, sha256_file

LOSS_TOLERANCE = 0.02  # relative, for other hardware or precision; an altered answer differs more
FLIPS = 0.02  # fraction of choices that rounding may decide differently on another machine
OF_A_CHECKPOINT = 500  # questions, where all of its evaluation is repeated


@dataclass(frozen=True)
class Asked:
    """How many questions were asked again, how many got another answer, and what is wrong."""

    asked: int
    differ: int
    faults: tuple[Fault, ...]


def ask_again(
    bundle: Bundle, seed: int, model: Any, suite: Suite, *, data: str, questions: int, salt: str
) -> Asked:
    """Ask a model of the bundle's seed `questions` of a suite, chosen by hash over all tasks."""
    faults: list[Fault] = []
    asked = differ = 0
    share = math.ceil(questions / len(suite.tasks))
    for task in suite.load_tasks():
        items = read_data(task, data)
        rows = chosen_rows(items, share, what=f"recheck {salt}")
        log = read_log(bundle, seed, task.name, columns=None)
        if task.kind.startswith("image_"):
            wrong = asked_again(task, items, rows, model, log)
        else:
            again = kind_of(task).answer(task, items, rows, model, window=suite.window)
            wrong = _different(task, log, again)
        asked, differ = asked + len(rows), differ + len(wrong)
        exact = (*PER_BYTE, "token_loss")
        if wrong and (task.kind in exact or len(wrong) > 1 + FLIPS * len(rows)):
            problem = Words(
                f"another answer to {len(wrong)} of {len(rows)} (first: row {wrong[0]})"
            )
            faults.append(fault(bundle.folder(seed, task.name), "", problem, Words("the log's")))
    return Asked(asked, differ, tuple(faults))


def checkpoints_again(
    case: Case, seed: int, folder: str, *, data: str, questions: int, salt: str
) -> tuple[list[str], list[Fault]]:
    """Ask every checkpoint of a speedrun's seed again; a sentence on all of them, and the faults.

    Nothing for a bundle without logs of checkpoints. RuleError where the folder lacks the weights.
    """
    subs = [sub for sub in case.checkpoints if sub.seed == seed]
    model = next(model for model in case.models if model.work.seed == seed)
    asked = differ = 0
    faults: list[Fault] = []
    for sub in subs:
        faults += other_weights(model, folder, sub.checkpoint)
        if faults:
            return [], faults
        again = _checkpoint_again(sub, folder, data=data, questions=questions, salt=salt)
        asked, differ = asked + again.asked, differ + again.differ
        faults += again.faults
    lines = [
        f"seed {seed}: {asked} questions asked of {len(subs)} checkpoints again, {differ} answered "
        "otherwise"
    ]
    return (lines if subs else []), faults


def _checkpoint_again(
    sub: CheckpointCase, folder: str, *, data: str, questions: int, salt: str
) -> Asked:
    weights = sub.package.load(folder, checkpoint=sub.checkpoint)
    assert sub.bundle is not None
    return ask_again(
        sub.bundle, sub.seed, weights, sub.suite, data=data, questions=questions, salt=salt
    )


def other_weights(model: ModelRecord, folder: str, checkpoint: str) -> list[Fault]:
    """A fault if a checkpoint in a model's folder is not the one that its record names."""
    name = f"{INTERMEDIATE}/{checkpoint}.safetensors"
    path = Path(folder) / name
    if not path.is_file():
        raise RuleError(
            f"{folder} has no {name}; a speedrun is checked again with the weights of all of its "
            "checkpoints, in the model's folder as training left it"
        )
    expected = next(file.sha256 for file in model.outputs if file.name == name)
    sha256 = sha256_file(path)
    return [] if sha256 == expected else [fault(str(path), "sha256", sha256, expected)]


def final_weights(model: ModelRecord, folder: str) -> list[Fault]:
    """Faults for files of a final model that are not those that its record names."""
    faults = []
    for file in model.outputs:
        path = Path(folder) / file.name
        if file.name.startswith(f"{INTERMEDIATE}/") or not path.is_file():
            continue
        sha256 = sha256_file(path)
        if sha256 != file.sha256:
            faults.append(fault(str(path), "sha256", sha256, file.sha256))
    return faults


def _different(task: Task, log: pa.Table, again: pa.Table) -> list[int]:
    """Rows whose repeated answer differs from the log."""
    position_of = {row: number for number, row in enumerate(log["row"].to_pylist())}
    wrong = []
    for number, row in enumerate(again["row"].to_pylist()):
        if row not in position_of:
            wrong.append(row)
            continue
        if task.kind in (*PER_BYTE, "token_loss"):
            a, b = log["nats"][position_of[row]].as_py(), again["nats"][number].as_py()
            if abs(a - b) > LOSS_TOLERANCE * max(1.0, abs(b)):
                wrong.append(row)
        elif log["correct"][position_of[row]].as_py() != again["correct"][number].as_py():
            wrong.append(row)
    return wrong
