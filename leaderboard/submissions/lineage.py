"""Lineage: pool, pipeline, packing, recipe, budget, seeds, suite and data are the rule book's."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from evals.pins import pin_of
from evals.tasks import load_task
from leaderboard.rules import is_baseline
from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.case import Case
from leaderboard.submissions.counts import counts, is_mixture
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.mixture_form import mixture_faults
from pipelines.errors import RuleError
from pipelines.records import DatasetRecord, ScoresRecord, TaskRef


def pool(case: Case) -> Iterator[Fault]:
    """Where the track gives the pool, it is one that the scale accepts."""
    accepted = case.scale.pools
    if case.track.pool == "any":
        return
    other = case.book.pool_fault(case.track, case.pool)
    if other:
        where = f"pool {case.pool.id}: work.parameters"
        expected = Words(f"a pool of track {case.track.name}")
        yield fault(RECORD, where, Words(f"a pool {other}"), expected, "name the other track")
        return
    if accepted == "open":
        return
    if not case.pool.work.sources:
        where = f"pool {case.pool.id}: work.sources"
        yield fault(RECORD, where, Words("no sources"), Words("what the pool was made from"))
    differences = [rule.differs(case.pool) for rule in accepted]
    if all(differences):
        yield fault(
            RECORD,
            f"pool {case.pool.id}",
            Words("; ".join(difference for difference in differences if difference)),
            Words(f"a pool that scale {case.scale.name} accepts"),
            "get it with the benchmark's `pool` command, or submit to the other track",
        )


def dataset(case: Case) -> Iterator[Fault]:
    """Curated here from the pool, by code that the record holds."""
    made = case.dataset
    name = f"dataset {made.id}"
    if case.track.pool == "given" and made.work.external:
        names = case.book.tracks_of(case.scale.name)
        open_to = [n for n in names if case.book.track(n).pool != "given"]
        hint = f"track {case.track.name} needs a dataset that was curated from the pool here"
        if open_to:
            hint += f"; data from elsewhere is for track {' or '.join(open_to)}"
        yield fault(RECORD, f"{name}: work.external", True, False, hint)
    if case.track.pool == "given" and is_mixture(made):
        hint = f"track {case.track.name} is for one pipeline over the pool; name the other track"
        yield fault(RECORD, f"{name}: work.pipeline", Words("a mixture"), Words("steps"), hint)
    if "mix" in made.work.pipeline:
        yield from mixture_faults(f"{name}: work.pipeline", made.work.pipeline, made.counts)
    fixed = case.track.pipeline
    if fixed and not is_baseline(case.book.name, fixed, made.work.pipeline):
        hint = f"track {case.track.name} fixes the data; curate it with the baseline {fixed!r}"
        yield fault(RECORD, f"{name}: work.pipeline", Words("another pipeline"), fixed, hint)
    if case.track.pool == "given":  # on other tracks data may come from anywhere
        yield from code(made)
    for module in made.work.modules:
        if hashlib.sha256(module.text.encode()).hexdigest() != module.sha256:
            problem = Words("a text with another sha256")
            yield fault(RECORD, f"{name}: module {module.name}", problem, module.sha256)
    yield from counts(case)


def code(made: DatasetRecord) -> Iterator[Fault]:
    """Each step is an operator of the platform, or code that the record carries."""
    carried = {module.name for module in made.work.modules}
    names = [step["operator"] for step in made.work.pipeline.get("steps") or []]
    known = _operators() if any(":" not in name for name in names) else None
    for number, name in enumerate(names, 1):
        where = f"dataset {made.id}: step {number}"
        file = name.partition(":")[0]
        if file.endswith(".py") and not {file, PurePosixPath(file).name} & carried:
            problem = Words(f"{name}, whose code the record does not carry")
            yield fault(RECORD, where, problem, Words(f"a module {file!r}"))
        elif ":" not in name and known is not None and name not in known:
            hint = "run the pipeline again with this version, or carry the operator as a file"
            yield fault(RECORD, where, name, Words("an operator of this version"), hint)


def _operators() -> Collection[str] | None:
    """The operators that there are; None on a board without the extras of pipelines."""
    from pipelines.registry import registry  # compiled loops, which a page does not need

    try:
        return registry()
    except ModuleNotFoundError:
        return None


def price(case: Case) -> Iterator[Fault]:
    """Where a track has a budget for the data, it is kept."""
    rule = case.track.price
    if rule is None:
        return
    try:
        too_dear = rule.fault(case.packed, case.pool)
    except RuleError as error:
        too_dear = str(error)
    if too_dear:
        name = f"packed {case.packed.id}: counts"
        hint = "leave rows out, or submit to the other track"
        yield fault(RECORD, name, Words(too_dear), Words("data within the budget"), hint)


def recipe(case: Case) -> Iterator[Fault]:
    """Every model was trained with the scale's recipe, on this data, for its whole budget."""
    expected = case.recipe.model_dump(mode="json")
    asked_for = (case.book.name, case.recipe.scale)
    for model in case.models:
        name = f"model {model.id}"
        asked = (model.work.benchmark, model.work.scale)
        if asked != asked_for:
            yield fault(RECORD, f"{name}: work", " ".join(asked), " ".join(asked_for))
        elif model.work.recipe != expected:
            for key in sorted(set(expected) | set(model.work.recipe)):
                value = model.work.recipe.get(key)
                if value != expected.get(key):
                    hint = f"the recipe of scale {case.scale.name} is frozen"
                    field = f"{name}: work.recipe.{key}"
                    yield fault(RECORD, field, value, expected.get(key), hint)
        elif model.work.seed in case.recipe.seeds:  # others are for `seeds` to say
            for text in case.package.check_training(case.packed, model, case.recipe):
                yield fault(RECORD, name, Words(text), Words("the rules of packing and training"))


