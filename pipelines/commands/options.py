"""What several commands take: a pipeline's file, and a source in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="A pipeline's YAML file.")]
Source = Annotated[
    str | None, typer.Option("--source", help="Which source of a DCLM file with several.")
]
