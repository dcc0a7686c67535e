"""Answers of another model, however they are stored, scaled, or changed a little.

Everything else in such an entry is its sender's own, by every hash, and every score is computed
again. An exact copy, and what no two training runs share, is refused; what is only nearer than two
seeds of one dataset are is shown to the reviewer with the pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.aggregate import aggregate_suite
from evals.run import score_task
from evals.tasks import Task, load_task
from leaderboard.submissions.facts import KnownFacts
from pipelines.records import File, ModelRecord, ScoresRecord, ScoresResults, Submission
from tests.leaderboard.frauds import checked, column, known_of, record_of, refused, rewritten, steps
from tests.leaderboard.made_up import make_folder, suite_of

pytestmark = pytest.mark.usefixtures("few_draws")

Change = Callable[[Task, pa.Table], pa.Table]


def rescored(folder: Path) -> Path:
    """The folder with its scores and manifest as the logs in it have them."""
    record = record_of(folder)
    suite = suite_of(record.work.benchmark, record.work.scale)
    seeds = {link.id: link.work.seed for link in record.chain if isinstance(link, ModelRecord)}
    files, chain, new = {}, [], {}
    for link in record.chain:
        if not isinstance(link, ScoresRecord):
            chain.append(link)
            continue
        scores, draws, outputs = [], {}, []
        for task in suite.load_tasks():
            path = folder / f"questions/{seeds[link.parents['model']]}/{task.name}/000000.parquet"
            data, log = path.read_bytes(), pq.read_table(path)
            score, draws[task.name] = score_task(task, log)
            scores.append(score)
            sha256 = hashlib.sha256(data).hexdigest()
            files[path.relative_to(folder).as_posix()] = (sha256, len(data))
            name = f"logs/{task.name}/000000.0.parquet"
            outputs.append(File(name=name, sha256=sha256, num_bytes=len(data), num_rows=len(log)))
        made = ScoresRecord.seal(
            work=link.work,
            parents=link.parents,
            outputs=outputs,
            counts={"questions": sum(score.num_items for score in scores)},
            results=ScoresResults(
                tasks=tuple(scores), aggregates=aggregate_suite(suite, scores, draws)
            ),
            made_by=link.made_by,
        )
        new[link.id] = made.id
        chain.append(made)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    for file in manifest["files"]:
        if file["name"] in files:
            sha256, size = files[file["name"]]
            file |= {"sha256": sha256, "num_bytes": size}
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    parents = {role: new[id_] for role, id_ in record.parents.items()}
    sealed = Submission.seal(work=record.work, parents=parents, made_by=record.made_by)
    return rewritten(folder, sealed.model_copy(update={"chain": tuple(chain)}))


def with_logs_of(folder: Path, other: Path, change: Change, kinds: set[str] | None = None) -> Path:
    """An entry with the logs of another one, changed and stored in another codec."""
    for path in sorted(other.glob("questions/*/*/*.parquet")):
        task = load_task(path.parent.name)
        if kinds is None or task.kind in kinds:
            log = change(task, pq.read_table(path))
            pq.write_table(log, folder / path.relative_to(other), compression="gzip")
    return rescored(folder)


def stolen(
    tmp_path: Path, change: Change, *, kinds: set[str] | None = None, **options: Any
) -> tuple[Path, KnownFacts]:
    """A thief's entry with another pipeline, and the board on which the other was accepted."""
    first = make_folder(tmp_path / "a", team="first", method="first", **options)
    own = options | {"steps": steps(3), "chance": 9, "skill": 0.4}
    thief = make_folder(tmp_path / "b", team="thieves", method="brilliant", **own)
    return with_logs_of(thief, first, change, kinds), known_of(first)


def same(task: Task, log: pa.Table) -> pa.Table:
    return log


def scaled(factor: float) -> Change:
    return lambda task, log: column(log, "nats", log["nats"].to_numpy() * factor)


def noisy(task: Task, log: pa.Table) -> pa.Table:
    """A part in ten thousand of noise on every loss."""
    noise = np.random.default_rng(3).standard_normal(len(log))
    return column(log, "nats", log["nats"].to_numpy() * (1 + 1e-4 * noise))