def seeds(case: Case) -> Iterator[Fault]:
    """The first seeds of the recipe's list, each once: none can be left out."""
    yield from _roles(case)
    used = sorted(model.work.seed for model in case.models)
    allowed = list(case.recipe.seeds)
    if len(set(used)) != len(used):
        yield fault(RECORD, "models", Words(f"the seeds {used}"), Words("each once"))
        return
    unknown = [seed for seed in used if seed not in allowed]
    if unknown:
        yield fault(RECORD, "models: work.seed", unknown[0], allowed)
        return
    first = allowed[: len(used)]
    if set(used) != set(first):
        yield fault(
            RECORD,
            "models: work.seed",
            Words(f"the seeds {used}"),
            Words(f"the first {len(used)} of the recipe's list: {first}"),
            "train the seeds that were left out; a score over chosen seeds is not the method's",
        )


def _roles(case: Case) -> Iterator[Fault]:
    """Scores are called by the seed of their model, and each is there once."""
    expected = {f"scores/{seed}": scores.id for seed, scores in case.by_seed.items()}
    for role, id_ in case.record.parents.items():
        if expected.get(role) != id_:
            names = Words(f"scores by the seed of their model: {', '.join(expected)}")
            yield fault(RECORD, f"parents.{role}", Words(f"the role {role!r}"), names)


def suite(case: Case) -> Iterator[Fault]:
    """The scale's suite, every task of it, as installed, on data that may rank."""
    for scores in case.by_seed.values():
        name = f"scores {scores.id}"
        evaluated = (scores.work.benchmark, scores.work.suite, scores.work.suite_version)
        expected = (case.book.name, case.scale.suite, case.scale.suite_version)
        if evaluated != expected:
            yield fault(RECORD, f"{name}: suite", " ".join(evaluated), " ".join(expected))
            continue
        yield from _suite(case, name, scores)


def asked(case: Case, scores: ScoresRecord) -> Iterator[Fault]:
    """The same of scores by another suite of the benchmark: that of a speedrun's checkpoints."""
    name, suite_ = f"scores {scores.id}", case.suite
    evaluated = (scores.work.benchmark, scores.work.suite, scores.work.suite_version)
    expected = (case.book.name, suite_.name, suite_.version)
    if evaluated != expected:
        yield fault(RECORD, f"{name}: suite", " ".join(evaluated), " ".join(expected))
        return
    yield from _suite(case, name, scores)
    yield from settings(case)


