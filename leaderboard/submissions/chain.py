"""The records behind a submission, by kind and by seed."""

from __future__ import annotations

from typing import Any

from pipelines.records import ModelRecord, ScoresRecord, Submission

PARENT_OF = {
    "dataset": {"pool": "pool"},
    "packed": {"dataset": "dataset"},
    "model": {"packed": "packed"},
    "scores": {"model": "model"},
}


def chain_of(record: Submission) -> dict[str, list[Any]]:
    """The records of a submission by kind."""
    kinds: dict[str, list[Any]] = {}
    for one in record.chain:
        kinds.setdefault(one.kind, []).append(one)
    return kinds


def seeds_of(record: Submission) -> dict[int, ScoresRecord]:
    """The scores by training seed, in order of the seeds."""
    known = {one.id: one for one in record.chain}
    found = {}
    for scores in chain_of(record).get("scores", []):
        model = known[scores.parents["model"]]
        assert isinstance(model, ModelRecord)
        found[model.work.seed] = scores
    return dict(sorted(found.items()))
