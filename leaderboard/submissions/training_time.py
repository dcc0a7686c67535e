"""Whether a model can have been trained in the time that its record says.

A training run costs a known number of operations; no device does more than its data sheet says. The
record has the seconds at work, or the rows a second, and the number of processes: one for each
device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import ModelRecord

FASTEST_DEVICE = 2e16
"""Operations a second. NVIDIA's data sheets of DGX B200 and B300 say 144 petaFLOP/s for eight GPUs
at four bits, with sparsity: 1.8e16 a GPU. Training here is at 16 or 32 bits, where an H100 has
0.99e15 and a B200 2.25e15, so an honest run is slower by ten times and more."""
DEVICES = ("num_processes", "processes", "gpus")
"""Figures that say how many devices a run had: of each benchmark's own training."""


def too_fast(case: Case) -> Iterator[Fault]:
    """Every model was trained by devices that there are."""
    whole = case.package.operations(case.recipe)
    if whole is not None:
        for model in case.models:
            yield from _too_fast(model, whole, case.book.budget_unit)


def _too_fast(model: ModelRecord, whole: float, unit: str) -> Iterator[Fault]:
    """A run that would need faster devices than there are; nothing where no time is given."""
    figures = model.made_by.figures
    name = f"model {model.id}: made_by.figures"
    devices = next((figures[key] for key in DEVICES if key in figures), 1.0)
    rate = figures.get(f"{unit}_per_second")
    seen = (model.results or {}).get(f"{unit}_seen")
    part, seconds = _at_work(model)
    if seconds is None and rate is None:
        return
    claims = [devices, *[x for x in (seconds, rate) if x is not None]]
    if not (all(math.isfinite(x) and x > 0 for x in claims) and devices >= 1 and 0 <= part <= 1):
        problem = Words(", ".join(f"{key} {value:g}" for key, value in figures.items()))
        yield fault(RECORD, name, problem, Words("a time above 0 of one process or more"))
        return
    for field, claimed, share in (
        ("seconds", seconds, part),
        (f"{unit}_per_second", seen / rate if rate and seen else None, 1.0),
    ):
        least = whole * share / FASTEST_DEVICE
        if claimed is not None and claimed * devices < least:
            problem = Words(f"{claimed:g} seconds with {devices:g} processes")
            expected = Words(f"at least {least:,.0f} seconds of the fastest device there is")
            yield fault(RECORD, f"{name}.{field}", problem, expected)


def _at_work(model: ModelRecord) -> tuple[float, float | None]:
    """The part of a run that its seconds are of, and the seconds; None: not known.

    A run that was resumed has the seconds since. Where its record does not say from which step on,
    they say nothing.
    """
    figures, steps = model.made_by.figures, model.counts.get("steps", 0)
    seconds = figures.get("seconds")
    if not steps or ("first_step" not in figures and figures.get("resumed")):
        return 1.0, None
    return 1 - figures.get("first_step", 0.0) / steps, seconds
