"""What all command lines share: exit codes, one clear line for an error, `--json`.

Exit codes: 0 done, 1 the run failed, 2 usage, 3 bad data or a broken rule. An error that nobody
foresaw ends in one line too: its traceback goes to a file that the line names.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console

from pipelines.ending import end_process
from pipelines.environment import ASSET_FOLDERS
from pipelines.errors import BAD_DATA, FAILED, USAGE, PlatformError

AssetFolders = Annotated[
    list[str] | None, typer.Option("--assets", help="A folder with assets; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
Cluster = Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")]
Workers = Annotated[int, typer.Option(help="Processes on this machine.", min=1)]
MaxFailedShards = Annotated[
    int, typer.Option(min=0, help="Shards that may fail while the others continue.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove the run in --out first; only its own files.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Predict survivors, bytes and time from a sample.")
]
Sample = Annotated[str, typer.Option(help="How much of the pool a dry run reads: 0.1% or 0.001.")]

DISTRIBUTION = "curation-bench"
COMMON = ("--endpoint-url", "--assets")


def main(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; a known error becomes one line on standard error and its exit code."""
    if app.registered_callback is None:
        app.callback(help=app.info.help, context_settings={"help_option_names": ["-h", "--help"]})(
            _common
        )
    call(typer.main.get_command(app), arguments)


def program(app: typer.Typer) -> NoReturn:
    """`main` as all that a process does.

    Where compiled code of an operator or a library ends the process, the lines of Python that
    called it are written to standard error: nobody else can say what happened.
    """
    with suppress(ValueError, OSError, io.UnsupportedOperation):  # a stream that is no file
        faulthandler.enable()
    code: object = 0
    try:
        main(app)
    except SystemExit as error:
        code = error.code
    end_process(code)


def call(command: Callable[..., Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """What `main` does with a command line that is built already."""
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not argument.isprintable() and argument != argument.encode(errors="ignore").decode():
            fail(f"the name {argument!r} is not UTF-8, as records need names to be: rename", USAGE)
    before = os.environ.get(ASSET_FOLDERS)
    try:
        command(
            args=_common_first(command, arguments)
        )  # prints usage errors itself, and always ends by SystemExit
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        known = exit_code(error)
        if known is None:
            fail(_unforeseen(error), FAILED)
        fail(message_of(error), known)
    finally:
        os.environ.pop(ASSET_FOLDERS, None)
        if before is not None:
            os.environ[ASSET_FOLDERS] = before
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
    assets: Annotated[
        list[str] | None,
        typer.Option(help="A folder with assets; allowed anywhere in a command."),
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
    if assets:
        os.environ[ASSET_FOLDERS] = os.pathsep.join(str(Path(name).resolve()) for name in assets)


def _common_first(command: Callable[..., Any], arguments: Sequence[str] | None) -> list[str]:
    """The arguments with the options of all commands before the command, where they are declared.

    A command that declares `--assets` itself keeps its own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = ["--endpoint-url"] if "--assets" in _options_of(command, given) else list(COMMON)
    first: list[str] = []
    rest: list[str] = []
    left = iter(given)
    for argument in left:
        if argument in names and (value := next(left, None)) is not None:
            first += [argument, value]
        elif argument.partition("=")[0] in names and "=" in argument:
            first.append(argument)
        else:
            rest.append(argument)
    return first + rest


def _options_of(command: Any, arguments: Sequence[str]) -> set[str]:
    """The options that the command which the arguments name declares."""
    for argument in arguments:
        known = getattr(command, "commands", {})
        if argument in known:
            command = known[argument]
    if hasattr(command, "commands"):
        return set()
    return {name for parameter in getattr(command, "params", ()) for name in parameter.opts}


DAMAGED = frozenset(
    (
        "BadZipFile",
        "EOFError",
        "LZMAError",
        "OverflowError",  # of dates and numbers beyond what Python has
        "ReadError",  # of tarfile
        "SafetensorError",
        "UnpicklingError",
        "YAMLError",
        "ZstdError",
        "error",  # of struct and zlib
    )
)
"""Errors of readers that only bad bytes raise, by class name: most need libraries to name them."""

OF_DATA = frozenset(("pyarrow", "sqlalchemy"))
"""Libraries whose own errors are of the data or the database that they were given."""


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that a person can act on, else None."""
    if isinstance(error, PlatformError):
        return error.exit_code
    if isinstance(error, OSError):
        return USAGE if isinstance(error, NAMED_WRONGLY) or error.errno in UNUSABLE else FAILED
    if isinstance(error, MemoryError):
        return FAILED
    if isinstance(error, ValueError) or _damaged(error):
        return BAD_DATA
    return None


def _damaged(error: BaseException) -> bool:
    """Whether a reader's own error says that bytes or types are not what they should be."""
    if isinstance(error, TypeError) and "surrogates not allowed" in str(error):
        return True  # of orjson: a name or a text that is not UTF-8
    kinds = type(error).__mro__
    return any(
        kind.__name__ in DAMAGED or kind.__module__.partition(".")[0] in OF_DATA for kind in kinds
    )


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAMED_WRONGLY = (
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError),
)
UNUSABLE = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def message_of(error: BaseException) -> str:
    """The text of an error in a line for a person: what, where, and what to do."""
    if isinstance(error, PlatformError):
        return str(error)
    if isinstance(error, ValidationError):
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_context=False)
        ]
        return f"{error.title}: {'; '.join(faults)}"
    if isinstance(error, MemoryError):
        return "memory ran out: give fewer workers, or smaller shards or batches"
    if isinstance(error, OSError) and error.filename is not None:
        return _of_file(error)
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space is left ({text}): free some, and give the same command again"
    if isinstance(error, FileNotFoundError) and text:
        return text  # ours: it says what is missing
    if isinstance(error, ValueError) and not _damaged(error):
        return text or type(error).__name__
    return f"the data cannot be read: {type(error).__name__}: {text}"


