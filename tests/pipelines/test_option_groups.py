from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from pipelines.option_groups import grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--width", min=1, help="In pixels.")]
    height: Annotated[int, typer.Option(min=1)] = 8


def command() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @grouped
    def draw(
        *,
        name: Annotated[str, typer.Argument(help="Of the image.")],
        size: Size,
        twice: bool = False,
    ) -> None:
        """Draw it."""
        typer.echo(f"{name} {size} {twice}")

    return app


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["a", "--width", "3"], "a Size(width=3, height=8) False\n"),
        (["a", "--width", "3", "--height", "2", "--twice"], "a Size(width=3, height=2) True\n"),
    ],
)
def test_fields_of_a_group_are_options_of_the_command(arguments: list[str], printed: str) -> None:
    result = CliRunner().invoke(command(), arguments)
    assert (result.exit_code, result.output) == (0, printed)


@pytest.mark.parametrize("arguments", [["a"], ["a", "--width", "0"]])
def test_a_group_keeps_what_is_required_and_its_bounds(arguments: list[str]) -> None:
    assert CliRunner().invoke(command(), arguments).exit_code == 2


def test_help_has_the_function_s_text_and_the_fields_help() -> None:
    text = CliRunner().invoke(command(), ["--help"]).output
    assert "Draw it." in text
    assert "In pixels." in text
