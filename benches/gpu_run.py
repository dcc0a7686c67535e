"""The rows of a run on a GPU: each is measured within its own limit, or says why it was not."""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from rows import Rows

Measured = tuple[float, dict[str, Any]]


class NotMeasured(Exception):
    """A row that cannot be measured here, or took longer than it may."""


class Run:
    """The rows of a run: each measured within its own limit and what is left of the whole."""

    def __init__(self, rows: Rows, *, seconds: float, dry: bool, only: list[str]) -> None:
        self.rows, self.dry, self.only = rows, dry, only
        self.ends = time.monotonic() + seconds
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def row(
        self,
        work: str,
        unit: str,
        measure: Callable[[], Measured],
        *,
        limit: float,
        floor: float | None = None,
        less: bool = False,
    ) -> None:
        """Measure one row. `limit`: seconds that it may take, warm-up included."""
        if self.only and not any(word in work for word in self.only):
            return
        has_gpu = self.device.type == "cuda"
        floor = floor if has_gpu and not self.dry else None
        left = self.ends - time.monotonic()
        began = time.monotonic()
        try:
            if not has_gpu and not self.dry:
                raise NotMeasured("no GPU on this machine")
            if left < 5:
                raise NotMeasured("the time of the whole run was used up by the rows before")
            with _within(min(limit, left)):
                value, more = measure()
            more["seconds_in_all"] = round(time.monotonic() - began, 1)
            self.rows.add(work, value, unit, floor=floor, less=less, **more)
        except Exception as error:
            kind = "" if isinstance(error, NotMeasured) else f"{type(error).__name__}: "
            reason = f"{kind}{error}".strip().splitlines()[0][:300]
            self.rows.add(work, None, unit, floor=floor, less=less, reason=reason)
            if not isinstance(error, NotMeasured):
                traceback.print_exc(file=sys.stdout)
        self.rows.save()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise NotMeasured in the main thread after so many seconds."""

    def stop(_: int, __: FrameType | None) -> None:
        raise NotMeasured(f"stopped after its limit of {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
