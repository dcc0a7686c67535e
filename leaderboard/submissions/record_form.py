"""What the records of a submission may hold: figures and texts that every page can show, bounded.

Records travel into the database, onto pages and into exports. So each text is printable and short,
each figure is one that can be, and nothing that no stage writes is carried along.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import orjson

from evals.tasks import load_task
from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.case import Case
from leaderboard.submissions.counts import is_mixture
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import Control, ModelRecord, Record, ScoresRecord, Submission

TIME = "%Y-%m-%dT%H:%M:%SZ"
EARLIEST = datetime(2026, 1, 1)  # no record of this platform is older
CLOCK = timedelta(days=1)  # that a participant's clock may be ahead
MAX_STEPS = 1000  # of a pipeline; a page lists each
MAX_COUNTS = 10_000  # of a record: reasons of all steps, and what else is counted
MAX_LABEL = 200  # characters of an operator's name, or of a reason's
MAX_NAME = 1000  # characters of a file's name, an address, a host
MAX_JSON = 1 << 20  # bytes of what a record says of its work, without files, sources and modules
MAX_RESULTS = 64 << 10  # bytes of the results of a stage that no rule reads
MAX_MODULES = 4 << 20  # bytes of a participant's own code
EXACT = 1e-9  # of a difference that is computed again
MAX_COUNT = 1 << 60  # of rows, tokens, bytes: more than any pool, and safe in every sum
SHA256 = re.compile(
    "[0-9a-f]{32}|[0-9a-f]{64}"
)  # of a file; a mixture names its parts by their ids
UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))


def shape(case: Case) -> Iterator[Fault]:
    """The figures and texts of the chain that pages show are what pages expect."""
    yield from _pipeline(case)
    for link in (*case.record.chain, case.record):
        yield from _plain(link)
        yield from _texts(link)
        yield from _small(link)
    if case.book.size_count not in case.packed.counts:
        where = f"packed {case.packed.id}: counts.{case.book.size_count}"
        yield fault(RECORD, where, Words("nothing"), Words("a number"))
    for stage in (case.dataset, case.packed, *case.models):
        external = stage is case.dataset and case.dataset.work.external
        if not stage.outputs and not external:
            where = f"{stage.kind} {stage.id}: outputs"
            yield fault(RECORD, where, Words("no files"), Words("what the stage wrote"))
    for model in case.models:
        yield from _figures(case, model)
        yield from _size(case, model)
    yield from _in_order(case)
    for scores in case.by_seed.values():
        yield from _settings(scores)
        yield from _controls(case, scores)


def scores_shape(case: Case, scores: ScoresRecord, model: ModelRecord) -> Iterator[Fault]:
    """The same of scores beside the chain: those of a checkpoint of a model in the chain."""
    if scores.status != "done":
        yield fault(RECORD, f"scores {scores.id}: status", scores.status, "done")
    yield from _plain(scores)
    yield from _texts(scores)
    yield from _small(scores)
    yield from _after(scores, model)
    yield from _settings(scores)
    yield from _controls(case, scores)


def _in_order(case: Case) -> Iterator[Fault]:
    """Nothing was finished before what it was made from."""
    known = {link.id: link for link in case.record.chain}
    for link in case.record.chain:
        for id_ in link.parents.values():
            if id_ in known:
                yield from _after(link, known[id_])


def _after(link: Record, parent: Record) -> Iterator[Fault]:
    """A record was not finished before its parent; machines' clocks may differ by a day."""
    made, before = _time(link.made_by.finished), _time(parent.made_by.finished)
    if made is not None and before is not None and made + CLOCK < before:
        where = f"{link.kind} {link.id}: made_by.finished"
        expected = Words(f"after its {parent.kind}, {parent.made_by.finished}")
        yield fault(RECORD, where, link.made_by.finished, expected)


SETTINGS = ("suite", "model", "bootstrap_draws")
"""What an evaluation writes of itself: `evals.run`."""
DRAWS = 1000  # what `evals run` writes (evals.metrics.NUM_DRAWS)


