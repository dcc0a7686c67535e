"""Progress as one line: a bar with a rate while a long step runs, one line of summary at its end.

On a terminal the bar is drawn in place; elsewhere only the summary is printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(file=sys.stderr, highlight=False)


class Step:
    """A long step: `advance` as work is done, `note` for what the summary should say."""

    def __init__(self, title: str, unit: str) -> None:
        self.title = title
        self.unit = unit
        self.done = 0.0
        self.extra = ""
        self.started = time.monotonic()
        self._bar: Progress | None = None
        self._task = None

    def advance(self, amount: float = 1, *, extra: str = "") -> None:
        self.done += amount
        self._show(extra)

    def at(self, done: float, total: float | None = None, *, extra: str = "") -> None:
        """Set how much is done (for callbacks that count for themselves)."""
        self.done = done
        if self._bar is not None and self._task is not None and total is not None:
            self._bar.update(self._task, total=total)
        self._show(extra)

    def note(self, text: str) -> None:
        self.extra = text

    def _show(self, extra: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, extra=f"{self.rate()} {extra}")

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def rate(self) -> str:
        return f"{short(self.done / self.seconds)} {self.unit}/s"


@contextmanager
def step(title: str, *, total: float | None = None, unit: str = "") -> Iterator[Step]:
    """Show a bar for the block, then one line: title, amount, seconds, rate, note."""
    current = Step(title, unit)
    if console.is_terminal:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[extra]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        current._bar = bar
        current._task = bar.add_task(title, total=total, extra="")  # type: ignore[assignment]
        with bar:
            yield current
    else:
        yield current
    rate = f", {current.rate()}" if unit and current.done else ""
    extra = f"  {current.extra}" if current.extra else ""
    amount = f"{short(current.done)} {unit}, " if unit else ""
    console.print(f"{title}: {amount}{current.seconds:.1f} s{rate}{extra}", soft_wrap=True)


def say(text: str) -> None:
    """One line to the person at the terminal (standard error; results go to standard output)."""
    console.print(text, soft_wrap=True, markup=False)


def short(number: float) -> str:
    """1234567 as 1.23M: three significant digits."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}" if number != int(number) else str(int(number))


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing in the block."""
    before = console.quiet
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = before
