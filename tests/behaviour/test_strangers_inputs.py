"""Every command over inputs that are broken in every way: a line and the right exit code.

The commands and their options are read from the command lines themselves, so a new one is under
this test without being named here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from leaderboard.rounds.commands import command_line
from pipelines.console import call

BENCHMARKS = ("dclm", "datacomp", "ambient")
PROGRAMS = ("pipelines", "evals", "leaderboard", *BENCHMARKS)
WITHOUT_INPUT = ("pipelines warmup", "evals suites", "evals tasks")
BUILDERS = ("pool", "run", "noise", "train-quality", "train-scorer")
"""Commands that build the tiny pool where there is none: they are tried over broken ones."""
BROKEN_POOLS = ("folder junk", "folder null", "folder list", "folder wrong_types", "folder empty")
FILLERS = {
    "scale": "tiny",
    "name": "x",
    "names": "x",
    "method": "m",
    "team": "t",
    "track": "filtering",
    "benchmark": "dclm",
    "what": "dclm",
    "task": "x",
    "suite": "tiny",
    "over": "1.x=1,2",
    "budgets": "1,2",
    "who": "w",
    "why": "because",
    "gib": "1",
    "scope": "read",
    "total": "1",
    "columns": "score",
    "kind": "clip",
    "documents": "10",
    "drop": "1",
}
"""What required options that are no input get."""
OUTPUTS = {"out", "out_uri", "to", "work", "folder_out"}
NO_INPUT = {
    *("endpoint_url", "json", "help", "cluster", "device", "mirror", "public_url", "url"),
    *("database", "files"),  # of every command of the service: one of them is tried below
}
FOR_OPTIONS = ("file junk", "file null", "folder empty", "table numbers", "missing")
"""What optional inputs are tried with, one at a time; required ones get all there is."""


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


JUNK = bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8))
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "junk": JUNK,
    "nul": b"\x00" * 100,
    "bom": b"\xef\xbb\xbf",
    "crlf": b"a\r\nb\r\n",
    "number": b"1e400",
    "huge": b'{"text": 123456789012345678901234567890, "id": 1e999}',
    "list": b"[1, [2, [null]]]",
    "null": b"null",
    "wrong_types": b'{"name": 1, "steps": {"a": 1}, "kind": [], "work": 3, "record": null}',
    "nan": b'{"a": NaN, "b": Infinity}',
    "yaml": b"name: [x\n  - {",
    "yaml_wrong": b"steps: [1, null, {word_count: 7}, {a: 1, b: 2}]\nname: 3\n",
    "latin": "name: é\nsteps: []".encode("latin-1"),
}
SUFFIXES = ("a.parquet", "a.jsonl", "a.jsonl.gz", "a.tar", "a.npy", "a.warc.gz", "a.arrow", "a.csv")
RECORDS = ("record.json", "run.json", "stats.json", "config.json", "shards.json", "data.jsonl")
TABLES: dict[str, Callable[[], pa.Table]] = {
    "no_rows": lambda: pa.table({"text": pa.array([], pa.string()), "uid": pa.array([], "str")}),
    "no_columns": lambda: pa.table({}),
    "numbers": lambda: pa.table({"text": [1, 2], "uid": [1, 2], "url": [1.5, float("nan")]}),
    "nested": lambda: pa.table({"text": [["a"], None], "uid": [{"a": 1}, None], "url": [[], []]}),
    "twice": lambda: pa.table([["a"], ["b"], ["c"]], names=["text", "text", "uid"]),
    "nulls": lambda: pa.table({"text": pa.nulls(2), "uid": pa.nulls(2), "url": pa.nulls(2)}),
}


def broken_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Single files, and folders with such files under every name that a reader looks for."""
    for name, data in TEXTS.items():
        write(folder / f"{name}.yaml", data)
        yield f"file {name}", folder / f"{name}.yaml"
        for beside in (*SUFFIXES, *RECORDS):
            write(folder / name / beside, data)
        yield f"folder {name}", folder / name
    for name, table in TABLES.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(table(), folder / name / "a.parquet")
        yield f"table {name}", folder / name
    (folder / "nothing").mkdir()
    yield "an empty folder", folder / "nothing"
    yield "missing", folder / "missing"
    (folder / "in_place" / "record.json").mkdir(parents=True)
    (folder / "in_place" / "a.parquet").mkdir()
    (folder / "in_place" / "run.json").mkdir()
    yield "folders in place of files", folder / "in_place"
    odd = os.fsencode(folder) + b"/\xff.jsonl"
    with open(odd, "wb") as file:
        file.write(b"{")
    yield "a name that is not UTF-8", Path(os.fsdecode(odd))


