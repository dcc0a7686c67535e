"""Names of a round's entries, checked as the validator will check them: before hours are spent."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard import rules
from leaderboard.submissions.names import MAX, looks_like, mixed_alphabets, name_fault
from pipelines.errors import RuleError
from pipelines.pipeline import Pipeline


def check_names(
    benchmark: str, pipelines: Sequence[Pipeline], *, method: str | None, team: str
) -> None:
    """RuleError for a name that the board will refuse, and for two entries of one name.

    `method` names the only pipeline; without it each has its own name. Whether a team's name looks
    like another team's is known to the board alone.
    """
    problem = name_fault(team) or mixed_alphabets(team)
    if problem or len(team) > MAX["team"]:
        problem = problem or f"at most {MAX['team']} characters"
        raise RuleError(f"--team {team!r}: the board expects {problem}")
    names = [pipeline.name for pipeline in pipelines] if method is None else [method]
    for name, pipeline in zip(names, pipelines, strict=True):
        _check_method(benchmark, name, pipeline)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RuleError(f"two of the pipelines are called {twice!r}; give each a name of its own")


def _check_method(benchmark: str, name: str, pipeline: Pipeline) -> None:
    baselines = rules.baselines(benchmark)
    problem = name_fault(name) if name.strip() else "a name"
    if problem is None and len(name) > MAX["method"]:
        problem = f"at most {MAX['method']} characters"
    twin = None if problem else looks_like(name, iter(baselines))
    if twin is not None:
        problem = f"a name that does not look like the baseline's {twin!r}"
    if problem is None and name in baselines:
        if not rules.is_baseline(benchmark, name, pipeline.spec()):
            problem = "a name of your own: this is a baseline's, and the pipeline is another"
    if problem is None and name not in baselines:
        problem = mixed_alphabets(name)
    if problem is not None:
        raise RuleError(f"the method {name!r}: the board expects {problem}; see --method")
