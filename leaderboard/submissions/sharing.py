"""A record as it may be public: nothing in it says whose machine it was made on, or where on it."""

from __future__ import annotations

from typing import TypeVar

from pipelines.records import AnyRecord, MadeBy, Record, Submission

R = TypeVar("R", bound=Record)

PUBLIC = ("https://", "http://", "s3://", "hf://", "gs://")


def shareable(record: Submission) -> Submission:
    """The same submission, key and id, without host names, kernels and paths of this machine."""
    chain: tuple[AnyRecord, ...] = tuple(map(without_machine, record.chain))
    return without_machine(record).model_copy(update={"chain": chain})


def without_machine(record: R) -> R:
    """One record, key and id, without what says where it was made."""
    return record.model_copy(update={"made_by": _without_machine(record.made_by)})


def _without_machine(made_by: MadeBy) -> MadeBy:
    """Kept are times, versions, the code's revision and addresses that anybody can open."""
    kept = {
        name: location
        for name, location in made_by.locations.items()
        if location.startswith(PUBLIC)
    }
    system = made_by.platform.split("-")[0]
    return made_by.model_copy(update={"host": "", "platform": system, "locations": kept})
