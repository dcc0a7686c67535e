"""Environment variables that a participant's code reads: a record cannot vouch for their values.

Python has no audit event for them, so `os.environ` is of a class that takes note while a
participant's code is imported and tried. Variables that a library reads for itself (a cache's
folder, a number of threads) are not the participant's; a value that code set before is its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.installed import own_packages
from pipelines.opened_files import code_folders
from pipelines.operators import PARTICIPANT

BETWEEN = ("os", "posixpath", "pathlib", "collections.abc", __name__)
"""Modules that read a variable for their caller: getenv, get, expandvars, home."""

_is_own: Callable[[FrameType], bool] | None = None  # while a block is open
_noted: set[str] = set()
_written: set[str] = set()


class _Watched(os._Environ[str]):
    """`os.environ` while a block is open."""

    def __getitem__(self, key: str) -> str:
        _note(_noted, key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: str) -> None:
        _note(_written, key)
        super().__setitem__(key, value)

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            _note(_noted, key)
            yield key


def _note(names: set[str], key: str | bytes) -> None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in BETWEEN:
        frame = frame.f_back
    if frame is not None and _is_own is not None and _is_own(frame):
        name = os.fsdecode(key)
        if names is _written or name not in _written:
            names.add(name)


@contextmanager
def read_variables(*, inside: Collection[str] = ()) -> Iterator[set[str]]:
    """Collect the names of the variables that a participant's code reads in this block.

    Its code is what was made of a participant's file, modules that are not installed, and the
    installed packages `inside`. The set is filled when the block ends; an outer block has the
    names of an inner one too. Not seen: what compiled code and other processes read.
    """
    global _is_own, _noted, _written

    def is_own(frame: FrameType) -> bool:
        name = str(frame.f_globals.get("__name__", ""))
        top = name.partition(".")[0]
        if name.startswith(PARTICIPANT) or top in inside:
            return True
        file = frame.f_code.co_filename
        return os.path.isfile(file) and not (
            top in own_packages() or file.startswith(code_folders())
        )

    before, _is_own = (_is_own, _noted, _written, type(os.environ)), is_own
    _noted, _written = set(), set()
    _set_class(_Watched)
    variables: set[str] = set()
    try:
        yield variables
    finally:
        variables |= _noted
        _is_own, _noted, _written, kind = before
        _set_class(kind)
        if _is_own is not None:
            _noted |= variables


def _set_class(kind: type[os._Environ[str]]) -> None:
    for environment in (os.environ, os.environb):
        object.__setattr__(environment, "__class__", kind)