@cache
def command_of(program: str) -> Any:
    """The whole command line of a program, built once: building takes a tenth of a second."""
    if program in BENCHMARKS:
        return typer.main.get_command(command_line(program))
    module = __import__(f"{program}.__main__", fromlist=["app"])
    return typer.main.get_command(module.app)


@cache
def commands() -> dict[str, Any]:
    there: dict[str, Any] = {}

    def walk(group: Any, name: str) -> None:
        for part, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{name} {part}")
            else:
                there[f"{name} {part}"] = command

    for program in PROGRAMS:
        walk(command_of(program), program)
    building = {f"{program} {name}" for program in BENCHMARKS for name in BUILDERS}
    return {name: there[name] for name in sorted(set(there) - building - set(WITHOUT_INPUT))}


def builders() -> list[str]:
    there = [(p, name) for p in BENCHMARKS for name in BUILDERS if name in command_of(p).commands]
    return [f"{program} {name}" for program, name in there]


def takes_text(parameter: Any) -> bool:
    kind = type(getattr(parameter, "param_type", None) or parameter.type).__name__
    return kind in ("StringParamType", "Path", "TyperPath", "_ClickPath")


def spelled(parameter: Any, value: str) -> list[str]:
    return [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]


def calls(command: Any, kind: str, path: str, out: str) -> Iterator[list[str]]:
    """Arguments with a broken input in every required place, and in each optional one alone."""
    required: list[str] = []
    optional = []
    for parameter in command.params:
        if parameter.required:
            filler = out if parameter.name in OUTPUTS else FILLERS.get(parameter.name, path)
            required += spelled(parameter, filler)
        elif (
            parameter.name not in {*NO_INPUT, *OUTPUTS}
            and parameter.opts[0] != "--out"
            and not getattr(parameter, "is_flag", False)
            and parameter.param_type_name == "option"
        ):
            optional.append(parameter)
    if path in required:  # without an input nothing is broken, and a command may work for minutes
        yield required
    for parameter in optional if kind in FOR_OPTIONS else ():
        yield [*required, *spelled(parameter, path)]


