"""The chain of records of a submission, by kind and by seed."""

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
    for link in record.chain:
        kinds.setdefault(link.kind, []).append(link)
    return kinds


def seeds_of(record: Submission) -> dict[int, ScoresRecord]:
    """The scores by training seed, in ascending order of seeds."""
    known = {link.id: link for link in record.chain}
    by_seed = {}
    for scores in chain_of(record).get("scores", []):
        model = known[scores.parents["model"]]
        assert isinstance(model, ModelRecord)
        by_seed[model.work.seed] = scores
    return dict(sorted(by_seed.items()))
