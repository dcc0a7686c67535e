"""The list of all tasks as a page of documentation."""

from __future__ import annotations

from evals.suite import load_suite, suite_files
from evals.tasks import Task, load_task, shots_of, task_names

HEADER = """# Tasks

This page is made from the files in `evals/tasks/` by `python -m evals tasks --markdown`; edit
those. Random baselines are given as version 1 / version 2 where they differ. "Checked" means that
the checksum of the reference's file is known: scores on other bytes are marked unverified.
"""


def tasks_markdown() -> str:
    """The page `docs/tasks.md`."""
    suites = {name: load_suite(path).tasks for name, path in suite_files().items()}
    tasks = [load_task(name) for name in task_names()]
    parts = [HEADER]
    for category in sorted({task.category for task in tasks}):
        parts.append(f"## {category[0].upper()}{category[1:]}\n")
        for task in tasks:
            if task.category == category:
                inside = [name for name, members in suites.items() if task.name in members]
                parts.append(_section(task, inside))
    return "\n".join(parts).rstrip() + "\n"


def _section(task: Task, suites: list[str]) -> str:
    facts = [
        ("kind", task.kind.replace("_", " ")),
        ("metric", task.metric + ("" if task.higher_is_better else ", lower is better")),
        ("shots", str(shots_of(task))),
        ("random baseline", _baselines(task)),
        ("rows", f"{task.rows:,}" if task.rows else "as built"),
        ("file", f"`{task.file}`" + (" (checked)" if task.sha256 else "")),
        ("licence", task.licence),
        ("suites", ", ".join(suites) or "none"),
    ]
    lines = [f"### {task.name}", "", task.description, ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    return "\n".join([*lines, ""])


def _baselines(task: Task) -> str:
    first, second = task.random_baseline.v1, task.random_baseline.v2
    return f"{first:g}" if first == second else f"{first:g} / {second:g}"
