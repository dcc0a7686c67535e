"""The one validator, for the command that makes a bundle and for the service that takes it.

`check` reads the record alone. `check_bundle` goes through stages, each within a limit of time and
memory, and stops behind the first stage that finds a broken rule:

    form        the files that the rules name and no other; every column that a page reads, bounded
    names       teams, methods and baselines that are what they look like
    lineage     pool, pipeline, recipe, budget, seeds, suite and data of the rule book
    arithmetic  every score again from its questions, and the questions against the known data
    novelty     no copy of another entry (where there is a board to compare with)
    honesty     nothing is refused: what a reviewer and a reader should know

What it computed on the way is what the board shows: nothing on the board is taken from what a
participant wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from leaderboard import rules
from leaderboard.rules import Benchmark
from leaderboard.submissions import (
    arithmetic,
    checkpoints,
    form,
    honesty,
    lineage,
    novelty,
    plausible,
    record_form,
)
from leaderboard.submissions.arithmetic import Recomputed
from leaderboard.submissions.bundle import RECORD, Bundle
from leaderboard.submissions.case import Case, official_suite
from leaderboard.submissions.counts import LOST, lost
from leaderboard.submissions.curves import curves
from leaderboard.submissions.facts import NOTHING, Facts, Known
from leaderboard.submissions.faults import Fault, Words, fault, under
from leaderboard.submissions.limits import Limit, TooLong, limited
from leaderboard.submissions.logs import read_log, read_parquet
from leaderboard.submissions.names import looks_like, mixed_alphabets, name_fault
from leaderboard.submissions.novelty import Notice
from leaderboard.submissions.results import Measured, measured_of
from leaderboard.submissions.training_time import too_fast
from pipelines.errors import RuleError
from pipelines.installed import packages
from pipelines.records import Submission

MAX_FAULTS = 100  # reported for one submission; the first is what its author needs
GIB = 1 << 30

# A 7b-1x entry with all seeds (CORE, 110,000 questions a seed) takes a tenth of this.
LIMITS = {
    "form": Limit(seconds=300, num_bytes=2 * GIB),
    "names": Limit(seconds=10, num_bytes=GIB),
    "lineage": Limit(seconds=30, num_bytes=GIB),
    "arithmetic": Limit(seconds=900, num_bytes=3 * GIB),
    "novelty": Limit(seconds=120, num_bytes=2 * GIB),
    "honesty": Limit(seconds=30, num_bytes=GIB),
}


@dataclass(frozen=True)
class Checked:
    """What a check found. `measured` and `facts` are None when there are faults."""

    faults: tuple[Fault, ...]
    measured: Measured | None
    notices: tuple[Notice, ...] = ()
    facts: Facts | None = None


Rule = tuple[str, Callable[[Case], Iterable[Fault]]]

CLAIM: Sequence[Rule] = (("form.claim", form.claim),)
LINKS: Sequence[Rule] = (("form.chain", form.links),)
SHAPE: Sequence[Rule] = (("form.record", record_form.shape),)


def _names(case: Case) -> Iterator[Fault]:
    """Printable names that look like no other team's, and baselines only of their own pipeline."""
    work = case.record.work
    for name, value in (("method", work.method), ("team", work.team)):
        problem = name_fault(value)
        if problem is None and (name == "team" or _baseline_meant(case) is None):
            problem = mixed_alphabets(value)
        if problem:
            yield fault(RECORD, f"work.{name}", value, Words(problem))
    twin = looks_like(work.team, iter(case.known.names()))
    if twin is not None:
        twin_name = Words(f"{work.team!r}, which looks like {twin!r}")
        yield fault(RECORD, "work.team", twin_name, Words("a name of one's own"))


def _baseline_meant(case: Case) -> str | None:
    """The baseline that a method's name is, or looks like; None for names that are not plain."""
    method, names = case.record.work.method, rules.baselines(case.book.name)
    if name_fault(method):
        return None
    return method if method in names else looks_like(method, iter(names))


