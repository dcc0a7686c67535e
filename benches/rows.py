"""Rows of a bench: one shape for all of them, with floors that a bench can miss.

    rows = Rows("text")
    rows.add("words", 310.0, "MB/CPU-s", floor=250, peer=148.0, peer_name="str.split")
    rows.close()

A row has `work, ours, unit, peer, peer_name, ratio, floor, floor_of, missed, reason, date, machine,
load`. `floor` is for `ours` or, with `floor_of="ratio"`, for ours divided by the peer's. A figure
that is better when it is smaller (seconds) says `less=True`: then the floor is the most that is
allowed, and the ratio is the peer's by ours. A row is printed as it is added; `close` writes
`build/bench/NAME.json`, which `tables.py` reads, and ends the process with 1 when a floor was
missed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parent.parent / "build" / "bench"

Row = dict[str, Any]


class Rows:
    """The rows of one bench, in the order they were measured."""

    def __init__(self, name: str, *, threads: int = 1, folder: Path = BUILD) -> None:
        self.name = name
        self.file = folder / f"{name}.json"
        self.rows: list[Row] = []
        self.more: dict[str, Any] = {}
        self.machine = f"{platform.machine()}, {threads} of {os.cpu_count()} cores"

    def add(
        self,
        work: str,
        ours: float | None,
        unit: str,
        *,
        floor: float | None = None,
        floor_of: str = "ours",
        peer: float | None = None,
        peer_name: str = "",
        less: bool = False,
        reason: str = "",
        **more: Any,
    ) -> Row:
        """A row. `ours` is None for what could not be measured, which `reason` must explain and
        which counts as missed when there is a floor. `more` is kept in the row."""
        if ours is None and not reason:
            raise ValueError(f"{work!r} was not measured; say why in `reason`")
        if floor_of not in ("ours", "ratio"):
            raise ValueError(f"floor_of is 'ours' or 'ratio', got {floor_of!r}")
        ratio = None
        if ours is not None and peer is not None:
            ratio = peer / ours if less else ours / peer
        value = ratio if floor_of == "ratio" else ours
        missed = False
        if floor is not None:
            over = value is not None and (value <= floor if self._most(less, floor_of) else False)
            enough = value is not None and value >= floor and not self._most(less, floor_of)
            missed = not (over or enough)
        row = {
            "work": work,
            "ours": ours,
            "unit": unit,
            "peer": peer,
            "peer_name": peer_name,
            "ratio": ratio,
            "floor": floor,
            "floor_of": floor_of,
            "less": less,
            "missed": missed,
            "reason": reason,
            "date": time.strftime("%Y-%m-%d"),
            "machine": self.machine,
            "load": round(os.getloadavg()[0], 1),
            **more,
        }
        self.rows.append(row)
        print(shown(row), flush=True)
        return row

    @staticmethod
    def _most(less: bool, floor_of: str) -> bool:
        """Whether the floor is the most that is allowed. A ratio is always better when larger."""
        return less and floor_of == "ours"

    def close(self, *, partial: bool = False) -> None:
        """Write the report; SystemExit names the floors that were missed. A partial run keeps the
        other rows of the report that is there, each with its own date and load."""
        missed = [row["work"] for row in self.rows if row["missed"]]
        if partial and self.file.exists():
            measured = {row["work"] for row in self.rows}
            before = json.loads(self.file.read_text())["rows"]
            kept = [row for row in before if "floor_of" in row and row["work"] not in measured]
            self.rows = [*kept, *self.rows]
        self.save()
        if missed:
            print(f"missed floors: {'; '.join(missed)}", file=sys.stderr)
            raise SystemExit(1)

    def save(self) -> None:
        """Write the report as it is now."""
        loads = [row["load"] for row in self.rows]
        report = {
            "machine": f"{self.machine}, load {min(loads)} to {max(loads)}",
            "date": time.strftime("%Y-%m-%d"),
            "rows": self.rows,
            **self.more,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(report, indent=2) + "\n")


def shown(row: Row) -> str:
    """A row as one line."""
    parts = [f"{row['work']:58}", f"{number(row['ours']):>9} {row['unit']}"]
    if row["peer"] is not None:
        parts.append(f"{row['peer_name']} {number(row['peer'])}, {number(row['ratio'])} times")
    if row["floor"] is not None:
        word = "at most" if Rows._most(row["less"], row["floor_of"]) else "at least"
        of = " times" if row["floor_of"] == "ratio" else ""
        parts.append(f"{word} {number(row['floor'])}{of}{' MISSED' if row['missed'] else ''}")
    if row["reason"]:
        parts.append(row["reason"])
    return "  ".join(parts)


def number(value: Any) -> str:
    """A figure as people read it: three digits that count, thousands apart."""
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
