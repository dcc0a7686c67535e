"""What the words on the pages mean, from the rule books, the suites and the task files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from evals.suite import load_suite
from evals.tasks import Task, shots_of
from leaderboard import rules
from leaderboard.published.literature import Section, literatures
from leaderboard.rules import Benchmark
from pipelines import installed
from pipelines.errors import RuleError
from pipelines.records import Frozen


class Topic(Frozen):
    """One page of help."""

    title: str
    summary: str
    sections: tuple[Section, ...]


@cache
def topics() -> dict[str, Topic]:
    """All pages of help by name."""
    pages = {"reading": _reading(), "scores": _scores()}
    for name in sorted(installed.packages()):
        try:
            book = rules.load_benchmark(name)
        except (RuleError, OSError):
            continue
        pages[name] = _benchmark(book)
        pages[f"{name}-tasks"] = _tasks(book)
    return pages


def _reading() -> Topic:
    return Topic(
        title="How to read a board",
        summary="Ranks, ties, intervals, baselines, badges.",
        sections=(
            Section(
                title="What is compared",
                text="Rows share a table only when benchmark, scale, track, pool, suite "
                "version and evaluation data are the same. Model, training and evaluation are "
                "held still, so a difference is about the data.",
            ),
            Section(
                title="Errors and ties",
                text="A score is the mean over training seeds. Its standard error has two parts: "
                "the variance between seeds, and the questions that happened to be asked, from "
                "1,000 resamples of them. Two rows are a tie when the 95% interval of their "
                "difference contains zero. All models answer the same questions, so the "
                "interval is paired over questions, and over seeds where both have the same. "
                "With one seed the variance between training runs is unknown and not in the "
                "interval.",
            ),
            Section(
                title="Better than no_filter",
                text="The difference to the best row whose method is named no_filter, which trains "
                "on the same pool as it is. Positive is better, whichever way the score points.",
            ),
            Section(
                title="Badges",
                header=("badge", "meaning"),
                rows=(
                    (
                        "recheck: sampled",
                        "a maintainer computed all scores again",
                    ),
                    (
                        "recheck: full",
                        "a maintainer evaluated the checkpoint again, or checked the "
                        "whole list of uids against the pool",
                    ),
                    ("checkpoint public", "the trained models can be downloaded"),
                    ("dataset public", "the curated dataset can be downloaded"),
                    ("imported", "a published result: figures only, not rechecked"),
                    ("reference", "a figure printed in a paper or a README"),
                ),
            ),
            Section(
                title="The way of a submission",
                text="received, then checking: the service computes every score again from the "
                "questions and walks the chain of records back to the pool. Then needs review: a "
                "maintainer looks. Then accepted or refused; a team may withdraw its own at any "
                "time. Each change is kept, with who and why.",
            ),
        ),
    )


def _scores() -> Topic:
    known = literatures().values()
    return Topic(
        title="Scores and their versions",
        summary="Centered accuracy, the benchmarks' headlines and their versions, bits per byte.",
        sections=(
            Section(
                title="Centered accuracy",
                text="(accuracy - guessing) / (1 - guessing): 0 is what guessing scores, 1 is "
                "perfect, below 0 is worse than guessing. (Li et al. 2024)",
            ),
            *(section for literature in known for section in literature.glossary()),
            Section(
                title="Bits per byte",
                text="How many bits a model needs for one byte of held-out text; lower is better. "
                "It does not depend on the tokenizer.",
            ),
        ),
    )


def _benchmark(book: Benchmark) -> Topic:
    return Topic(
        title=book.title,
        summary="Tracks, scales and what they fix.",
        sections=(
            Section(title="The question", text=book.description),
            Section(
                title="Tracks",
                header=("track", "what may be touched"),
                rows=tuple((track.name, track.description) for track in book.tracks),
            ),
            Section(
                title="Scales",
                text=f"Every model of a scale sees the same number of {book.budget_unit} under one "
                "frozen recipe.",
                header=("scale", "recipe", "suite", "ranked", "note"),
                rows=tuple(
                    (
                        scale.name,
                        scale.recipe,
                        f"{scale.suite} {scale.suite_version}",
                        "yes" if scale.ranked else "no",
                        scale.note,
                    )
                    for scale in book.scales
                ),
            ),
            *_suites(book),
        ),
    )


def _suites(book: Benchmark) -> Iterator[Section]:
    for path in _suite_files(book):
        suite = load_suite(path)
        yield Section(
            title=f"Suite {suite.name}, version {suite.version}",
            text=f"{suite.description} Tasks: {', '.join(suite.tasks)}.",
            header=("figure", "how", "over"),
            rows=tuple(
                (
                    aggregate.name + (" (headline)" if aggregate.name == suite.headline else ""),
                    aggregate.how.replace("_", " "),
                    f"{len(suite.members(aggregate))} tasks",
                )
                for aggregate in suite.aggregates
            ),
        )


def _suite_files(book: Benchmark) -> list[Path]:
    return sorted((installed.folder(book.name) / "suites").glob("*.yaml"))


def _tasks(book: Benchmark) -> Topic:
    tasks: dict[str, Task] = {}
    for path in _suite_files(book):
        tasks |= {task.name: task for task in load_suite(path).load_tasks()}
    by_category: dict[str, list[Task]] = {}
    for task in tasks.values():
        by_category.setdefault(task.category, []).append(task)
    return Topic(
        title=f"Tasks of {book.title}",
        summary=f"What each of {len(tasks)} tasks asks.",
        sections=tuple(
            Section(
                title=category[:1].upper() + category[1:],
                header=("task", "what it asks", "metric", "shots", "guessing", "questions"),
                rows=tuple(_task(task) for task in members),
            )
            for category, members in sorted(by_category.items())
        ),
    )


def _task(task: Task) -> tuple[str, ...]:
    first, second = task.random_baseline.v1, task.random_baseline.v2
    guessing = f"{first:g}" if first == second else f"{first:g} / {second:g}"
    metric = task.metric + ("" if task.higher_is_better else ", lower is better")
    rows = f"{task.rows:,}" if task.rows else "as built"
    return (task.name, task.description, metric, str(shots_of(task)), guessing, rows)
