"""The record of a mixture: which datasets, how often each, and no steps of a pipeline beside."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import JSON

MAX_REPEAT = 1000.0  # of one source; `mix` itself refuses more than its `max_repeat`, far below
ID = re.compile("[0-9a-f]{32}")
FIELDS = {"name", "record", "repeat", "by", "part"}


def mixture_faults(
    where: str, pipeline: Mapping[str, JSON], counts: Mapping[str, int]
) -> Iterator[Fault]:
    """What `mix` does not write: no sources, one twice, repeats that are none, reasons of steps."""
    mix = pipeline.get("mix")
    if "steps" in pipeline:
        expected = Words("the shares of a mixture, or the steps of a pipeline")
        yield fault(RECORD, where, Words("mix and steps"), expected)
        return
    sources = mix.get("sources") if isinstance(mix, dict) else None
    if not isinstance(sources, list) or not sources:
        yield fault(RECORD, f"{where}.mix.sources", Words("no sources"), Words("one or more"))
        return
    seen: set[tuple[str, str]] = set()
    total = 0.0
    for number, source in enumerate(sources):
        field = f"{where}.mix.sources[{number}]"
        if not _is_source(source):
            expected = Words("name, record and repeat of a dataset")
            yield fault(RECORD, field, source, expected)
            return
        key = (source["name"], str(source.get("part")))
        if key in seen:
            yield fault(RECORD, field, source["name"], Words("each source once"))
        seen.add(key)
        total += source["repeat"]
    if total == 0:
        yield fault(RECORD, f"{where}.mix.sources", Words("nothing of any"), Words("some rows"))
    reasons = [name for name in counts if name.startswith("rejected/")]
    if reasons:
        expected = Words("none: a mixture has no steps that reject")
        yield fault(RECORD, f"{where}: counts", reasons[0], expected)


def _is_source(source: JSON) -> bool:
    if not isinstance(source, dict) or not {"name", "record", "repeat"} <= set(source) <= FIELDS:
        return False
    repeat = source["repeat"]
    return (
        isinstance(source["name"], str)
        and isinstance(source["record"], str)
        and ID.fullmatch(source["record"]) is not None
        and type(repeat) in (int, float)
        and math.isfinite(repeat)
        and 0 <= repeat <= MAX_REPEAT
    )
