"""What would fail at a round's end, checked before hours are spent: names, evaluation data."""

from __future__ import annotations

from collections.abc import Sequence

from evals.kinds import has_data
from evals.suite import load_suite
from leaderboard import rules
from leaderboard.rules import Benchmark
from leaderboard.submissions.names import MAX, looks_like, mixed_alphabets, name_fault
from pipelines import installed
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
    if problem is None and name not in baselines:
        problem = mixed_alphabets(name)
    elif problem is None and not rules.is_baseline(benchmark, name, pipeline.spec()):
        problem = "a name of your own: this is a baseline's, and the pipeline is another"
    if problem is not None:
        raise RuleError(f"the method {name!r}: the board expects {problem}; see --method")


def check_track(benchmark: Benchmark, scale: str, track: str) -> None:
    """RuleError for a track that the scale does not have, or that a round cannot play whole."""
    rule, here = benchmark.track(track), benchmark.tracks_of(scale)
    if track not in here:
        raise RuleError(f"scale {scale} has no track {track!r}; its tracks are {', '.join(here)}")
    if rule.speedrun:
        raise RuleError(
            f"track {track}: its models are measured on the way; run `{benchmark.name} speedrun "
            "--submit`"
        )
    if rule.settings:
        raise RuleError(
            f"track {track}: the {', '.join(rule.settings)} is yours, and `run` has none; run the "
            f"baseline {rule.pipeline!r} on another track, then evaluate its model with a command "
            f"of `{benchmark.name} --help` and submit the scores"
        )


def check_eval_data(benchmark: str, suite: str, folder: str, *, built: bool) -> None:
    """RuleError where a folder lacks the data of tasks that the suite asks for.

    With `built`, also of those that a pool builds. Nothing in a bucket or on the hub is looked for,
    and the bytes are checked when they are read.
    """
    loaded = load_suite(installed.folder(benchmark) / "suites" / f"{suite}.yaml")
    absent = [
        task.name
        for task in loaded.load_tasks()
        if (built or not task.built)
        and task.name not in loaded.optional
        and not has_data(task, folder)
    ]
    if absent:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise RuleError(
            f"{folder} lacks the data of {len(absent)} tasks of suite {loaded.name} ({shown}); "
            "bring it there (`evals fetch`), or name another folder with --data"
        )
