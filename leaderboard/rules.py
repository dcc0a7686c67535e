"""The rule books: what a benchmark fixes, as data.

A benchmark is a package that the entry point group `curation_bench.benchmarks` names; its rules are
the file `benchmark.yaml` inside it. Rules are read without importing the package; the package is
imported only when a stage needs its code.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from pipelines.errors import RuleError, UnknownName
from pipelines.installed import folder, packages
from pipelines.records import Frozen


class Scale(Frozen):
    """One rung: which pools, which recipe, how much training, which seeds."""

    name: str
    recipe: str = Field(description="the recipe's name in the benchmark's folder recipes/")
    suite: str = Field(description="the suite that ranks at this scale")
    suite_version: str
    ranked: bool = Field(True, description="whether rows of this scale count")
    pools: tuple[str, ...] = Field(
        description="ids of accepted pools, or `any`: then only rows of one pool are compared"
    )
    baselines: tuple[str, ...] = Field((), description="pipelines a demo of this scale runs")
    note: str = ""


class Track(Frozen):
    """What a participant may touch."""

    name: str
    description: str


class Benchmark(Frozen):
    """The whole rule book of one benchmark."""

    name: str
    version: str
    title: str
    modality: Literal["text", "image_text", "image"]
    description: str
    budget_unit: str = Field(description="what training budgets count: tokens or samples")
    dataset_format: Literal["parquet", "uids"] = Field(
        "parquet", description="what curation writes: tables, or a list of uids"
    )
    size_unit: str = Field(description="what a dataset's size on the board counts")
    size_count: str = Field(description="the count of the packed record that holds that size")
    tracks: tuple[Track, ...]
    scales: tuple[Scale, ...]

    def scale(self, name: str) -> Scale:
        """The scale of this name. RuleError lists those there are."""
        for scale in self.scales:
            if scale.name == name:
                return scale
        names = [scale.name for scale in self.scales]
        raise UnknownName(f"{self.name} has no scale {name!r}; scales are {', '.join(names)}")

    def track(self, name: str) -> Track:
        """The track of this name. RuleError lists those there are."""
        for track in self.tracks:
            if track.name == name:
                return track
        names = [track.name for track in self.tracks]
        raise UnknownName(f"{self.name} has no track {name!r}; tracks are {', '.join(names)}")


@cache
def load_benchmark(name: str) -> Benchmark:
    """The rules of an installed benchmark."""
    return read_benchmark(folder(name) / "benchmark.yaml")


def read_benchmark(path: Path) -> Benchmark:
    """A rule book file. RuleError names the key that is wrong."""
    try:
        return Benchmark.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RuleError(f"{path}: {where}: {first['msg']}") from None


def load_package(name: str) -> ModuleType:
    """The benchmark's stages: open_pool, recipe, pack, train, load, commands and the others."""
    folder(name)
    return importlib.import_module(packages()[name])