def _baselines(case: Case) -> Iterator[Fault]:
    """The name of a baseline, or what looks like it, is that pipeline's."""
    method = case.record.work.method
    own = novelty.pipeline_key(case.dataset.work.pipeline.get("steps"))
    known = _baseline_meant(case)
    if known is None:
        return
    if method != known:
        problem = Words(f"{method!r}, which looks like the baseline {known!r}")
        yield fault(RECORD, "work.method", problem, Words("a name of one's own"))
    elif not rules.is_baseline(case.book.name, known, case.dataset.work.pipeline):
        problem = Words(f"the name of the baseline {known!r} on another pipeline ({own[:8]})")
        yield fault(RECORD, "work.method", problem, Words("a name of one's own"))
    elif case.dataset.work.external or case.track.pool == "any":
        problem = Words(f"the name of the baseline {known!r} on data of one's own")
        yield fault(RECORD, "work.method", problem, Words("a name of one's own"))
    elif (part := lost(case.pool, case.dataset)[0]) > LOST:
        problem = Words(f"the name of the baseline {known!r} on {1 - part:.1%} of the pool")
        hint = "run it again over the whole pool, without shards or rows that failed"
        yield fault(RECORD, "work.method", problem, Words("the whole pool"), hint)


NAMES: Sequence[Rule] = (("names.plain", _names), ("names.baseline", _baselines))
LINEAGE: Sequence[Rule] = (
    ("lineage.pool", lineage.pool),
    ("lineage.dataset", lineage.dataset),
    ("lineage.price", lineage.price),
    ("lineage.recipe", lineage.recipe),
    ("lineage.recipe", too_fast),
    ("lineage.seeds", lineage.seeds),
    ("lineage.suite", lineage.suite),
    ("lineage.suite", lineage.settings),
    ("lineage.speedrun", checkpoints.whole_race),
    ("lineage.speedrun", checkpoints.asked_alike),
)
DATA: Sequence[Rule] = (("lineage.data", lineage.one_data),)


def _run(rules_: Sequence[Rule], case: Case) -> list[Fault]:
    """The faults of some rules, each with the rule's name, the first `MAX_FAULTS` of them."""
    faults = (under(name, fault_) for name, rule in rules_ for fault_ in rule(case))
    return list(islice(faults, MAX_FAULTS + 1))


def _first(groups: Sequence[Sequence[Rule]], case: Case) -> list[Fault]:
    """The faults of the first group that has any: later groups rely on the earlier."""
    return next((group_faults for group in groups if (group_faults := _run(group, case))), [])


def check(record: Submission, benchmark: Benchmark) -> list[Fault]:
    """Every broken rule that the record alone shows. Empty when all hold."""
    return _cut(_first((CLAIM, LINKS, SHAPE, NAMES, LINEAGE, DATA), Case(record, benchmark)))


def check_bundle(
    bundle: Bundle,
    benchmark: Benchmark | None = None,
    *,
    known: Known = NOTHING,
    limits: dict[str, Limit] = LIMITS,
) -> Checked:
    """Check a bundle against every rule, and compute what the board will show of it."""
    try:
        book = benchmark or rules.load_benchmark(bundle.record.work.benchmark)
    except RuleError as error:
        unknown = fault(RECORD, "work.benchmark", Words(str(error)), list(packages()))
        return Checked((under("form.claim", unknown),), None)
    case = Case(bundle.record, book, bundle, known)
    work = _Work(case, Recomputed())
    for stage in LIMITS:
        try:
            with limited(limits[stage]) as clock:
                faults = work.stage(stage, clock.check)
        except TooLong:
            problem = Words(f"a check of more than {limits[stage].seconds:g} seconds")
            faults = [_limit(stage, bundle, problem, Words("one that ends"))]
        except MemoryError:
            problem = Words(f"a check of more than {limits[stage].num_bytes:,} bytes of memory")
            faults = [_limit(stage, bundle, problem, Words("less"))]
        if faults:
            return Checked(tuple(_cut(faults)), None, tuple(work.notices))
    out = work.out
    measured = measured_of(
        bundle,
        book,
        case.suite,
        out.tasks,
        out.draws,
        unpinned=lineage.unpinned(case),
        clean=out.clean_headline,
    )
    return Checked((), measured, tuple(work.notices), work.facts)