def _settings(scores: ScoresRecord) -> Iterator[Fault]:
    """An evaluation has the settings that this platform writes, of a model and no null."""
    name, parameters = f"scores {scores.id}", scores.work.parameters
    for key in sorted(set(parameters) - set(SETTINGS)):
        expected = Words(f"only {', '.join(SETTINGS)}")
        yield fault(RECORD, f"{name}: work.parameters.{key[:MAX_LABEL]}", key, expected)
    if parameters.get("bootstrap_draws", DRAWS) != DRAWS:
        where = f"{name}: work.parameters.bootstrap_draws"
        yield fault(RECORD, where, parameters["bootstrap_draws"], DRAWS)
    model = parameters.get("model", {})
    if not isinstance(model, dict) or "null" in model:
        expected = Words("the settings of a trained model")
        yield fault(RECORD, f"{name}: work.parameters.model", model, expected)
    asked = sum(score.num_items for score in scores.results.tasks)
    if scores.counts.get("questions", asked) != asked:
        expected = Words(f"{asked:,}, the sum over its tasks")
        yield fault(RECORD, f"{name}: counts.questions", scores.counts["questions"], expected)


def _pipeline(case: Case) -> Iterator[Fault]:
    """Steps of operators and parameters, or the shares of a mixture; counts that go with them."""
    pipeline, counts = case.dataset.work.pipeline, case.dataset.counts
    name = f"dataset {case.dataset.id}"
    mixed = is_mixture(case.dataset)
    steps = [] if mixed else pipeline.get("steps")
    if not isinstance(pipeline.get("name", ""), str) or not isinstance(steps, list):
        yield fault(RECORD, f"{name}: work.pipeline", Words("no name and steps"), Words("both"))
        return
    named = pipeline.get("name", "")
    if named != case.record.work.method and not is_printable(named or "-"):  # those are for `names`
        expected = Words("a name of printable letters")
        yield fault(RECORD, f"{name}: work.pipeline.name", named, expected)
    for number, step in enumerate(steps):
        whole = (
            isinstance(step, dict)
            and isinstance(step.get("operator"), str)
            and isinstance(step.get("parameters", {}), dict)
        )
        where = f"{name}: work.pipeline.steps[{number}]"
        if not whole:
            yield fault(RECORD, where, step, Words("operator and parameters"))
        elif not all(map(is_printable, (step["operator"], *step.get("parameters", {})))):
            expected = Words("names of printable letters")
            yield fault(RECORD, where, step["operator"], expected)
    if len(steps) > MAX_STEPS:
        most = Words(f"at most {MAX_STEPS:,}")
        yield fault(RECORD, f"{name}: work.pipeline.steps", len(steps), most)
    for count in counts:
        if count.startswith("rejected/") and len(count.split("/")) < 4:
            yield fault(RECORD, f"{name}: counts", count, Words("rejected/STEP/OPERATOR/REASON"))
    for field in ("rows_out",) if mixed else ("rows_in", "rows_out"):
        if field not in counts:
            yield fault(RECORD, f"{name}: counts.{field}", Words("nothing"), Words("a number"))


def _plain(link: Record) -> Iterator[Fault]:
    """Times of the calendar, and counts that can be."""
    name = f"{link.kind} {link.id}"
    times = []
    for field in ("started", "finished"):
        value: str = getattr(link.made_by, field)
        when = _time(value)
        if when is None or not EARLIEST <= when <= datetime.now(UTC).replace(tzinfo=None) + CLOCK:
            expected = Words("a time that was, such as 2026-11-23T10:00:00Z")
            yield fault(RECORD, f"{name}: made_by.{field}", value, expected)
        else:
            times.append(when)
    if len(times) == 2 and times[1] < times[0]:
        expected = Words(f"no earlier than it started, {link.made_by.started}")
        yield fault(RECORD, f"{name}: made_by.finished", link.made_by.finished, expected)
    if len(link.counts) > MAX_COUNTS:
        most = Words(f"at most {MAX_COUNTS:,}")
        yield fault(RECORD, f"{name}: counts", Words(f"{len(link.counts):,} counts"), most)
        return
    for count, number in link.counts.items():
        if not is_printable(count):
            yield fault(RECORD, f"{name}: counts", count, Words("a name of printable letters"))
        elif not 0 <= number <= MAX_COUNT:
            yield fault(RECORD, f"{name}: counts.{count}", number, Words("0 or more"))
    for position, file in enumerate(link.outputs):
        rows = file.num_rows if file.num_rows is not None else 0
        sizes = 0 <= file.num_bytes <= MAX_COUNT and 0 <= rows <= MAX_COUNT
        if not sizes or not SHA256.fullmatch(file.sha256):
            problem = Words(f"{file.num_bytes} bytes, {file.num_rows} rows, {file.sha256!r}")
            expected = Words("sizes of 0 or more and a sha256")
            yield fault(RECORD, f"{name}: outputs[{position}]", problem, expected)


