"""Write the generated pages: docs/operators.md, docs/commands.md, docs/tasks.md.

`python docs/generate.py --check` fails when a page is not current.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

DOCS = Path(__file__).parent
if Path(sys.path[0]).resolve() == DOCS.resolve():  # run as a script: folders of images are here
    sys.path[0] = str(DOCS.parent)  # that have the names of packages

from evals.catalogue import tasks_markdown  # noqa: E402
from pipelines.operators import Operator  # noqa: E402
from pipelines.registry import registry  # noqa: E402
from pipelines.reports.funnel import parameter_rows  # noqa: E402

NOTE = "<!-- Written by docs/generate.py: run `make docs` after a change. -->\n\n"
KINDS = {
    "filter": "drops rows, and says why",
    "modifier": "sets columns",
    "splitter": "makes many rows of one",
    "select": "keeps the best part of the whole pool",
    "dedup": "keeps one of all equal units of the whole pool",
    "fold": "carries a state over the shards of a group",
}


def operators_page() -> str:
    """Every operator: documentation, parameters, reasons."""
    parts = [
        NOTE,
        "# Operators\n\n",
        "A step of a pipeline is an operator's name, or its name with parameters. "
        "`pipelines ops NAME` prints the same on the command line.\n",
    ]
    for kind, meaning in KINDS.items():
        members = [cls for _, cls in sorted(registry().items()) if cls.kind == kind]
        if not members:
            continue
        parts.append(f"\n## {kind}: {meaning}\n")
        parts += [_operator(cls) for cls in members]
    return "".join(parts)


def _operator(cls: type[Operator]) -> str:
    lines = [f"\n### {cls.name}\n", inspect.cleandoc(cls.__doc__ or ""), ""]
    if cls.reference:
        lines += [f"DCLM's name: `{cls.reference}`.", ""]
    rows = parameter_rows(cls)
    if rows:
        lines += ["| parameter | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{name}` | {_cell(kind)} | `{_cell(default)}` | {_cell(meaning)} |"
            for name, kind, default, meaning in rows
        ]
        lines.append("")
    if cls.reasons:
        lines += [f"Rejects with: {', '.join(f'`{reason}`' for reason in cls.reasons)}.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands_page() -> str:
    """Every command with its options."""
    from evals.__main__ import app as evals
    from leaderboard.__main__ import app as leaderboard
    from leaderboard.rounds.commands import command_line
    from pipelines.__main__ import app as pipelines

    parts = [
        NOTE,
        "# Commands\n\nExit codes: 0 done, 1 the run failed, 2 usage, 3 bad data or a broken "
        "rule. `--json` prints a result for a machine.\n",
    ]
    apps = {
        "dclm": command_line("dclm"),
        "datacomp": command_line("datacomp"),
        "ambient": command_line("ambient"),
        "pipelines": pipelines,
        "evals": evals,
        "leaderboard": leaderboard,
    }
    for name, app in apps.items():
        command = typer.main.get_command(app)
        parts.append(f"\n## {name}\n\n{command.help or ''}\n")
        parts += _command_parts(name, command)
    return "".join(parts)


def _command_parts(path: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _command_parts(f"{path} {name}", child)
        return
    yield f"\n### {path}\n\n{inspect.cleandoc(command.help or '')}\n"
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name or '').upper()}`"
        need = "required" if parameter.required else _default(parameter)
        rows.append(f"| {names} | {need} | {_cell(getattr(parameter, 'help', '') or '')} |")
    if rows:
        yield "\n| option | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


MACHINE_DEPENDENT = ("workers", "threads")


def _default(parameter: Any) -> str:
    if parameter.name in MACHINE_DEPENDENT and parameter.default not in (None, 1):
        return "all cores"
    value = parameter.default
    return "-" if value in (None, False, "") or callable(value) else f"`{value}`"


PAGES = {"operators.md": operators_page, "commands.md": commands_page, "tasks.md": tasks_markdown}


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run: make docs\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