PROXY = {"scale": "25m", "rows": 60}
CHOICES = {"scale": "rehearsal", "rows": 300}
LOSSES = {"perplexity", "answer_loss", "token_loss"}
REFUSED: dict[str, tuple[Change, dict[str, Any], str]] = {
    "losses of documents in other bytes": (same, {"kinds": LOSSES}, "the answers of"),
    "losses a thousandth smaller": (scaled(0.999), PROXY | {"kinds": LOSSES}, "a little noise"),
    "losses doubled": (scaled(2.0), PROXY | {"kinds": LOSSES}, "a little noise"),
    "losses with a little noise": (noisy, {"kinds": LOSSES}, "a little noise"),
    "choices in other bytes": (same, CHOICES, "the answers of"),
    "features of drawn images in other bytes": (
        *(same, {"benchmark": "ambient", "kinds": {"image_generation"}}),
        "the answers of",
    ),
    "errors of few steps in other bytes": (
        *(same, {"benchmark": "ambient", "kinds": {"image_sampling"}}),
        "the answers of",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_answers_of_another_team_are_refused(name: str, tmp_path: Path) -> None:
    change, options, words = REFUSED[name]
    folder, known = stolen(tmp_path, change, **options)
    fault = refused(folder, "novelty.copy", "chain", known)
    assert words in fault.found
    assert "'first'" in fault.found


def one_answer_turned(task: Task, log: pa.Table) -> pa.Table:
    """The first wrong word is called right."""
    if task.kind not in ("language_modeling", "generation"):
        return log
    right = log["correct"].to_numpy(zero_copy_only=False).copy()
    right[np.flatnonzero(~right)[:1]] = True
    return column(log, "correct", right)


def few_ranks(task: Task, log: pa.Table) -> pa.Table:
    """Five wrong images are better by one rank."""
    rank = log["rank"].to_numpy().copy()
    rank[np.flatnonzero(rank > 20)[:5]] -= 1
    return column(log, "rank", rank)


SHOWN: dict[str, tuple[Change, dict[str, Any]]] = {
    "choices, one of them turned": (one_answer_turned, CHOICES),
    "ranks, five of them better": (
        *(few_ranks, {"benchmark": "datacomp", "rows": 400, "kinds": {"image_retrieval"}}),
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_answers_that_were_changed_a_little_are_shown(name: str, tmp_path: Path) -> None:
    change, options = SHOWN[name]
    folder, known = stolen(tmp_path, change, **options)
    verdict = checked(folder, known)
    shown = [notice for notice in verdict.notices if notice.rule == "novelty.answers"]
    assert shown, verdict
    assert known.facts[0].id in shown[0].ids
    assert "'first' of 'first'" in shown[0].text


@pytest.mark.parametrize(
    "options",
    [
        CHOICES,
        PROXY,
        {},
        {"benchmark": "datacomp", "rows": 400},
        {"benchmark": "ambient"},
    ],
)
def test_another_model_is_no_copy(options: dict[str, Any], tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="first", method="first", **options)
    own = options | {"steps": steps(3), "chance": 9}
    second = make_folder(tmp_path / "b", team="second", method="second", **own)
    verdict = checked(second, known_of(first))
    assert verdict.faults == ()
    assert not [notice for notice in verdict.notices if notice.rule.startswith("novelty")]


def test_logs_of_ones_own_other_dataset_are_refused(tmp_path: Path) -> None:
    """Two honest submissions of one team mixed: the better logs beside the other dataset.

    With one seed more than the other had, it used to pass as an entry that adds a seed.
    """
    first = make_folder(tmp_path / "a", team="first", method="first", skill=0.9)
    other = make_folder(tmp_path / "b", team="first", method="other", chance=5, seeds=(124, 125))
    mixed = with_logs_of(other, first, same)
    fault = refused(mixed, "novelty.copy", "chain", known_of(first))
    assert "of your submission" in fault.found


def test_a_seed_more_of_ones_own_dataset_is_no_copy(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="first", method="first")
    more = make_folder(tmp_path / "b", team="first", method="first", seeds=(124, 125))
    assert checked(more, known_of(first)).faults == ()
