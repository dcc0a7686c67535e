"""What is wrong with a submission, said so that its author can mend it.

A fault names the file, the field in it, what was found there and what was expected. The command and
the service print the same faults, because they run the same checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from pipelines.errors import RuleError
from pipelines.records import Frozen

SHOWN = 300  # characters of a found value that a message repeats


class Fault(Frozen):
    """One broken rule."""

    file: str
    field: str
    found: str
    expected: str
    hint: str = ""
    rule: str = Field("", description="the stage and rule, as `lineage.seeds`")

    def __str__(self) -> str:
        place = f"{self.file}: {self.field}" if self.field else self.file
        told = f"{place}: found {self.found}, expected {self.expected}"
        return f"{told}; {self.hint}" if self.hint else told


class BundleError(RuleError):
    """A submission that is refused; `faults` says why."""

    def __init__(self, faults: Sequence[Fault], *, what: str = "the submission") -> None:
        self.faults = tuple(faults)
        super().__init__(f"{what} is refused: " + "; ".join(map(str, faults)))


def fault(file: str, field: str, found: object, expected: object, hint: str = "") -> Fault:
    """A fault from values: texts in quotes, lists by their members, long ones cut."""
    return Fault(file=file, field=field, found=_said(found), expected=_said(expected), hint=hint)


class Words(str):
    """A description, as opposed to a value: printed without quotes."""


def _said(value: object) -> str:
    if isinstance(value, Words):
        text = str(value)
    elif isinstance(value, str):
        text = repr(value)
    elif isinstance(value, list | tuple | set | frozenset):
        text = _listed(value)
    else:
        text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _listed(values: Iterable[object]) -> str:
    members = [str(value) for value in values]
    return "one of " + ", ".join(members) if len(members) > 1 else (members or ["nothing"])[0]
