"""What a run will be able to show, printed before it: by `plan`, and by the round itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from leaderboard import rules
from pipelines.console import out, show_json
from pipelines.errors import RuleError
from pipelines.installed import folder

if TYPE_CHECKING:
    from leaderboard.board.power import Detection


def show_power(
    benchmark: str,
    scale: str,
    *,
    detect: float | None,
    budget: str | None,
    json: bool,
    workspace: str = "runs",
) -> None:
    """Print the seeds for a gap, or the smallest gap that a budget of seeds can see.

    RuleError for both at once, a budget that is no number of seeds, and where no noise is known.
    """
    if detect is not None and budget is not None:
        raise RuleError("--detect asks for seeds and --budget for a gap: name one of them")
    power = power_before(
        benchmark, scale, detect=detect, seeds=seeds_of_budget(budget), workspace=workspace
    )
    if power is None:
        metric = headline_of(benchmark, scale)
        raise RuleError(
            f"the noise of {metric} at {benchmark} {scale} is not known; measure it with: "
            f"{benchmark} noise --scale {scale}"
        )
    if json:
        show_json(power.model_dump() | {"line": power.line})
    else:
        out(power.line)


def seeds_of_budget(budget: str | None) -> int | None:
    """The seeds of a budget such as `3 seeds` or `3`. RuleError for anything else."""
    if budget is None:
        return None
    match = re.fullmatch(r"\s*([1-9][0-9]{0,4})\s*(seeds?)?\s*", budget)
    if match is None:
        raise RuleError(f"--budget {budget!r}: expected a number of seeds, as `3 seeds`")
    return int(match[1])


def headline_of(benchmark: str, scale: str) -> str:
    """The metric that ranks at a scale."""
    from evals.suite import load_suite

    rung = rules.load_benchmark(benchmark).scale(scale)
    return load_suite(folder(benchmark) / "suites" / f"{rung.suite}.yaml").headline


def power_before(
    benchmark: str,
    scale: str,
    *,
    detect: float | None = None,
    seeds: int | None = None,
    workspace: str = "runs",
) -> Detection | None:
    """What runs at a scale can show; None where the noise of its headline was not measured.

    The rule book's noise goes first, since the board judges by it; then what `noise` measured in
    the workspace; then a published figure.

    With both, the number of seeds that the gap takes is printed; the reader compares.
    """
    from leaderboard.board.power import detection
    from leaderboard.rounds.noise import own_noise

    if detect is not None and not detect > 0:
        raise RuleError(f"--detect {detect:g}: expected a gap above 0")
    rung = rules.load_benchmark(benchmark).scale(scale)
    metric = headline_of(benchmark, scale)
    own = own_noise(benchmark, scale, metric, workspace)
    if detect is not None:
        return detection(rung, metric, gap=detect, own=own)
    return detection(rung, metric, seeds=seeds or 1, own=own)