def settings(case: Case) -> Iterator[Fault]:
    """What a track leaves to participants is in each evaluation, the same, and nowhere else."""
    named = {name for track in case.book.tracks for name in track.settings}
    first: dict[str, object] = {}
    for scores in case.by_seed.values():
        model = scores.work.parameters.get("model")
        of_model = model if isinstance(model, dict) else {}
        for name in sorted(named):
            where = f"scores {scores.id}: work.parameters.model.{name}"
            value = of_model.get(name)
            if (value is not None) != (name in case.track.settings):
                problem = Words("nothing" if value is None else f"a {name}")
                expected = Words(f"what track {case.track.name} has")
                yield fault(RECORD, where, problem, expected, "name the other track")
            elif first.setdefault(name, value) != value:
                problem = Words(f"another {name} than of the first seed")
                yield fault(RECORD, where, problem, Words("one for all seeds"))


def _suite(case: Case, name: str, scores: ScoresRecord) -> Iterator[Fault]:
    installed = case.suite.to_record()
    if scores.work.parameters.get("suite", installed) != installed:
        expected = Words(f"suite {case.suite.name} version {case.suite.version} as installed")
        yield fault(RECORD, f"{name}: work.parameters.suite", Words("an edited suite"), expected)
    asked = [task.name for task in scores.work.tasks]
    listed = Words(", ".join(case.suite.tasks))
    if asked != list(case.suite.tasks):
        yield fault(RECORD, f"{name}: work.tasks", Words(", ".join(asked)), listed)
        return
    if [task.task for task in scores.results.tasks] != asked:
        problem = Words("other tasks than were asked")
        yield fault(RECORD, f"{name}: results.tasks", problem, Words(", ".join(asked)))
    for ref in scores.work.tasks:
        yield from _data(case, name, ref)


def _data(case: Case, name: str, ref: TaskRef) -> Iterator[Fault]:
    task = load_task(ref.name)
    if ref.definition != task.definition():
        expected = Words("the installed one; evaluate with this version")
        yield fault(RECORD, f"{name}: task {ref.name}", Words("another definition"), expected)
    pinned = data_pin(case, ref.name)
    right = True
    if pinned is not None and ref.identity:
        right = ref.identity == pinned
    elif task.sha256 is not None:
        right = ref.data == task.sha256
    elif task.built:
        right = ref.verified
    if not right:
        yield fault(
            RECORD,
            f"{name}: task {ref.name}",
            Words("unverified data"),
            Words("the recorded data"),
            "a score on other data cannot rank",
        )


def data_pin(case: Case, task: str) -> str | None:
    """The identity that a task's data must have: of this version, or pinned on this board.

    Data that each machine builds from packages may differ where a package was withdrawn: it is
    known by its pin, and other data ranks apart, but it is no reason to refuse.
    """
    pin = pin_of(task)
    if pin is not None and not load_task(task).built:
        return pin.identity
    return case.known.pinned(task)


def data_of(ref: TaskRef) -> str:
    """What names a task's data: its identity; for old records that of the recorded bytes."""
    if ref.identity:
        return ref.identity
    task, pin = load_task(ref.name), pin_of(ref.name)
    if pin is not None and task.sha256 is not None and ref.data == task.sha256:
        return pin.identity
    return ref.data


def unpinned(case: Case) -> tuple[str, ...]:
    """The tasks whose data nobody pinned: rows rank only beside rows on the same data."""
    [scores, *_] = case.by_seed.values()
    return tuple(ref.name for ref in scores.work.tasks if not _is_known(case, ref))


def _is_known(case: Case, ref: TaskRef) -> bool:
    pin = pin_of(ref.name)
    if pin is not None and ref.identity == pin.identity:
        return True
    return data_pin(case, ref.name) is not None or load_task(ref.name).sha256 is not None


def one_data(case: Case) -> Iterator[Fault]:
    """All seeds were asked the same questions."""
    [first, *others] = case.by_seed.values()
    expected = [(ref.name, data_of(ref)) for ref in first.work.tasks]
    for scores in others:
        for (name, data), ref in zip(expected, scores.work.tasks, strict=True):
            if data_of(ref) != data:
                where = f"scores {scores.id}: task {name}"
                yield fault(RECORD, where, data_of(ref), data, "seeds on different data")
