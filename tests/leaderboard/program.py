"""A program that takes part: propose, run, read the score, decide, all of it JSON.

`play` is the whole loop for any benchmark, through its own commands in this process; its second
round is ended before the evaluation and run again. `behaviour/test_program` does the same with
processes that are killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.rounds import round as stages
from leaderboard.rounds.commands import command_line
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.validate import check_bundle

Proposal = tuple[str, list[dict[str, Any]]]
INTERRUPTED = 130  # the exit code of a command that was ended by Ctrl-C


@contextmanager
def installed(recipe: Any, folder: Path, content: dict[str, Any]) -> Iterator[None]:
    """A recipe in place of the tiny one of the rule book; `recipe` is a benchmark's module."""
    recipes = folder / "recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "RECIPES", recipes)
        recipe.load_recipe.cache_clear()
        yield
    recipe.load_recipe.cache_clear()


class Program:
    """What an agent has: commands that print JSON, and no memory of its own."""

    def __init__(self, benchmark: str, workspace: Path) -> None:
        self.benchmark, self.workspace = benchmark, workspace

    def invoke(self, of: Any, *arguments: str) -> Any:
        options = ("--workspace", str(self.workspace), "--json")
        return CliRunner().invoke(of, [*arguments, *options], catch_exceptions=False)

    def command(self, of: Any, *arguments: str) -> Any:
        result = self.invoke(of, *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def notebook(self, *note: str) -> Any:
        return self.command(app, "notebook", self.benchmark, "tiny", *note)

    def propose(self, name: str, steps: list[dict[str, Any]]) -> str:
        path = self.workspace / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "steps": steps}))
        return str(path)

    def round(self, pipeline: str) -> tuple[Any, ...]:
        where = ("--scale", "tiny", "--workers", "1", "--gpus", "0", "--team", "program")
        return (command_line(self.benchmark), "run", "--pipeline", pipeline, *where)

    def run(self, pipeline: str) -> Any:
        """The board's rows after a round."""
        return self.command(*self.round(pipeline))

    def interrupted(self, pipeline: str) -> None:
        """A round that is ended after its model was trained, before it was evaluated."""

        def ended(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "evaluate", ended)
            assert self.invoke(*self.round(pipeline)).exit_code == INTERRUPTED


def play(benchmark: str, workspace: Path, proposals: Sequence[Proposal]) -> None:
    """Two proposals: what is read is what was scored, and the notebook has every line of it."""
    program = Program(benchmark, workspace)
    values: dict[str, float] = {}
    better = max
    for number, (name, steps) in enumerate(proposals, 1):
        pipeline = program.propose(name, steps)
        if number == 2:
            program.interrupted(pipeline)
        [row] = [row for row in program.run(pipeline) if row["method"] == name]
        values[name] = row["headline"]["value"]
        better = max if row["headline"]["higher_is_better"] else min
        assert row["tries"] == number
        kept = better(values, key=lambda tried: values[tried])
        program.notebook("--note", f"keep {kept}")
    notebook = program.notebook()
    assert notebook["tries"] == 2
    lines = notebook["lines"]
    states = [line["state"] for line in lines]
    assert states == ["started", "scored", "note", "started", "failed", "started", "scored", "note"]
    assert {line["method"]: line["value"] for line in lines if line["state"] == "scored"} == values
    assert lines[4]["text"].startswith("KeyboardInterrupt")
    assert lines[-1]["text"] == f"keep {better(values, key=lambda tried: values[tried])}"
    folders = list((workspace / "submissions").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert check_bundle(open_bundle(folder)).faults == ()
