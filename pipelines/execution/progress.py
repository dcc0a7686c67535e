"""Progress as one line: a bar with a rate while a long step runs, one line of summary at its end.

On a terminal the bar is drawn in place. Elsewhere (a log file, a Slurm job) a line is printed every
half minute in which work was done, and the summary at the end.
"""

from __future__ import annotations

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

LINE_SECONDS = 30.0  # between two lines of a log: a run of one night is about a thousand lines

console = Console(stderr=True, highlight=False)  # the stream of now, not that of the import


class Step:
    """A long step: `advance` reports work done, `note` sets a text for the summary."""

    def __init__(self, title: str, unit: str, total: float | None = None) -> None:
        self.title = title
        self.unit = unit
        self.total = total
        self._last_line = time.monotonic()
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
        self.total = self.total if total is None else total
        if self._bar is not None and self._task is not None and total is not None:
            self._bar.update(self._task, total=total)
        self._show(extra)

    def note(self, text: str) -> None:
        self.extra = text

    def _show(self, extra: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, extra=f"{self.rate()} {extra}")
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            console.print(self._line(extra), soft_wrap=True, markup=False)

    def _line(self, extra: str) -> str:
        """Progress for a log: amount, seconds, rate, and the seconds left at that rate."""
        amount = short(self.done) + (f" of {short(self.total)}" if self.total else "")
        parts = [f"{amount} {self.unit}".strip(), f"{self.seconds:.0f} s"]
        if self.done:
            parts.append(self.rate())
        if self.total and 0 < self.done <= self.total:
            left = self.seconds * (self.total - self.done) / self.done
            parts.append(f"about {left:.0f} s left")
        return f"{self.title}: {', '.join(parts)}" + (f"  {extra}" if extra else "")

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def rate(self) -> str:
        return f"{short(self.done / self.seconds)} {self.unit}/s"


@contextmanager
def step(title: str, *, total: float | None = None, unit: str = "") -> Iterator[Step]:
    """Show a bar for the block, then one line: title, amount, seconds, rate, note."""
    current = Step(title, unit, total)
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
