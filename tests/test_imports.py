"""Who may import whom, read from the syntax trees; and what importing a room must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("dclm", "datacomp", "ambient", "leaderboard", "evals", "pipelines")

MAY_IMPORT = {
    "dclm": {"dclm", "leaderboard", "evals", "pipelines"},
    "datacomp": {"datacomp", "leaderboard", "evals", "pipelines"},
    "ambient": {"ambient", "leaderboard", "evals", "pipelines"},
    "leaderboard": {"leaderboard", "evals", "pipelines"},
    "evals": {"evals", "pipelines"},
    "pipelines": {"pipelines"},
}

THIRD_PARTY = {
    "ray": ("pipelines/execution/ray_",),
    "boto3": ("pipelines/storage/",),
    "botocore": ("pipelines/storage/",),
    "numba": ("pipelines/kernels/",),
    "fastwarc": ("pipelines/formats/warc", "dclm/pool/tiny_"),
    "resiliparse": ("pipelines/formats/warc", "dclm/pool/tiny_"),
    "fasttext": ("pipelines/text/quality",),
    "torch": (
        "dclm/",
        "datacomp/",
        "ambient/",
        "evals/text/huggingface",
        "evals/images/",
        "pipelines/image_text/",
    ),
    "open_clip": ("datacomp/", "evals/images/open_clip"),
    "webdataset": ("datacomp/",),
    "datasets": ("evals/fetch", "dclm/pool/", "datacomp/pool/"),
    "fastapi": ("leaderboard/",),
    "sqlalchemy": ("leaderboard/",),
}

# Modules that a command loads only when it needs what they stand on.
HEAVY = ("pipelines/execution/ray_executor.py",)

SEALED_OFF = (
    "execution",
    "storage",
    "engine",
    "job",
    "formats",
    "global_steps",
    "reports",
    "images",
)
INNER = ("text", "image_text", "dedup", "kernels")


def python_files() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        room = name.split("/")[0]
        for line, module in imports(path):
            target = module.split(".")[0]
            if target in ROOMS and target not in MAY_IMPORT[room]:
                wrong.append(f"{name}:{line}: {room} must not import {module}")
    assert not wrong, "\n".join(wrong)


def test_operators_know_nothing_of_executors_or_storage() -> None:
    wrong = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        parts = name.split("/")
        if parts[0] != "pipelines" or len(parts) < 3 or parts[1] not in INNER:
            continue
        for line, module in imports(path):
            words = module.split(".")
            if words[0] == "pipelines" and len(words) > 1 and words[1] in SEALED_OFF:
                wrong.append(f"{name}:{line}: an operator must not import {module}")
    assert not wrong, "\n".join(wrong)


def test_third_parties_stay_in_their_rooms() -> None:
    wrong = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        for line, module in imports(path):
            homes = THIRD_PARTY.get(module.split(".")[0])
            if homes is not None and not name.startswith(homes):
                wrong.append(f"{name}:{line}: {module} may only be imported in {', '.join(homes)}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


@pytest.mark.parametrize("room", ["pipelines", "evals", "leaderboard"])
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in HEAVY
        and "migrations" not in path.parts
        and path.stem not in ("__main__", "make_unicode_table")
    ]
    modules = [name.removesuffix(".__init__") for name in modules]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = {'ray', 'torch', 'boto3', 'numba', 'fasttext'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_help_answers_within_a_second() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "-m", "dclm", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr
    assert "submit" in run.stdout
    cpu_seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert cpu_seconds < 1.5, f"{cpu_seconds:.2f} CPU seconds"  # one second, with a shared machine
