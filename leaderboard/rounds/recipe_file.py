"""Recipes from YAML: by the name of a scale, or experimental ones by path."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.yaml_text import load_yaml

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_recipe(kind: type[Recipe], name: str | Path, *, folder: Path) -> Recipe:
    """The recipe `name` of a folder of recipes, or the one in the YAML file of that path.

    ValueError lists the known recipes, or says where the file is wrong: its line for what is not
    YAML, its field for what the model refuses.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(
            f"there is no recipe {str(name)!r}; expected one of {known}, or the path of a YAML file"
        )
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "recipe"
        raise ValueError(f"{path}: {where}: {first['msg']}") from None
