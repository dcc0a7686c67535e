"""A swarm of proxy mixtures, around a prior and over the whole simplex, kept as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.mixing.shares import capped, on_capped_simplex

Floats = npt.NDArray[np.float64]
PROXY = "proxy"


class Runs(NamedTuple):
    """Proxy runs: the names of the sources, shares (runs, sources), and what was measured."""

    names: list[str]
    shares: Floats
    losses: Floats


def draw(prior: Floats, most: Floats, num_runs: int, *, seed: int) -> Floats:
    """Shares (runs, sources) within their bounds; the first run is the prior.

    Every second run is drawn around the prior (Dirichlet, its strength between 1 and 64 a source,
    as Liu et al. 2024, RegMix, vary theirs), every other one over the whole simplex, so that small
    sources are seen at large shares too.
    """
    rng = np.random.default_rng(seed)
    first = capped(prior, most)
    rows = [first]
    for number in range(1, num_runs):
        if number % 2:
            strength = np.exp(rng.uniform(0, np.log(64))) * len(prior)
            drawn = rng.dirichlet(np.maximum(first * strength, 1e-3))
        else:
            drawn = rng.dirichlet(np.ones(len(prior)))
        rows.append(on_capped_simplex(drawn, most))
    return np.array(rows)


def write_runs(
    path: Path, names: Sequence[str], shares: Floats, metric: str, losses: Floats
) -> None:
    """Write proxy runs as CSV: a column for each source, and one for what was measured."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([PROXY, *names, metric])
        for number, (row, loss) in enumerate(zip(shares.tolist(), losses.tolist(), strict=True)):
            writer.writerow([number, *(f"{share:.9f}" for share in row), repr(loss)])


def read_runs(path: Path, names: Sequence[str], metric: str | None) -> Runs:
    """Proxy runs of these sources; `metric` is the last column where none is named.

    DataError for a column that is missing or no number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
        header = list(rows[0]) if rows else []
    missing = [name for name in (*names, *([metric] if metric else [])) if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; it has: {', '.join(header) or 'no rows'}"
        )
    measured = metric or header[-1]
    try:
        shares = np.array([[float(row[name]) for name in names] for row in rows])
        losses = np.array([float(row[measured]) for row in rows])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if not np.isfinite(losses).all():
        raise DataError(f"{path}: {measured} holds a value that is no number")
    return Runs(list(names), shares / shares.sum(axis=1, keepdims=True), losses)
