"""Whether a model can have been trained in the time that its record says.

A training run costs a known number of operations; no device does more than its data sheet says. The
record has the seconds at work and the number of processes, one for each device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from leaderboard.rules import Benchmark
from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.results import flops_of
from pipelines.records import ModelRecord

FASTEST_DEVICE = 2e16
"""Operations a second. NVIDIA's data sheets of DGX B200 and B300 say 144 petaFLOP/s for eight GPUs
at four bits, with sparsity: 1.8e16 a GPU. Training here is at 16 or 32 bits, where an H100 has
0.99e15 and a B200 2.25e15, so an honest run is slower by ten times and more."""


def too_fast(case: Case) -> Iterator[Fault]:
    """Every model was trained by devices that there are."""
    for model in case.models:
        yield from _too_fast(model, case.book)


def _too_fast(model: ModelRecord, book: Benchmark) -> Iterator[Fault]:
    """A run that would need faster devices than there are; nothing where its record says no time.

    A run that was resumed has the seconds since; the steps before it are left out.
    """
    figures, steps = model.made_by.figures, model.counts.get("steps", 0)
    seconds, processes = figures.get("seconds"), figures.get("num_processes", 1.0)
    whole = flops_of(model, book)
    if seconds is None or whole is None or not steps:
        return
    name = f"model {model.id}: made_by.figures"
    first = figures.get("first_step", 0.0)
    if not (math.isfinite(seconds) and seconds > 0 and processes >= 1 and 0 <= first <= steps):
        problem = Words(f"{seconds} seconds from step {first} with {processes} processes")
        yield fault(RECORD, name, problem, Words("a time above 0 of one process or more"))
        return
    least = whole * (1 - first / steps) / FASTEST_DEVICE
    if seconds * processes < least:
        problem = Words(f"{seconds:g} seconds with {processes:g} processes")
        expected = Words(f"at least {least:,.0f} seconds of the fastest device there is")
        yield fault(RECORD, f"{name}.seconds", problem, expected)
