"""What a command loads before it works: help and completion answer at once."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.test_structure import LOADS_THEM, ROOT, modules

ON_DEMAND = ("ray", "torch", "boto3", "numba", "fasttext")

HEAVY = (
    *ON_DEMAND,
    *("numpy", "pyarrow", "pandas", "scipy", "sklearn", "PIL"),
    *("transformers", "tokenizers", "open_clip", "datasets", "huggingface_hub"),
    *("fastapi", "sqlalchemy", "uvicorn", "matplotlib", "jinja2", "aiohttp"),
)
"""Libraries that no command needs to print its help."""

PROGRAMS = {
    "pipelines": "from pipelines.__main__ import app",
    "evals": "from evals.__main__ import app",
    "leaderboard": "from leaderboard.__main__ import app",
    **{
        name: f"from leaderboard.rounds.commands import command_line; app = command_line({name!r})"
        for name in ("dclm", "datacomp", "ambient")
    },
}


@pytest.mark.parametrize("package", ["pipelines", "evals", "leaderboard"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    names = [
        name
        for name, path in modules().items()
        if name.split(".")[0] == package
        and not path.relative_to(ROOT).as_posix().startswith(LOADS_THEM)
        and path.stem != "__main__"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"heavy = set({ON_DEMAND!r}) & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_help_answers_within_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "-m", "dclm", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr
    assert "submit" in run.stdout
    cpu_seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert cpu_seconds < 1.5, f"{cpu_seconds:.2f} CPU seconds"  # one second, with a shared machine


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_loads_no_library_that_only_the_work_needs(program: str) -> None:
    code = (
        f"import sys, typer; {PROGRAMS[program]}; typer.main.get_command(app)\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