@dataclass
class _Work:
    """What the stages of one check hand on to the next."""

    case: Case
    out: Recomputed
    notices: list[Notice] = field(default_factory=list)
    facts: Facts | None = None

    def stage(self, name: str, tick: Callable[[], None]) -> list[Fault]:
        """Run one stage; returns its faults."""
        if name == "form":
            return self._form(tick)
        if name == "names":
            return _first((NAMES,), self.case)
        if name == "lineage":
            return _first((LINEAGE, DATA), self.case)
        if name == "arithmetic":
            return _run((("arithmetic", self._arithmetic(tick)),), self.case)
        if name == "novelty":
            figures = plausible.figures_of(list(self.case.by_seed.values()))
            facts = novelty.facts_of(self.case, self.out, figures)
            self.facts = facts
            self.notices += novelty.similar(self.case, facts)
            self.notices += plausible.far_ahead(self.case, facts)
            self.notices += plausible.other_models(self.case, facts)
            out = self.out
            again: Sequence[Rule] = (
                ("novelty.copy", lambda case: novelty.copies(case, facts, out.answers)),
                ("novelty.copy", lambda case: checkpoints.repeated(case, out)),
            )
            return _run(again, self.case)
        for notices_of in HONESTY:
            self.notices += notices_of(self.case)
        self.notices += honesty.evidence(self.out)
        self.notices += honesty.overlap(self.case, self.out)
        return []

    def _arithmetic(self, tick: Callable[[], None]) -> Callable[[Case], Iterable[Fault]]:
        return lambda case: arithmetic.check(case, self.out, tick)

    def _form(self, tick: Callable[[], None]) -> list[Fault]:
        bundle = self.case.bundle
        assert bundle is not None
        whole: Sequence[Rule] = (("form.manifest", lambda _: form.manifest(bundle)),)
        logged: Sequence[Rule] = (("form.checkpoints", checkpoints.readable),)
        files: Sequence[Rule] = (
            ("form.manifest", form.places),
            ("form.files", form.files),
            ("form.uids", form.uid_list),
            ("form.documents", form.documents),
            ("form.curves", curves),
            ("form.checkpoints", checkpoints.form),
        )
        columns: Sequence[Rule] = (("form.columns", lambda case: form.logs(case, tick)),)
        return _first((whole, CLAIM, LINKS, SHAPE, logged, files, columns), self.case)


HONESTY = (
    honesty.tries,
    honesty.data,
    honesty.missing_rows,
    honesty.unpacked,
    honesty.repeatable,
    honesty.assets,
    honesty.licences,
    honesty.settings,
    honesty.controls,
    honesty.documents,
    honesty.generated,
    honesty.profile,
)


def _limit(stage: str, bundle: Bundle, problem: Words, expected: Words) -> Fault:
    hint = "send fewer rows, or ask the maintainers"
    limit_fault = fault(bundle.where, f"stage {stage}", problem, expected, hint)
    return limit_fault.model_copy(update={"rule": f"{stage}.limit"})


def _cut(faults: Sequence[Fault]) -> list[Fault]:
    """The first `MAX_FAULTS`, and a last one that says there are more."""
    if len(faults) <= MAX_FAULTS:
        return list(faults)
    more = fault(RECORD, "", Words(f"more than {MAX_FAULTS} broken rules"), Words("none"))
    return [*faults[:MAX_FAULTS], more]


__all__ = [
    "MAX_FAULTS",
    "Checked",
    "check",
    "check_bundle",
    "official_suite",
    "read_log",
    "read_parquet",
]
