from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from leaderboard.rounds.recipe_file import read_recipe


class Small(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scale: str
    steps: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text("scale: tiny\nsteps: 3\n")
    (tmp_path / "medium.yaml").write_text("scale: medium\nsteps: 4\n")
    return tmp_path


def test_reads_by_the_name_of_a_scale_and_by_path(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text("scale: tiny\nsteps: 9\n")
    assert read_recipe(Small, "tiny", folder=folder).steps == 3
    assert read_recipe(Small, own, folder=folder).steps == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale: a\nsteps: many\n", "own.yaml: steps: "),
        ("scale: a\nsteps: 1\nsetps: 2\n", "own.yaml: setps: "),
        ("scale: a\nscale: b\nsteps: 1\n", "own.yaml is not YAML: .*'scale' is there twice"),
        ("scale: [a\n", "own.yaml is not YAML: "),
        ("- 1\n", "own.yaml: recipe: "),
    ],
)
def test_says_where_a_file_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(Small, file, folder=tmp_path)


@pytest.mark.parametrize("name", ["small", "small.yaml"])
def test_lists_the_known_ones_for_a_name_without_a_file(folder: Path, name: str) -> None:
    expected = f"there is no recipe '{name}'; expected one of medium, tiny, or the path"
    with pytest.raises(ValueError, match=expected):
        read_recipe(Small, name, folder=folder)
