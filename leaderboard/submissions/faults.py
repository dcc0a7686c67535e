"""What is wrong with a submission, phrased so that its author can fix it.

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
        where = f"{self.file}: {self.field}" if self.field else self.file
        sentence = f"{where}: found {self.found}, expected {self.expected}"
        return f"{sentence}; {self.hint}" if self.hint else sentence


UNREADABLE = "form.bundle"  # the rule of what was raised where no rule was at work
HINTS = {
    UNREADABLE: "make the bundle again with `submit`, and send it as it is",
    "form.manifest": "make the bundle again with `submit`; nothing in it may be edited",
    "form.claim": "correct the options of `submit` and make the bundle again",
    "form.chain": "submit the folders of scores that the stages wrote; they hold the whole chain",
    "form.record": "make the record again with the command of its stage",
    "form.files": "make the bundle again with `submit`; it adds what the rules name",
    "form.uids": "make the bundle again with `submit` next to the dataset's own list of uids",
    "form.documents": "make the bundle again with `submit` next to the dataset's own folder",
    "form.curves": "name the folder that `evaluate --checkpoint all` wrote with `submit --curve`",
    "form.checkpoints": "make the bundle again with `speedrun --submit`, and send it as it is",
    "form.columns": "evaluate again with the installed version; logs are taken as it writes them",
    "names.plain": "choose another name; `--method` and `--team` of `submit` give it",
    "names.baseline": "choose another method name, or run the baseline as it comes",
    "lineage.pool": "curate the pool of this scale; the benchmark's `pool` command gets it",
    "lineage.dataset": "curate again with `curate` or `run`, from the accepted pool",
    "lineage.recipe": "train again with `train`, under the scale's own recipe",
    "lineage.seeds": "train the first seeds of the recipe's list, without a gap",
    "lineage.suite": "evaluate again with the scale's suite and its recorded data",
    "lineage.speedrun": "make the bundle by the benchmark's `speedrun` command",
    "lineage.data": "evaluate all seeds on the same data",
    "arithmetic": "evaluate again and submit the logs as they were written",
    "novelty.copy": "submit what you curated, trained and evaluated yourself",
}
"""What to do about a broken rule, where the fault itself does not say it better."""


def under(rule: str, broken: Fault) -> Fault:
    """The fault with its rule's name, and with what to do about it."""
    if broken.rule not in ("", UNREADABLE):  # a file of other bytes has its own
        rule = broken.rule
    return broken.model_copy(update={"rule": rule, "hint": broken.hint or HINTS.get(rule, "")})


class BundleError(RuleError):
    """A submission that is refused; `faults` says why."""

    def __init__(self, faults: Sequence[Fault], *, what: str = "the submission") -> None:
        self.faults = tuple(
            fault_ if fault_.rule else under(UNREADABLE, fault_) for fault_ in faults
        )
        super().__init__(f"{what} is refused: " + "; ".join(map(str, self.faults)))


def fault(file: str, field: str, actual: object, expected: object, hint: str = "") -> Fault:
    """A fault from values: texts in quotes, lists by their members, long ones cut."""
    return Fault(file=file, field=field, found=_said(actual), expected=_said(expected), hint=hint)


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
