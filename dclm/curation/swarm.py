"""Proxy runs over mixtures: draw shares, mix, pack, train and measure with a scale's recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evals.reports import open_run
from evals.suite import load_suite
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.workspace import Curated, Round
from pipelines.errors import DataError
from pipelines.formats.mix import write_mix
from pipelines.formats.mix_shares import Counted, Unit, decide
from pipelines.formats.mixture import Mixture
from pipelines.mixing import regression
from pipelines.mixing.shares import most_shares
from pipelines.mixing.swarm import draw, read_runs, write_runs
from pipelines.records import Frozen, digest

Floats = npt.NDArray[np.float64]
ANY_REPEAT = 1e9  # a proxy run is so short that what it repeats says nothing of the target's


class Swarm(Frozen):
    """Measured proxy runs."""

    metric: str
    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]


class BestMix(Frozen):
    """The optimum of a fit, and what it is compared with."""

    names: tuple[str, ...]
    tokens: tuple[float, ...]
    shares: tuple[float, ...]
    repeats: tuple[float, ...]
    fit: regression.Fit
    predicted: float
    best_measured: float
    first_measured: float


def bounds(mixture: Mixture, units: Sequence[Unit]) -> Floats:
    """The greatest share of each source in the target's tokens. DataError without a target."""
    if mixture.total_tokens is None:
        raise DataError("the mixture has no total_tokens: bounds on repetition need the target")
    tokens = np.array([unit.tokens for unit in units])
    return most_shares(tokens, mixture.total_tokens, mixture.max_repeat)


def prior_of(mixture: Mixture, units: Sequence[Unit]) -> Floats:
    """The shares that the mixture itself decides."""
    decided = np.array([unit.repeat * unit.tokens for unit in decide(mixture, units)])
    return np.asarray(decided / decided.sum())


def with_shares(
    mixture: Mixture, units: Sequence[Unit], shares: Sequence[float], **changes: object
) -> Mixture:
    """The mixture with these shares in place of whatever decided them."""
    plain = {"repeat": None, "share": None, "repeats": None, "shares": None}
    named = {unit.name: share for unit, share in zip(units, shares, strict=True)}
    sources = tuple(source.model_copy(update=plain) for source in mixture.sources)
    update = {"sources": sources, "shares": named, "temperature": None, **changes}
    return mixture.model_copy(update=update)


def run_swarm(
    current: Round,
    mixture: Mixture,
    counted: Sequence[Counted],
    units: Sequence[Unit],
    *,
    name: str,
    num_runs: int,
    seed: int,
    out: Path,
    where_to_train: Launch,
) -> Swarm:
    """Train and measure a model on each of the drawn mixtures; finished ones stay. Writes a CSV."""
    shares = draw(prior_of(mixture, units), bounds(mixture, units), num_runs, seed=seed)
    budget = current.stages.budget(current.recipe)
    arms = []
    for number, row in enumerate(shares.tolist()):
        proxy = with_shares(mixture, units, row, total_tokens=budget, max_repeat=ANY_REPEAT)
        decided = decide(proxy, units)
        method = f"{name}-proxy{number:03d}"
        key = digest([own.record.id for own in counted] + [u.model_dump() for u in decided])
        home = f"{current.home}/{method}-{key[:8]}"
        record = write_mix(proxy, counted, decided, name=method, out=f"{home}/dataset")
        arms.append(Curated(method=method, home=home, record=record))
    packed = [(curated, stages.pack(current, curated)) for curated in arms]
    seeds = list(current.recipe.seeds)[:1]
    run = launch.round_trainer(where_to_train, training.run_training)
    trained = training.train(current, packed, seeds=seeds, recipe=current.scale.recipe, run=run)
    folders = stages.evaluate(current, trained, spread=where_to_train.spread(current.map_tasks))
    suite = load_suite(stages.suite_name(current))
    assert suite.headline is not None
    sign = -1.0 if suite.higher_is_better else 1.0
    scores = [open_run(folder).record.results.aggregates[suite.headline] for folder in folders]
    losses = np.array([sign * score.value for score in scores])
    metric = f"minus_{suite.headline}" if suite.higher_is_better else suite.headline
    names = tuple(unit.name for unit in units)
    write_runs(out, names, shares, metric, losses)
    return Swarm(
        metric=metric,
        names=names,
        shares=tuple(tuple(row) for row in shares.tolist()),
        losses=tuple(losses.tolist()),
    )


def fit_swarm(
    mixture: Mixture,
    units: Sequence[Unit],
    runs: Path,
    *,
    metric: str | None,
    form: regression.Form | None,
) -> tuple[Mixture, BestMix]:
    """The mixture of the least predicted loss that repeats no source more than it may be."""
    measured = read_runs(runs, [unit.name for unit in units], metric)
    fitted = regression.fit(measured.shares, measured.losses, form=form)
    shares = regression.optimum(fitted, bounds(mixture, units))
    best = with_shares(mixture, units, [round(share, 9) for share in shares.tolist()])
    decided = decide(best, units)
    return best, BestMix(
        names=tuple(unit.name for unit in units),
        tokens=tuple(unit.tokens for unit in units),
        shares=tuple(shares.tolist()),
        repeats=tuple(unit.repeat for unit in decided),
        fit=fitted,
        predicted=float(fitted.predict(shares[None])[0]),
        best_measured=float(measured.losses.min()),
        first_measured=float(measured.losses[0]),
    )
