"""Lines of progress of a training run, for a log file."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dclm.plan import progress_line
from pipelines.execution.progress import console, say

if TYPE_CHECKING:
    from dclm.recipe import Recipe

LINE_SECONDS = 30.0  # between lines of progress where there is no terminal


def log_lines(recipe: Recipe) -> Callable[[int, int, float, float], None] | None:
    """A function that logs a line of progress every half minute; None where a terminal has a bar.

    It takes step, number of steps, loss and tokens per second.
    """
    if console.is_terminal:
        return None
    last = time.monotonic()

    def progress(step: int, total: int, loss: float, tokens_per_second: float) -> None:
        nonlocal last
        if time.monotonic() - last < LINE_SECONDS:
            return
        from dclm.training.parallel import peak_flops

        last = time.monotonic()
        peak = peak_flops()
        say(progress_line(recipe, step, total, loss, tokens_per_second, peak_flops=peak))

    return progress