def _texts(link: Record) -> Iterator[Fault]:
    """Names, hosts, versions and addresses: printable, and no longer than a line."""
    wrong = (pair for pair in _named(link) if not is_printable(pair[1] or "-", most=MAX_NAME))
    for field, text in islice(wrong, 5):
        expected = Words(f"printable letters, at most {MAX_NAME:,}")
        yield fault(RECORD, f"{link.kind} {link.id}: {field}", text, expected)


def _named(link: Record) -> Iterator[tuple[str, str]]:
    """Every text of a record that is shown as it is, with the field that it is in."""
    made, work = link.made_by, link.work
    yield from (("made_by", text) for text in (made.python, made.platform, made.host))
    yield "made_by.revision", made.revision or ""
    for field in ("versions", "locations"):
        values: dict[str, str] = getattr(made, field)
        yield from ((f"made_by.{field}", text) for pair in values.items() for text in pair)
    yield from (("made_by.figures", name) for name in made.figures)
    yield from (("outputs", file.name) for file in link.outputs)
    for field in ("name", "variant", "mode", "layout", "licence"):
        yield f"work.{field}", str(getattr(work, field, ""))
    for field, parts in (
        ("sources", ("name", "version", "licence", "sha256")),
        ("assets", ("name", "sha256")),
        ("inputs", ("name", "sha256")),
        ("modules", ("name",)),
    ):
        for member in getattr(work, field, ()):
            yield from ((f"work.{field}", getattr(member, part)) for part in parts)
    for key in (*getattr(work, "parameters", {}), *link.parents):
        yield "work.parameters", key


def _small(link: Record) -> Iterator[Fault]:
    """Nothing is carried that no stage writes: results, a failed state, files without an end."""
    name = f"{link.kind} {link.id}"
    if isinstance(link, Submission):
        expected = Words("none: a submission is its claim and its chain")
        for field, value in (("results", link.results), ("outputs", link.outputs)):
            if value:
                yield fault(RECORD, field, Words("something"), expected)
        if link.counts:
            yield fault(RECORD, "counts", Words("something"), expected)
        if link.status != "done":
            yield fault(RECORD, "status", link.status, "done")
    if link.error is not None:
        yield fault(RECORD, f"{name}: error", link.error, Words("nothing: the stage is done"))
    sizes = {"made_by": (len(orjson.dumps(link.made_by.model_dump(mode="json"))), MAX_RESULTS)}
    if not isinstance(link, ScoresRecord | Submission):  # those have fields of their own
        sizes["results"] = (len(orjson.dumps(link.results)), MAX_RESULTS)
    work = link.work.model_dump(mode="json", exclude={"modules", "sources", "tasks", "inputs"})
    sizes["work"] = (len(orjson.dumps(work)), MAX_JSON)
    modules = sum(len(module.text) for module in getattr(link.work, "modules", ()))
    sizes["work.modules"] = (modules, MAX_MODULES)
    for field, (size, most) in sizes.items():
        if size > most:
            problem, expected = Words(f"{size:,} bytes"), Words(f"at most {most:,}")
            yield fault(RECORD, f"{name}: {field}", problem, expected)


def _time(value: str) -> datetime | None:
    """A time as records have it; None for anything else, and for days that no calendar has."""
    try:
        when = datetime.strptime(value, TIME)
    except ValueError:
        return None
    return when if when.strftime(TIME) == value else None


def is_printable(label: str, *, most: int = MAX_LABEL) -> bool:
    """Whether a text is one line that can be seen: no controls, no changes of direction."""
    if label.isascii() and label.isprintable():  # nearly all
        return 0 < len(label) <= most
    return 0 < len(label) <= most and not any(unicodedata.category(c) in UNSEEN for c in label)


