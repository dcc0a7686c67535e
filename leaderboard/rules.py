"""The rule books: what a benchmark fixes, as data.

A benchmark is a package that the entry point group `curation_bench.benchmarks` names; its rules are
the file `benchmark.yaml` inside it. Rules are read without importing the package; the package is
imported only when a stage needs its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipelines.errors import RuleError, UnknownName
from pipelines.installed import folder
from pipelines.records import JSON, Frozen, PackedRecord, PoolRecord
from pipelines.yaml_text import load_plain


class PoolRule(Frozen):
    """What makes a pool an accepted one: its id where that is known, else how it is made."""

    id: str = Field("", pattern="^([0-9a-f]{32})?$", description="of its record; then only this")
    name: str = Field("", description="name in its record")
    variant: str = Field("", description="raw, extracted, refinedweb or pairs")
    num_sources: int | None = Field(None, description="files or packages it is made from")
    sources: dict[str, str] = Field(default_factory=dict, description="sha256 of named sources")
    parameters: dict[str, JSON] = Field(
        default_factory=dict, description="values in its record, as extraction options"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.id or self.name):
            raise ValueError("a rule of a pool has an id, or the name of the pool and its variant")
        return self

    def differs(self, pool: PoolRecord) -> str | None:
        """Where a pool is not as the rule says, as `field: found, expected`; None when it is."""
        work = pool.work
        if self.id:
            return None if pool.id == self.id else f"id: {pool.id}, expected {self.id}"
        pairs: dict[str, tuple[object, object]] = {"name": (work.name, self.name)}
        if self.variant:
            pairs["variant"] = (work.variant, self.variant)
        if self.num_sources is not None:
            pairs["number of sources"] = (len(work.sources), self.num_sources)
        known = {source.name: source.sha256 for source in work.sources}
        pairs |= {f"source {n}": (known.get(n), sha256) for n, sha256 in self.sources.items()}
        pairs |= {f"parameter {n}": (work.parameters.get(n), v) for n, v in self.parameters.items()}
        for field, (actual, expected) in pairs.items():
            if actual != expected:
                return f"{field}: {actual!r}, expected {expected!r}"
        return None


class Noise(Frozen):
    """How far a score moves when nothing of the method does, as standard deviations of one run.

    Measured by `noise` (`leaderboard.rounds.noise`), or taken from a published table.
    """

    metric: str
    seed_sd: float = Field(gt=0, description="another initialisation, the same data in its order")
    seed_freedom: int = Field(gt=0, description="degrees of freedom of that estimate")
    order_sd: float = Field(
        0.0, ge=0, description="another order, and so another part, of the same data"
    )
    order_freedom: int = Field(0, ge=0)
    draw_sd: float = Field(0.0, ge=0, description="another random sample of the pool")
    draw_freedom: int = Field(0, ge=0)
    draw_fraction: float = Field(0.1, gt=0, lt=1, description="the part of the pool in a sample")
    source: str = Field(description="where it was measured, and how")

    def draw_variance(self, fraction: float) -> float:
        """Of a sample that is another part of the pool: as (1 - f) / f, as means of samples do."""
        fraction = min(max(fraction, 1e-6), 1.0)
        known = (1 - self.draw_fraction) / self.draw_fraction
        return self.draw_sd**2 * (1 - fraction) / fraction / known


class SpeedrunRule(Frozen):
    """The target of a scale's speedrun; the recipe is the scale's, with more checkpoints."""

    suite: str = Field(description="the suite whose headline is the target's metric")
    target: float | None = Field(None, description="the score to reach, where runs are known")
    baseline_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="or: what the unfiltered pool scores at this part of its own budget",
    )
    checkpoints: int = Field(ge=3, le=1000, description="points at which a run is measured")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.target is None) == (self.baseline_share is None):
            raise ValueError("a speedrun has either a target or a baseline_share")
        return self


class Scale(Frozen):
    """One rung: which pools, which recipe, how much training, which seeds."""

    name: str
    recipe: str = Field(description="the recipe's name in the benchmark's folder recipes/")
    suite: str = Field(description="the suite that ranks at this scale")
    suite_version: str
    ranked: bool = Field(True, description="whether rows of this scale count")
    pools: tuple[PoolRule, ...] | Literal["open"] = Field(
        description="rules of accepted pools, or `open`; only rows of one pool are compared"
    )
    noise: tuple[Noise, ...] = Field(
        (), description="by metric, where it was measured; intervals of rows hold it"
    )
    tracks: tuple[str, ...] = Field(
        (), description="the tracks of this scale; none: all but those that another scale names"
    )
    review: Literal["person", "machine"] = Field(
        "person",
        description="who puts an entry on the board: `machine` where no notice asks for a decision",
    )
    speedrun: SpeedrunRule | None = None
    baselines: tuple[str, ...] = Field((), description="pipelines a demo of this scale runs")
    note: str = ""

    def noise_of(self, metric: str) -> Noise | None:
        """What is known of a metric's noise at this scale."""
        return next((noise for noise in self.noise if noise.metric == metric), None)