def ends(program: str, arguments: list[str], capsys: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        call(command_of(program), arguments)
    code = ended.value.code
    return (code if isinstance(code, int) else int(code is not None)), capsys.readouterr().err


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(broken_files(tmp_path_factory.mktemp("broken")))


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_command_ends_in_a_line_whatever_its_input(
    name: str, broken: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    command = commands()[name]
    program, *rest = name.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where tracebacks would go
    monkeypatch.setattr(sys, "argv", [program])
    if name == "pipelines assets fetch":  # a broken file is no error there, and is not kept
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wrong = []
    for kind, path in broken.items():
        for number, arguments in enumerate(calls(command, kind, str(path), str(tmp_path / "out"))):
            code, errors = ends(program, [*rest, *arguments], capsys)
            if code not in (0, 1, 2, 3) or "Traceback" in errors or "this is a fault" in errors:
                wrong.append(f"{kind} {number} {' '.join(arguments)}: {code} {errors[-300:]}")
    assert wrong == []


@pytest.fixture(autouse=True)
def without_network_or_end(monkeypatch: Any) -> None:
    """Commands that fetch find no network; a board that would serve ends when it starts."""
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    monkeypatch.setattr("os.umask", lambda mask: mask)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", builders())
def test_a_command_that_builds_what_is_missing_ends_in_a_line(
    name: str, broken: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program, command = name.split()
    needed = ["--pipeline", "no_filter"] if command == "run" else []
    tries = [["--scale", "nonsense", *needed]]
    tries += [["--scale", "tiny", "--workspace", str(broken["file junk"]), *needed]]
    for number, kind in enumerate(BROKEN_POOLS):
        pools = tmp_path / f"workspace{number}" / "pools"
        pools.mkdir(parents=True)
        (pools / f"{program}-tiny").symlink_to(broken[kind])
        here = ["--scale", "tiny", "--workspace", str(pools.parent)]
        tries.append([*here, *needed])
        if command == "run" and kind == BROKEN_POOLS[0]:
            files = [str(path) for kind, path in broken.items() if kind != "missing"]
            tries += [[*here, "--pipeline", file] for file in files]
    wrong = []
    for arguments in tries:
        code, errors = ends(program, [command, *arguments], capsys)
        if code not in (1, 2, 3) or "Traceback" in errors or "this is a fault" in errors:
            wrong.append(f"{' '.join(arguments)}: {code} {errors[-300:]}")
    assert wrong == []


@pytest.mark.parametrize("command", [["token", "list"], ["serve", "--port", "0"]])
def test_a_database_that_is_none_is_said(
    command: list[str], broken: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for path in broken.values():
        for database in (str(path), f"sqlite:///{path}"):
            code, errors = ends("leaderboard", [*command, "--database", database], capsys)
            new = command[0] == "serve"  # an empty file, or none, becomes a database
            assert code in (1, 2, 3, *([0] if new else [])), errors
            assert "this is a fault" not in errors


@pytest.mark.parametrize(
    "line",
    [
        "evals fetch hellaswag_zeroshot --out data",
        "pipelines assets fetch gpt-neox-20b.json",
        "datacomp pool --scale small --out pool",
        "dclm pool --scale 400m-1x --variant extracted --source hf --out pool --yes",
    ],
)
def test_a_command_without_a_network_ends_in_a_line(
    line: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nowhere = "http://127.0.0.1:9/"  # the port of `discard`, at which nobody answers
    sleep = time.sleep  # of the hub's client, which waits two minutes between its tries
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    for name, value in {
        "HF_ENDPOINT": nowhere.rstrip("/"),
        "PIP_NO_INDEX": "1",
        "PIP_INDEX_URL": nowhere,
        "npm_config_registry": nowhere,
        "npm_config_fetch_retries": "0",
    }.items():
        monkeypatch.setenv(name, value)
    program, *arguments = line.split()
    code, errors = ends(program, arguments, capsys)
    assert code in (1, 2, 3), errors
    assert "this is a fault" not in errors
    assert errors.strip()


def test_an_error_that_nobody_foresaw_says_where_to_report_it_and_keeps_its_traceback(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def broken_command(args: list[str]) -> None:
        raise KeyError("of ours")

    with pytest.raises(SystemExit) as ended:
        call(broken_command, [])
    assert ended.value.code == 1
    (kept,) = tmp_path.glob("curation-bench-*.log")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "KeyError: 'of ours': this is a fault of curation-bench; please report it" in line
    assert str(kept) in line
    assert 'raise KeyError("of ours")' in kept.read_text()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(13, "Permission denied", "/a"), 2, "/a: permission denied"),
        (IsADirectoryError(21, "Is a directory", "/a"), 2, "/a is a folder; a file was expected"),
        (OSError(28, "No space left on device", "/a"), 1, "no space is left for /a"),
        (OSError(27, "File too large"), 1, "no space is left"),
        (OSError(30, "Read-only file system", "/a"), 2, "/a is on a disk that is read-only"),
        (pa.ArrowInvalid("bad"), 3, "the data cannot be read: ArrowInvalid: bad"),
        (pa.ArrowNotImplementedError("no"), 3, "the data cannot be read: ArrowNotImplemented"),
        (MemoryError(), 1, "memory ran out"),
        (ValueError("two\nlines"), 3, "two lines"),
    ],
)
def test_errors_of_the_system_and_of_readers_become_a_line(
    error: Exception, code: int, message: str, capsys: Any
) -> None:
    def failing(args: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        call(failing, [])
    assert ended.value.code == code
    assert message in capsys.readouterr().err
