"""How the tests are dealt to processes that run side by side (`--dist loadfile`).

A file is one unit, so that its fixtures are made once; the files that share a Ray cluster are one
unit together. The longest units start first: one that started last would run alone at the end.

`python -m tests.schedule LOG` writes `tests/durations.txt` again from what a whole run with
`--durations=0` printed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
DURATIONS = ROOT / "tests" / "durations.txt"
MEASURED = re.compile(r"^([\d.]+)s (?:setup|call|teardown) +(\S+?)::", re.MULTILINE)
LEAST_SECONDS = 0.5  # shorter files are all alike: they fill what the others leave, and are quick


class Units(LoadScopeScheduling):
    """Units in the order in which the tests were collected: see `longest_first`."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid.partition("::")[0])


@cache
def unit_of(path: str) -> str:
    """The unit that a test file belongs to: itself, or that of the shared Ray cluster."""
    return "ray" if "ray_cluster" in (ROOT / path).read_text() else path


def longest_first(paths: list[str]) -> list[int]:
    """The order of tests, as indexes of their files' paths: whole units, the longest first."""
    seconds: Counter[str] = Counter()
    for path, duration in durations().items():
        seconds[unit_of(path)] += duration
    first: dict[str, int] = {}
    for index, path in enumerate(paths):
        first.setdefault(unit_of(path), index)
    keys = [(-seconds[unit_of(path)], first[unit_of(path)], n) for n, path in enumerate(paths)]
    return [index for *_, index in sorted(keys)]


@cache
def durations() -> dict[str, int]:
    """Seconds of each file that took half of one or more; `--quick` leaves these files out."""
    lines = (line.split() for line in DURATIONS.read_text().splitlines())
    return {path: int(seconds) for seconds, path in lines}


def main(log: str) -> None:
    """Sum the durations of each file in pytest's output and keep those that are long."""
    sums: Counter[str] = Counter()
    for seconds, path in MEASURED.findall(Path(log).read_text()):
        sums[path] += float(seconds)
    long = [(path, seconds) for path, seconds in sums.most_common() if seconds >= LEAST_SECONDS]
    lines = [f"{max(1, round(seconds))} {path}\n" for path, seconds in long]
    DURATIONS.write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
