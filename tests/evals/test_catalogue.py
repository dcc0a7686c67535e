from __future__ import annotations

from pathlib import Path

from evals.__main__ import app
from evals.catalogue import tasks_markdown
from evals.suite import suite_files
from evals.tasks import task_names

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_tasks_is_current():
    written = (DOCS / "tasks.md").read_text()
    assert written == tasks_markdown(), "run: python -m evals tasks --markdown > docs/tasks.md"


def test_every_task_and_every_suite_is_documented():
    page, guide = (DOCS / "tasks.md").read_text(), (DOCS / "evaluation.md").read_text()
    for name in task_names():
        assert f"### {name}\n" in page
    for name in suite_files():
        assert f"`{name}`" in guide


def test_every_command_is_in_the_guide():
    guide = (DOCS / "evaluation.md").read_text()
    for command in app.registered_commands:
        assert f"evals {command.name}" in guide
