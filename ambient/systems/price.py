"""The worth of a noisy image in clean ones: an exact toy problem, and a law fitted to runs.

`mode_errors` estimates a mixture's means from clean and noisy draws of a known distribution: the
worth of a noisy draw is the number of clean draws that would give the same error. `fit` fits
distances of models trained on pools of n_c clean and n_n noisy images with

    FD = floor + scale (n_c + k n_n)^(-power),      k = worth / (1 + (few / n_c)^steepness),

one `worth` per noise level; 1 / k is the price of a clean image in noisy ones. With few clean
images noisy ones are worth less, because the clean ones show where the modes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from pipelines.errors import DataError
from pipelines.records import Frozen

Floats = npt.NDArray[np.float64]


def mode_errors(
    num_clean: int,
    num_noisy: int,
    level: float,
    *,
    tau: float = 0.25,
    modes: int = 4,
    repeats: int = 96,
    rounds: int = 200,
    seed: int = 0,
) -> Floats:
    """Mean squared error of each repeat's mode means, by EM from the true means; (repeats,).

    Each draw has the known variance tau^2 + its level^2; the M step weights by the inverse. Calls
    with one seed share modes and noise, so that ratios of their errors vary little.
    """
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(modes) / modes
    truth = np.stack([np.cos(angles), np.sin(angles)], 1)
    levels = np.r_[np.zeros(num_clean), np.full(num_noisy, level)]
    variance = (tau**2 + levels**2)[:, None]
    errors = []
    for _ in range(repeats):
        which = rng.integers(modes, size=MOST_DRAWS)[: len(levels)]
        noise = rng.standard_normal((MOST_DRAWS, 2))[: len(levels)]
        points = truth[which] + np.sqrt(variance) * noise
        means = truth.copy()
        for _ in range(rounds):
            # -|p - m|^2 / 2 without |p|^2, which is the same for every mode
            logits = (points @ means.T - (means**2).sum(1) / 2) / variance
            part = np.exp(logits - logits.max(1, keepdims=True))
            part /= part.sum(1, keepdims=True) * variance
            moved = (part.T @ points) / part.sum(0)[:, None]
            done = np.abs(moved - means).max() < 1e-5
            means = moved
            if done:
                break
        errors.append(((means - truth) ** 2).sum(1).mean())
    return np.array(errors)


MOST_DRAWS = 4000  # always drawn, so that a smaller sample is the beginning of a larger one


def worths(
    level: float, *, number: int = 1000, clean_share: float = 0.1, seed: int = 0
) -> dict[str, float]:
    """Worth of a noisy draw, alone and mixed with clean ones, from errors that fall as 1 / n."""
    clean = round(number * clean_share)
    unit = mode_errors(number, 0, level, seed=seed).mean() * number  # error of one clean draw
    alone = mode_errors(0, number, level, seed=seed).mean()
    mixed = mode_errors(clean, number - clean, level, seed=seed).mean()
    clean_only = mode_errors(clean, 0, level, seed=seed).mean()
    return {
        "alone": unit / alone / number,
        "mixed": (unit / mixed - unit / clean_only) / (number - clean),
        "error_alone": alone,
        "error_mixed": mixed,
        "error_clean_only": clean_only,
    }


class Run(Frozen):
    """One trained model: the size and noise level of its pool, and its Frechet distance."""

    num_clean: int
    num_noisy: int
    level: float
    seed: int
    distance: float


@dataclass(frozen=True)
class Law:
    """The fitted law; `worth` by noise level."""

    floor: float
    scale: float
    power: float
    worth: dict[float, float]
    few: float
    steepness: float

    def worth_at(self, level: float, num_clean: float) -> float:
        """Clean images that one noisy image of this level is worth."""
        if level == 0:
            return 1.0
        return self.worth[level] / (1 + (self.few / max(num_clean, 1)) ** self.steepness)

    def distance(self, num_clean: float, num_noisy: float, level: float) -> float:
        """The Frechet distance that the law predicts for a model trained on this pool."""
        images = num_clean + self.worth_at(level, num_clean) * num_noisy
        return self.floor + self.scale * max(images, 1e-9) ** -self.power


def fit(runs: Sequence[Run]) -> Law:
    """Fit the law by least squares on log distances.

    ValueError when there are fewer runs than parameters.
    """
    from scipy.optimize import least_squares

    levels = sorted({run.level for run in runs if run.num_noisy})
    if len(runs) < 5 + len(levels):
        raise ValueError(
            f"{len(runs)} runs for {5 + len(levels)} parameters of the law; run more seeds or sizes"
        )
    measured = np.log([run.distance for run in runs])
    lowest, most = np.exp(measured.min()), max(run.num_clean + run.num_noisy for run in runs)

    def law(values: Floats) -> Law:
        floor, scale, power, few, steepness = np.exp(values[:5])
        # A noisy image is never worth more than a clean one: a logistic keeps it in (0, 1).
        worth = 1 / (1 + np.exp(-values[5:]))
        named = dict(zip(levels, worth.tolist(), strict=True))
        return Law(float(floor), float(scale), float(power), named, float(few), float(steepness))

    def gaps(values: Floats) -> Floats:
        current = law(values)
        expected = [current.distance(run.num_clean, run.num_noisy, run.level) for run in runs]
        # A weak prior bounds parameters that the runs leave open (a floor far below all of them).
        weak = 0.01 * (values[:5] - first[:5])
        return np.concatenate([np.log(expected) - measured, weak])

    first = np.r_[np.log([lowest / 2, lowest * 10, 0.5, most / 100, 1.0]), np.zeros(len(levels))]
    solution = least_squares(gaps, first, method="trf", bounds=(first - 12, first + 12))
    return law(np.asarray(solution.x))


def bootstrap(runs: Sequence[Run], *, draws: int = 200, seed: int = 0) -> list[Law]:
    """The laws fitted to resamples of the seeds; runs of one seed stay together."""
    rng = np.random.default_rng(seed)
    seeds = sorted({run.seed for run in runs})
    laws = []
    for _ in range(draws):
        picked = rng.choice(seeds, len(seeds))
        laws.append(fit([run for seed in picked for run in runs if run.seed == seed]))
    return laws


# ---- the report of a grid of runs


class Worth(Frozen):
    """How many clean images a noisy one of a level is worth when clean ones are many."""

    level: float
    worth: float
    low: float
    high: float

    @property
    def price(self) -> float:
        return 1 / self.worth


class Report(Frozen):
    """A fitted law: worths with 95% intervals over seeds, and its error at the largest size."""

    worths: tuple[Worth, ...]
    floor: float
    scale: float
    power: float
    few: float
    steepness: float
    held_out_error: float | None
    runs: tuple[Run, ...]


def read_runs(path: Path) -> list[Run]:
    """Runs from a .jsonl file. DataError names a line that is not a run."""
    runs = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            runs.append(Run.model_validate(orjson.loads(line)))
        except ValueError as error:
            text = str(error).splitlines()[0]
            raise DataError(f"{path}, line {number}: not a run: {text}") from None
    return runs


def report(runs: Sequence[Run], *, draws: int = 100) -> Report:
    """Fit the law, with intervals by resampling seeds, and predict the largest size from the rest.

    `held_out_error` is the mean of |predicted / measured - 1| over runs of the largest size; None
    when the other runs are too few to fit. ValueError when all runs are.
    """
    law = fit(runs)
    laws = bootstrap(runs, draws=draws) if len({run.seed for run in runs}) > 1 else [law]
    sizes = sorted({run.num_clean + run.num_noisy for run in runs})
    rest = [run for run in runs if run.num_clean + run.num_noisy < sizes[-1]]
    largest = [run for run in runs if run.num_clean + run.num_noisy == sizes[-1]]
    error = None
    if {run.level for run in largest} <= {run.level for run in rest} and len(rest) >= 5 + len(
        law.worth
    ):
        other = fit(rest)
        gaps = [
            abs(other.distance(run.num_clean, run.num_noisy, run.level) / run.distance - 1)
            for run in largest
        ]
        error = float(np.mean(gaps))
    worths = []
    for level, worth in law.worth.items():
        low, high = np.percentile([fitted.worth[level] for fitted in laws], [2.5, 97.5])
        worths.append(Worth(level=level, worth=worth, low=float(low), high=float(high)))
    return Report(
        worths=tuple(worths),
        floor=law.floor,
        scale=law.scale,
        power=law.power,
        few=law.few,
        steepness=law.steepness,
        held_out_error=error,
        runs=tuple(runs),
    )


def draw(fitted: Report, path: Path) -> None:
    """Write an SVG: measured distances over the worth of each pool in clean images, and the law."""
    from matplotlib.figure import Figure

    worth = {entry.level: entry.worth for entry in fitted.worths}
    law = Law(fitted.floor, fitted.scale, fitted.power, worth, fitted.few, fitted.steepness)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for level in sorted({run.level for run in fitted.runs}):
        chosen = [run for run in fitted.runs if run.level == level]
        worths = [r.num_clean + law.worth_at(level, r.num_clean) * r.num_noisy for r in chosen]
        axes.loglog(worths, [r.distance for r in chosen], "o", ms=4, label=f"level {level:g}")
    low, high = axes.get_xlim()
    line = np.geomspace(low, high, 60)
    axes.loglog(line, law.floor + law.scale * line**-law.power, "k-", lw=1, label="law")
    axes.set_xlabel("worth of the pool, in clean images")
    axes.set_ylabel("Frechet distance")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
