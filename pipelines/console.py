"""What all command lines share: exit codes, one clear line for a known error, `--json`.

Exit codes: 0 done, 1 the run failed, 2 usage, 3 bad data or a broken rule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Annotated, Any, NoReturn

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console

from pipelines.errors import BAD_DATA, USAGE, PlatformError
from pipelines.records import JSON

AssetFolders = Annotated[
    list[str] | None, typer.Option("--assets", help="A folder with assets; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
Workers = Annotated[int, typer.Option(help="Processes on this machine.", min=1)]

DISTRIBUTION = "curation-bench"


def main(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; a known error becomes one line on standard error and its exit code."""
    if app.registered_callback is None:
        app.callback(help=app.info.help, context_settings={"help_option_names": ["-h", "--help"]})(
            _common
        )
    try:
        app(
            args=_endpoint_first(arguments)
        )  # prints usage errors itself, and always ends by SystemExit
    except Exception as error:
        known = exit_code(error)
        if known is None:
            raise  # a mistake of ours: show where
        fail(str(error), known)
    raise AssertionError("a command line ends by SystemExit")


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{DISTRIBUTION} {installed_version(DISTRIBUTION)}\n")
        raise typer.Exit


def _common(
    endpoint_url: Annotated[
        str | None,
        typer.Option(help="Another S3 server for s3:// names; allowed anywhere in a command."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    if endpoint_url is not None:
        os.environ["AWS_ENDPOINT_URL"] = endpoint_url  # workers take it over


def _endpoint_first(arguments: Sequence[str] | None) -> list[str]:
    """The arguments with `--endpoint-url` before the command, where it is declared."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for position, argument in enumerate(given):
        if argument == "--endpoint-url" and position + 1 < len(given):
            return [*given[position : position + 2], *given[:position], *given[position + 2 :]]
        if argument.startswith("--endpoint-url="):
            return [argument, *given[:position], *given[position + 1 :]]
    return given


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that a person can act on, else None."""
    if isinstance(error, PlatformError):
        return error.exit_code
    if isinstance(error, FileNotFoundError):
        return USAGE
    if isinstance(error, ValueError):
        return BAD_DATA
    return None


def fail(message: str, code: int) -> NoReturn:
    """Print one error line and stop."""
    Console(stderr=True, highlight=False).print(
        f"error: {message}", soft_wrap=True, markup=False, style="red"
    )
    sys.exit(code)


def show_json(value: JSON) -> None:
    """Print a value as indented JSON on standard output."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(value, default=_dumped, option=options).decode())


def _dumped(value: Any) -> JSON:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be shown as JSON")


def out(text: str = "") -> None:
    """Print a result for a person."""
    sys.stdout.write(text + "\n")


def table(rows: Sequence[Sequence[object]], *, header: Sequence[str]) -> str:
    """Rows as aligned columns: numbers to the right, words to the left."""
    shown = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *shown]) for i in range(len(header))]
    right = [
        all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(header)), line(["-" * w for w in widths]), *map(line, shown)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
