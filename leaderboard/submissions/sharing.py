"""A record as it may be public: nothing in it says whose machine it was made on, or where on it."""

from __future__ import annotations

from pipelines.records import AnyRecord, MadeBy, Submission

PUBLIC = ("https://", "http://", "s3://", "hf://", "gs://")


def shareable(record: Submission) -> Submission:
    """The same submission, key and id, without host names, kernels and paths of this machine."""
    chain: tuple[AnyRecord, ...] = tuple(
        link.model_copy(update={"made_by": _without_machine(link.made_by)}) for link in record.chain
    )
    return record.model_copy(update={"chain": chain, "made_by": _without_machine(record.made_by)})


def _without_machine(made_by: MadeBy) -> MadeBy:
    """Kept are times, versions, the code's revision and addresses that anybody can open."""
    kept = {
        name: location
        for name, location in made_by.locations.items()
        if location.startswith(PUBLIC)
    }
    system = made_by.platform.split("-")[0]
    return made_by.model_copy(update={"host": "", "platform": system, "locations": kept})
