"""Installed benchmarks and what they add elsewhere, found by entry point without an import."""

from __future__ import annotations

import difflib
import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from pipelines.errors import RuleError, UnknownName

GROUP = "curation_bench.benchmarks"
NAME = "curation-bench"


@cache
def points(group: str) -> dict[str, str]:
    """The entry points of a group, `module:class` by name, in an order no installer decides."""
    return {p.name: p.value for p in sorted(entry_points(group=group), key=lambda p: p.name)}


def packages() -> dict[str, str]:
    """The installed benchmarks: name to `module:class`, inside their package."""
    return points(GROUP)


@cache
def own_packages() -> frozenset[str]:
    """The top packages of this distribution: what records name by revision and version."""
    own = {"pipelines", "evals", "leaderboard"}
    ours = [point for point in entry_points(group=GROUP) if point.dist and point.dist.name == NAME]
    return frozenset(own | {point.module.partition(".")[0] for point in ours})


def folder(name: str) -> Path:
    """Where a benchmark's package is, found without importing it."""
    known = packages()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownName(f"unknown benchmark {name!r}{hint}; installed: {', '.join(known)}")
    package = known[name].partition(":")[0].split(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuleError(f"the package {package!r} of benchmark {name!r} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def load(name: str) -> object:
    """What the entry point of a benchmark names, imported."""
    folder(name)
    return load_point(GROUP, name)


def load_point(group: str, name: str) -> object:
    """What an entry point names, imported."""
    return next(point for point in entry_points(group=group) if point.name == name).load()