class Price(Frozen):
    """What the rows of a dataset may cost together.

    `costs` is of one row, by the count of the packed record that it falls under; the budget is the
    cost of as many rows as a count of the pool's record says, `each` apiece.
    """

    costs: dict[str, float]
    count: str
    each: float = Field(gt=0)
    description: str = Field(description="of the budget, as people read it")

    def cost(self, packed: PackedRecord) -> float:
        """What packed data costs. RuleError names a kind of row that has no price."""
        kinds = [name for name in packed.counts if "/" in name]
        unpriced = sorted(set(kinds) - set(self.costs))
        if unpriced:
            raise RuleError(f"packed {packed.id}: nothing is known of the price of {unpriced[0]}")
        for unit in {name.partition("/")[0] for name in self.costs}:
            number = sum(packed.counts[name] for name in kinds if name.startswith(f"{unit}/"))
            if number != packed.counts.get(unit, 0):
                raise RuleError(
                    f"packed {packed.id}: {packed.counts.get(unit, 0):,} {unit}, of which "
                    f"{number:,} have a kind and so a price; pack again"
                )
        return sum(self.costs[name] * packed.counts[name] for name in kinds)

    def budget(self, pool: PoolRecord) -> float:
        """RuleError when the pool's record has no such count."""
        if self.count not in pool.counts:
            raise RuleError(f"pool {pool.id} does not say how many rows are {self.count!r}")
        return self.each * pool.counts[self.count]

    def fault(self, packed: PackedRecord, pool: PoolRecord) -> str | None:
        """In words, how a dataset is too dear; None when it is not."""
        cost, budget = self.cost(packed), self.budget(pool)
        if cost <= budget:
            return None
        return f"the data costs {cost:,.0f}; at most {budget:,.0f}, {self.description}"


class Track(Frozen):
    """What a participant may touch."""

    name: str
    description: str
    pool: Literal["given", "any"] = "any"
    pool_parameters: tuple[str, ...] = Field(
        (), description="what the record of a pool says on this track, and on no other"
    )
    pipeline: str = Field("", description="the baseline that all data of the track is made by")
    settings: tuple[str, ...] = Field(
        (), description="of a model in evaluation, what is the participant's on this track alone"
    )
    price: Price | None = None
    speedrun: bool = Field(
        False,
        description="models keep the checkpoints of the scale's speedrun, each with its score",
    )


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

    def tracks_of(self, scale: str) -> tuple[str, ...]:
        """The names of the tracks that a scale has; a speedrun needs a rule of the scale."""
        rung = self.scale(scale)
        named = {name for other in self.scales for name in other.tracks}
        return rung.tracks or tuple(
            track.name
            for track in self.tracks
            if track.name not in named and (rung.speedrun is not None or not track.speedrun)
        )

    def pool_fault(self, track: Track, pool: PoolRecord) -> str | None:
        """In words, how a pool is one of another track; None when it is not."""
        named = {name for other in self.tracks for name in other.pool_parameters}
        there = {name for name in named if pool.work.parameters.get(name) is not None}
        if there == set(track.pool_parameters):
            return None
        extra, missing = (
            ", ".join(sorted(names))
            for names in (there - set(track.pool_parameters), set(track.pool_parameters) - there)
        )
        return f"without the parameter {missing}" if missing else f"with the parameter {extra}"

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
        return Benchmark.model_validate(load_plain(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RuleError(f"{path}: {where}: {first['msg']}") from None


@cache
def baselines(name: str) -> tuple[str, ...]:
    """The names of a benchmark's baselines."""
    return tuple(sorted(path.stem for path in (folder(name) / "baselines").glob("*.yaml")))


@cache
def _baseline_steps(name: str, baseline: str) -> list[tuple[str, dict[str, JSON]]]:
    baseline_yaml = load_plain((folder(name) / "baselines" / f"{baseline}.yaml").read_text("utf-8"))
    return [_step(step) for step in baseline_yaml.get("steps") or []]


def _step(step: JSON) -> tuple[str, dict[str, JSON]]:
    """Operator and parameters of a step, as a baseline's file or as a record writes it."""
    if isinstance(step, str):
        return step, {}
    if "operator" in step:
        return str(step["operator"]), dict(step.get("parameters") or {})
    [(operator, parameters)] = step.items()
    return str(operator), dict(parameters or {})


def is_baseline(name: str, baseline: str, pipeline: Mapping[str, JSON]) -> bool:
    """Whether a record's pipeline is the baseline's: its operators in order, with its parameters.

    A record has every parameter, a baseline's file those that are not the default; what the
    platform fills in (`total` of a sample that has another's size) may differ.
    """
    if "mix" in pipeline:
        return False
    expected = _baseline_steps(name, baseline)
    steps = [_step(step) for step in pipeline.get("steps") or []]
    if [operator for operator, _ in steps] != [operator for operator, _ in expected]:
        return False
    return all(
        all(mine.get(key) == value for key, value in theirs.items())
        and _is_default(operator, mine, theirs)
        for (operator, mine), (_, theirs) in zip(steps, expected, strict=True)
    )


FILLED = ("total",)
"""Parameters that the platform fills in when it runs a baseline."""


def _is_default(operator: str, mine: Mapping[str, JSON], theirs: Mapping[str, JSON]) -> bool:
    """Whether the parameters that a baseline's file leaves out have the operator's own values."""
    further = {key: value for key, value in mine.items() if key not in {*theirs, *FILLED}}
    if not further:
        return True
    from pipelines.registry import registry  # compiled loops: only for what may be a baseline

    try:
        known = registry().get(operator)
    except ModuleNotFoundError:  # a board without the extras of pipelines: by the file alone
        return True
    if known is None:
        return False
    plain = known.model_validate(dict(theirs)).model_dump(mode="json")
    return all(key in plain and plain[key] == value for key, value in further.items())