def _of_file(error: OSError) -> str:
    name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
    if isinstance(error, FileNotFoundError):
        return f"there is no {name}"
    if isinstance(error, FileExistsError):
        return f"{name} exists and is no folder; choose another name"
    if isinstance(error, PermissionError):
        return f"{name}: permission denied; ask its owner, or choose another"
    if isinstance(error, IsADirectoryError):
        return f"{name} is a folder; a file was expected"
    if isinstance(error, NotADirectoryError):
        return f"{name}: a part of this name is a file, not a folder"
    if error.errno == errno.EROFS:
        return f"{name} is on a disk that is read-only; choose a folder that can be written"
    if error.errno in NO_SPACE:
        return f"no space is left for {name}: free some, and give the same command again"
    return f"{name}: {error.strerror}"


def _unforeseen(error: BaseException) -> str:
    """Keep the traceback in a file; the line that says so."""
    report = "\n".join(
        (
            f"command: {shlex.join(sys.argv)}",
            f"{DISTRIBUTION} {installed_version(DISTRIBUTION)}, Python {sys.version.split()[0]}, "
            f"{platform.platform()}",
            "".join(traceback.format_exception(error)),
        )
    )
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        number, name = tempfile.mkstemp(prefix=f"{DISTRIBUTION}-", suffix=".log", text=True)
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(report)
    except OSError:
        sys.stderr.write(report)
        return f"{text}: this is a fault of {DISTRIBUTION}; {TO_REPORT} with what is above"
    return f"{text}: this is a fault of {DISTRIBUTION}; {TO_REPORT} with the file {name}"


TO_REPORT = "please report it as CONTRIBUTING.md says,"


def fail(message: str, code: int) -> NoReturn:
    """Print one error line and stop."""
    Console(stderr=True, highlight=False).print(
        f"error: {message}", soft_wrap=True, markup=False, style="red"
    )
    sys.exit(code)


def show_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(value, default=_dumped, option=options).decode())


def _dumped(value: Any) -> Any:
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
