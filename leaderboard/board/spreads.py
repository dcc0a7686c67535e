"""How much a score varies between training runs: pooled over the rows of a board, and as measured.

Seeds, the order of the data and the draw of a sample each have a variance of one run, and the
degrees of freedom of its estimate. What the rule book knows of a scale counts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard import rules
from leaderboard.rules import Noise
from leaderboard.submissions.results import Row
from pipelines.errors import RuleError


@dataclass(frozen=True)
class SeedSpread:
    """How a score varies between runs of one method: variances of one run, with their freedom.

    `order` and `draw` are not seen in seeds: all seeds of a dataset train on it in one order, and
    all rows of a sampled dataset on one sample. None: not known.
    """

    variance: float
    freedom: int
    order: tuple[float, int] | None = None
    draw: tuple[float, int] | None = None  # of a family's own draws, whatever their size
    noise: Noise | None = None

    def of_data(self, *rows: Row) -> list[tuple[float, int]]:
        """The parts of some rows' variance that their data has, beside their seeds.

        What rests on one estimate is one part, however many rows it is of: its degrees of freedom
        are there once.
        """
        variances: dict[str, float] = {}
        freedom: dict[str, int] = {}
        for row in rows:
            for name, (variance, free) in self.of_row(row).items():
                variances[name] = variances.get(name, 0.0) + variance
                freedom[name] = free
        return [(variances[name], freedom[name]) for name in variances]

    def of_row(self, row: Row) -> dict[str, tuple[float, int]]:
        """The parts of one row, by what they are of."""
        if row.sampled is not None and self.draw is not None:
            return {"draws": self.draw}  # own draws were trained in their own orders
        parts = {"order": self.order} if self.order is not None else {}
        if row.sampled is not None and self.noise is not None and self.noise.draw_freedom:
            variance = self.noise.draw_variance(row.sampled)
            parts["draw"] = (variance, self.noise.draw_freedom)
        return parts


def seed_spread(rows: Sequence[Row], metric: str) -> SeedSpread | None:
    """Pooled over the rows with several seeds and what the rule book knows; None: neither."""
    noise = _noise(rows[0], metric)
    total, freedom = 0.0, 0
    if noise is not None:
        total, freedom = noise.seed_sd**2 * noise.seed_freedom, noise.seed_freedom
    for row in rows:
        values = row.figures[metric].values
        if len(values) > 1:
            total += variance_of(values) * (len(values) - 1)
            freedom += len(values) - 1
    if not freedom:
        return None
    known = noise is not None and noise.order_freedom > 0
    order = (noise.order_sd**2, noise.order_freedom) if noise is not None and known else None
    return SeedSpread(total / freedom, freedom, order, _drawn(rows, metric), noise)


def _noise(row: Row, metric: str) -> Noise | None:
    try:
        return rules.load_benchmark(row.benchmark).scale(row.scale).noise_of(metric)
    except RuleError:
        return None


def _drawn(rows: Sequence[Row], metric: str) -> tuple[float, int] | None:
    """The variance between draws of one sampled method, pooled over the families that have some."""
    families: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.sampled is not None and row.kind == "submission":
            family = families.setdefault((row.team, row.family), {})
            family.setdefault(row.dataset_id, row.figures[metric].value)
    total, freedom = 0.0, 0
    for family in families.values():
        if len(family) > 1:
            total += variance_of(list(family.values())) * (len(family) - 1)
            freedom += len(family) - 1
    return (total / freedom, freedom) if freedom else None


def variance_of(values: Sequence[float]) -> float:
    """The variance of at least two values, from their own mean."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