CONTROLS: Mapping[str, tuple[str, ...]] = {
    "multiple_choice": ("context swapped", "options rotated"),
    **dict.fromkeys(("schema", "language_modeling", "generation"), ("context swapped",)),
    "image_classification": ("images shuffled",),
    "image_retrieval": ("captions shuffled",),
    "image_restoration": ("measurements swapped",),
}
"""Which controls there are of a kind of task."""


def _controls(case: Case, scores: ScoresRecord) -> Iterator[Fault]:
    """Each control is of a task of the suite, there once, and its figures add up."""
    seen: set[tuple[str, str]] = set()
    for number, control in enumerate(scores.results.controls):
        where = f"scores {scores.id}: results.controls[{number}]"
        figures = (control.score, control.control, control.drop, control.low, control.high)
        if control.task not in case.suite.tasks:
            yield fault(RECORD, where, control.task, Words("a task of the suite"))
        elif control.name not in CONTROLS.get(load_task(control.task).kind, ()):
            expected = Words("a control that its kind of task has")
            yield fault(RECORD, where, f"{control.task}: {control.name}", expected)
        elif (control.task, control.name) in seen:
            yield fault(RECORD, where, f"{control.task}: {control.name}", Words("each once"))
        elif not all(map(math.isfinite, figures)) or control.num_items < 1:
            yield fault(RECORD, where, Words("figures that are none"), Words("finite ones"))
        elif not (0 <= control.score <= 1 and 0 <= control.control <= 1):
            figure = Words(f"{control.score} and {control.control}")
            yield fault(RECORD, where, figure, Words("shares of questions, 0 to 1"))
        elif not _adds_up(control):
            figure = Words(f"{control.drop} [{control.low}, {control.high}]")
            yield fault(RECORD, where, figure, Words("score less control, inside its interval"))
        seen.add((control.task, control.name))


def _adds_up(control: Control) -> bool:
    return (
        abs(control.score - control.control - control.drop) <= EXACT
        and control.low <= control.drop <= control.high
    )


def _figures(case: Case, model: Record) -> Iterator[Fault]:
    """What training wrote of itself: numbers, and what was seen among them."""
    name, results = f"model {model.id}: results", model.results
    unit = case.book.budget_unit.replace(" ", "_")
    seen = unit if unit.endswith("_seen") else f"{unit}_seen"
    if not isinstance(results, dict):
        yield fault(RECORD, name, Words("nothing"), Words(f"figures with {seen}"))
        return
    value = results.get(seen)
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        yield fault(RECORD, f"{name}.{seen}", value, Words("a whole number, 0 or more"))
    flops = results.get("flops", 1.0)
    if type(flops) not in (int, float) or not 0 < flops < 1e40:
        yield fault(RECORD, f"{name}.flops", flops, Words("a number above 0"))
    loss = results.get("loss")
    if isinstance(loss, int | float) and loss < 0:
        yield fault(RECORD, f"{name}.loss", loss, Words("0 or more"))
    for key, figure in results.items():
        if not is_printable(key) or not _is_number(figure):
            yield fault(RECORD, f"{name}.{key[:MAX_LABEL]}", figure, Words("a number"))


LEAST_BYTES = 0.5
"""Bytes of a file for one parameter: at four bits, which no stage here writes."""


def _size(case: Case, model: ModelRecord) -> Iterator[Fault]:
    """All seeds have one model size, and their files are as large as so many parameters are."""
    params = model.counts.get("params", 0)
    first = case.models[0]
    if params != first.counts.get("params", 0):
        expected = Words(
            f"{first.counts.get('params', 0):,}, as the model of seed {first.work.seed}"
        )
        yield fault(RECORD, f"model {model.id}: counts.params", params, expected)
    stored = sum(file.num_bytes for file in model.outputs)
    if model.outputs and stored < LEAST_BYTES * params:
        expected = Words(f"{LEAST_BYTES * params:,.0f} or more, for {params:,} parameters")
        yield fault(RECORD, f"model {model.id}: outputs", Words(f"{stored:,} bytes"), expected)


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))
