"""Files that a participant's operator opens, seen by Python's own audit of `open`.

A record vouches for the pipeline, its code and its assets. A word list that an operator reads by
its path is none of these: the same record would be made with another list. So what operators open
while they are tried is noted, and what no step declares as an asset is in the record.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_noted: set[str] | None = None  # of the process, so that an operator's threads are seen too
_hooked = False

OF_PYTHON = (".py", ".pyc", ".pyi", ".so", ".nbi", ".nbc", ".typed")
"""Suffixes of code and compiled kernels; the record names code by module, version and hash."""
OF_SYSTEM = ("/dev/", "/proc/", "/sys/", "/etc/", "/usr/")


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or _noted is None:
        return
    path, mode = arguments[0], arguments[1]
    writes = isinstance(mode, str) and bool(set(mode) & set("wxa"))
    if isinstance(path, str | bytes | os.PathLike) and not writes:
        _noted.add(os.path.abspath(os.fsdecode(path)))


@contextmanager
def opened_files(
    *, but: Collection[Path] = (), inside: Collection[Path] = ()
) -> Iterator[set[str]]:
    """Collect the files that the code inside opens for reading, without `but`.

    Code, kernels and the folders of the interpreter and of installed packages are left out, but
    for data of a participant's own packages, whose folders are `inside`. The set is filled when the
    block ends. An audit hook cannot be taken back: it is added once, and looks at nothing outside.
    """
    global _hooked, _noted
    if not _hooked:
        sys.addaudithook(_note)
        _hooked = True
    before, _noted = _noted, set()
    opened: set[str] = set()
    try:
        yield opened
    finally:
        noted, _noted = _noted, before
        if before is not None:  # a file that is imported by one that is imported
            before |= noted
        own = tuple(os.path.join(folder, "") for folder in inside)
        outside = (*OF_SYSTEM, *code_folders())
        opened |= {
            name
            for name in noted
            if not name.endswith(OF_PYTHON)
            and (name.startswith(own) or not name.startswith(outside))
            and Path(name) not in but
            and os.path.isfile(name)
        }


@cache
def code_folders() -> tuple[str, ...]:
    """Where the interpreter and installed packages are."""
    folders = {*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix}
    folders |= {path for path in sys.path if "site-packages" in path}
    return tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
