"""Frauds in records alone: counts that do not follow, baselines that are none, freight, names.

Each seals every record anew after its change. Records of one complete submission of each benchmark
are made once; what is broken is found without a log.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from leaderboard.rules import load_benchmark
from leaderboard.service.evidence import evidence_of
from leaderboard.service.verdicts import repeat_verdicts
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.case import Case
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.validate import check, check_bundle
from pipelines.errors import RuleError
from pipelines.records import Record, Submission, parse_record
from tests.leaderboard.frauds import Change, altered, changed, put
from tests.leaderboard.made_up import make_folder

BOOKS = ("dclm", "datacomp", "ambient")
CORRUPTION: list[dict[str, Any]] = [{"operator": "corruption", "parameters": {"keep": ["none"]}}]
CLEAN_ALONE: dict[str, Any] = {"operator": "noise_level", "parameters": {"sigma_min": 0.0}}


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Submission]:
    """One complete record of each benchmark at tiny, and the baselines that are edited below."""
    folder = tmp_path_factory.mktemp("records")
    options: dict[str, dict[str, Any]] = {
        "dclm": {"rows": 20},
        "datacomp": {"benchmark": "datacomp", "rows": 20},
        "ambient": {"benchmark": "ambient"},
        "price": {"benchmark": "ambient", "track": "price", "clean": 2_000},
        "no_filter": {"method": "no_filter", "steps": [], "rows": 20},
        "own data": {
            "track": "mixing",
            "method": "no_filter",
            "steps": [],
            "pool": "my pages",
            "rows": 20,
        },
        "own images": {
            "benchmark": "ambient",
            "track": "byod",
            "method": "clean_only",
            "steps": CORRUPTION,
            "pool": "mine",
        },
        "everything": {
            "benchmark": "ambient",
            "method": "everything_as_clean",
            "steps": [CLEAN_ALONE],
        },
        "25m": {"scale": "25m", "rows": 20},
    }
    return {
        name: read(make_folder(folder / name.replace(" ", "_"), **o)) for name, o in options.items()
    }


def read(folder: Path) -> Submission:
    record = parse_record((folder / "submission.json").read_bytes(), source="made up")
    assert isinstance(record, Submission)
    return record


def rules_of(record: Submission) -> set[str]:
    faults = check(record, load_benchmark(record.work.benchmark))
    for fault in faults:
        assert all((fault.file, fault.found, fault.expected, fault.hint)), fault
        assert str(fault).isprintable(), fault
    return {fault.rule for fault in faults}


def counts(**numbers: int) -> Change:
    return lambda fields: fields["counts"].update(numbers)


def kept(number: int, **more: int) -> Change:
    """A dataset of so many rows, its one file as long."""

    def change(fields: dict[str, Any]) -> None:
        fields["counts"] |= {"rows_out": number, **{k: v for k, v in more.items() if v}}
        fields["outputs"][0]["num_rows"] = number

    return change


def small_packed(fields: dict[str, Any]) -> None:
    fields["counts"] |= {"documents": 1000, "tokens": 700_000}


def without(*names: str) -> Change:
    def change(fields: dict[str, Any]) -> None:
        for name in names:
            del fields["counts"][name]

    return change


def reason(old: str, new: str) -> Change:
    def change(fields: dict[str, Any]) -> None:
        fields["counts"][new] = fields["counts"].pop(old)

    return change


def pool_of(clean_share: float, level: float) -> Change:
    parameters = {"clean_share": clean_share, "kind": "gaussian", "level": level, "seed": 0}
    return put("work", "parameters", value=parameters)


def more_rows(fields: dict[str, Any]) -> None:
    kept(5_000_000)(fields)
    fields["counts"]["split_lines"] = 0


FREIGHT = "y" * 3_000_000
STOLEN: Change = lambda fields: fields["counts"].update({"rejected/1/secret/x": 999_000})  # noqa: E731

COUNTS: dict[str, tuple[str, str, list[tuple[str, Change]]]] = {
    "images of no kind, so of no price": (
        *("lineage.price", "price"),
        [("packed", without("images/none", "images/gaussian"))],
    ),
    "clean images that were not counted": (
        *("lineage.price", "price"),
        [("packed", put("counts", "images/none", value=1))],
    ),
    "clean images called noisy ones": (
        *("lineage.dataset", "price"),
        [("packed", lambda f: f["counts"].update({"images/none": 0, "images/gaussian": 60_000}))],
    ),
    "a pool of more clean images, so of a larger budget": (
        *("lineage.dataset", "price"),
        [("pool", put("counts", "clean", value=10**9))],
    ),
    "the same, with as many images": (
        *("lineage.dataset", "price"),
        [("pool", counts(clean=40_000, corrupted=10_000))],
    ),
    "a pool that was left clean": ("lineage.pool", "ambient", [("pool", pool_of(1.0, 0.5))]),
    "a pool of hardly any noise": ("lineage.pool", "ambient", [("pool", pool_of(0.1, 0.001))]),
    "more clean images than the pool has": (
        *("lineage.dataset", "ambient"),
        [
            (
                "packed",
                lambda f: f["counts"].update({"images/none": 6000, "images/gaussian": 24_000}),
            )
        ],
    ),
    "rows that a split is said to have made": (
        *("lineage.dataset", "dclm"),
        [("dataset", more_rows)],
    ),
    "hand-picked rows as the baseline": (
        *("lineage.dataset", "no_filter"),
        [("dataset", kept(1000)), ("packed", small_packed)],
    ),
    "hand-picked rows, with a reason of no step": (
        *("lineage.dataset", "no_filter"),
        [("dataset", kept(1000)), ("dataset", STOLEN), ("packed", small_packed)],
    ),
    "hand-picked rows, the others lost to errors": (
        *("names.baseline", "no_filter"),
        [("dataset", kept(1000, errors=999_000)), ("packed", small_packed)],
    ),
    "the baseline on a part of the pool": (
        *("names.baseline", "no_filter"),
        [("pool", counts(documents=10_000_000))],
    ),
    "a baseline whose rows the reader is said to have refused": (
        *("names.baseline", "no_filter"),
        [
            ("dataset", kept(1000)),
            ("dataset", lambda f: f["counts"].update({"rejected/0/read/no_text": 999_000})),
            ("packed", small_packed),
        ],
    ),
    "a reason of a step beyond the last": (
        *("lineage.dataset", "dclm"),
        [("dataset", reason("rejected/2/exact_dedup/not_good", "rejected/7/exact_dedup/x"))],
    ),
    "a reason of another operator": (
        *("lineage.dataset", "datacomp"),
        [("dataset", reason("rejected/2/exact_dedup/not_good", "rejected/2/clip_score/x"))],
    ),
    "a reason of step one and a half": (
        *("lineage.dataset", "datacomp"),
        [("dataset", reason("rejected/2/exact_dedup/not_good", "rejected/1.5/exact_dedup/x"))],
    ),
    "a mixture on the track of one pipeline": (
        *("lineage.dataset", "dclm"),
        [("dataset", put("work", "pipeline", value={"name": "m", "mix": {"sources": []}}))],
    ),
    "steps of training that were overrun, pairs": (
        *("lineage.recipe", "datacomp"),
        [("model", counts(steps=10**9))],
    ),
    "steps of training that were overrun, images": (
        *("lineage.recipe", "ambient"),
        [("model", counts(steps=10**9))],
    ),
    "a model of other packed images": (
        *("lineage.recipe", "ambient"),
        [("model", counts(images_available=7))],
    ),
    "training that cost nothing, pairs": (
        *("lineage.recipe", "datacomp"),
        [("model", put("results", "flops", value=1.0))],
    ),
    "training that cost nothing, images": (
        *("lineage.recipe", "ambient"),
        [("model", put("results", "flops", value=1.0))],
    ),
    "a baseline's name on data of one's own": (
        *("names.baseline", "own data"),
        [("dataset", put("work", "external", value=True))],
    ),
    "a baseline's name on images of one's own": (
        *("names.baseline", "own images"),
        [("dataset", put("work", "external", value=True))],
    ),
    "a baseline with a parameter that its file leaves out": (
        *("names.baseline", "everything"),
        [
            (
                "dataset",
                put(
                    "work",
                    "pipeline",
                    "steps",
                    value=[CLEAN_ALONE | {"parameters": {"sigma_min": 0.0, "of_level": 0.001}}],
                ),
            )
        ],
    ),
    "freight in a pool's results": (
        *("form.record", "dclm"),
        [("pool", lambda f: f.update(results={"x": FREIGHT}))],
    ),
    "freight in a model's results": (
        *("form.record", "datacomp"),
        [("model", put("results", "x", value="a word"))],
    ),
    "freight in a pool's parameters": (
        *("form.record", "datacomp"),
        [("pool", put("work", "parameters", "x", value=FREIGHT))],
    ),
    "freight in an evaluation's settings": (
        *("form.record", "ambient"),
        [("scores", put("work", "parameters", "model", value={"x": FREIGHT}))],
    ),
    "freight in a module": (
        *("form.record", "ambient"),
        [
            (
                "dataset",
                put(
                    "work",
                    "modules",
                    value=[
                        {
                            "name": "m.py",
                            "text": FREIGHT * 2,
                            "sha256": hashlib.sha256((FREIGHT * 2).encode()).hexdigest(),
                        }
                    ],
                ),
            )
        ],
    ),
    "a pool's name that turns direction": (
        *("form.record", "25m"),
        [("pool", put("work", "name", value="dclm\u202eloop"))],
    ),
    "a licence of two lines": (
        *("form.record", "25m"),
        [("pool", lambda f: f["work"]["sources"][0].update(licence="CC0\u2028x"))],
    ),
    "a parameter that turns direction": (
        *("form.record", "dclm"),
        [
            (
                "dataset",
                lambda f: f["work"]["pipeline"]["steps"][0]["parameters"].update({"a\u202e": 1}),
            )
        ],
    ),
    "a file of less than nothing": (
        *("form.record", "dclm"),
        [("dataset", lambda f: f["outputs"][0].update(num_bytes=-5))],
    ),
    "a file whose hash is a word": (
        *("form.record", "ambient"),
        [("packed", lambda f: f["outputs"][0].update(sha256="not a hash"))],
    ),
    "a file's name that turns direction": (
        *("form.record", "datacomp"),
        [("dataset", lambda f: f["outputs"][0].update(name="../x\u202ey"))],
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_record_that_cannot_be_is_refused(name: str, submissions: dict[str, Submission]) -> None:
    rule, base, changes = COUNTS[name]
    record = submissions[base]
    assert (
        rules_of(record) <= {"names.baseline"} if base.startswith("own") else not rules_of(record)
    )
    for kind, change in changes:
        record = changed(record, kind, change)
    assert rule in rules_of(record)


def resealed(record: Submission, **fields: Any) -> Submission:
    """The submission with fields of its own that no command writes."""
    seal: dict[str, Any] = {"work": record.work, "parents": record.parents}
    own = Submission.seal(**seal, made_by=record.made_by, **fields)
    return own.model_copy(update={"chain": record.chain})


@pytest.mark.parametrize(
    "fields",
    [{"results": {"x": 1}}, {"counts": {"x": 1}}, {"status": "failed"}, {"error": "e" * 9}],
)
def test_a_submission_carries_its_claim_and_chain_alone(
    fields: dict[str, Any], submissions: dict[str, Submission]
) -> None:
    assert rules_of(resealed(submissions["dclm"], **fields)) == {"form.record"}


@pytest.mark.parametrize(
    "update",
    [
        {"host": "h" * 3_000_000},
        {"platform": "a\u202eb"},
        {"locations": {"out": "/x\u200b"}},
        {"versions": {"torch\u202e": "2"}},
    ],
)
def test_what_a_record_says_of_its_machine_is_a_line(
    update: dict[str, Any], submissions: dict[str, Submission]
) -> None:
    def at(link: Record) -> Record:
        return link.model_copy(update={"made_by": link.made_by.model_copy(update=update)})

    record = submissions["datacomp"]
    chain = tuple(at(link) for link in record.chain)
    assert rules_of(record.model_copy(update={"chain": chain})) == {"form.record"}


# ---- honest records


def external(fields: dict[str, Any]) -> None:
    fields["work"]["external"] = True


def mixed(fields: dict[str, Any]) -> None:
    """What `dclm mix` writes: shares in place of steps, and no rows that came in."""
    sources = [{"name": "web", "record": "0" * 32, "repeat": 1.5}]
    fields["work"]["pipeline"] = {"name": "a mix", "mix": {"seed": 0, "sources": sources}}
    fields["work"]["output"] = {"format": "mix"}
    fields["counts"] = {"rows_out": 1_000_000, "file_bytes": 10}


def step(operator: str) -> Change:
    """A pipeline of one step without parameters."""
    return put("work", "pipeline", "steps", value=[{"operator": operator, "parameters": {}}])


def carries_own_code(fields: dict[str, Any]) -> None:
    sha256 = hashlib.sha256(b"...").hexdigest()
    fields["work"]["modules"] = [{"name": "own.py", "text": "...", "sha256": sha256}]


GROWN: Change = lambda f: f.update(  # noqa: E731
    counts={"rows_in": 1000, "rows_out": 600_000, "errors": 0}
)

HONEST: dict[str, tuple[str, list[tuple[str, Change]]]] = {
    "an operator of one's own that splits": (
        "dclm",
        [
            ("dataset", step("my/own.py:Parts")),
            ("dataset", carries_own_code),
            ("dataset", GROWN),
        ],
    ),
    "a reason of an operator in a folder": (
        "dclm",
        [
            ("dataset", step("my/own.py:Keep")),
            ("dataset", carries_own_code),
            (
                "dataset",
                lambda f: f.update(
                    counts={
                        "rows_in": 700_000,
                        "rows_out": 600_000,
                        "rejected/1/my/own.py:Keep/bad": 100_000,
                    }
                ),
            ),
        ],
    ),
    "lines as rows": (
        "dclm",
        [
            ("dataset", step("split_lines")),
            ("dataset", GROWN),
        ],
    ),
    "a few rows lost to errors": (
        "no_filter",
        [("dataset", kept(999_900, errors=100)), ("packed", counts(documents=999_900))],
    ),
    "documents without text": (
        "dclm",
        [
            (
                "dataset",
                lambda f: f["counts"].update(
                    {
                        "rejected/0/read/no_text": 50_000,
                        "rows_in": f["counts"]["rows_in"] + 50_000,
                    }
                ),
            ),
            ("pool", lambda f: f["counts"].update(documents=10_000_000)),
        ],
    ),
    "more counts of the pool": ("datacomp", [("pool", counts(pairs=50_000))]),
    "an older pool without counts": ("datacomp", []),
    "a loss that was no number": ("ambient", [("model", put("results", "loss", value=None))]),
    "another machine's revision": ("ambient", [("model", counts(images_available=30_000))]),
    "a file without rows": ("dclm", [("packed", lambda f: f["outputs"][0].update(num_rows=None))]),
    "what is packed is less than the dataset": ("datacomp", [("packed", counts(samples=29_000))]),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_records_pass(name: str, submissions: dict[str, Submission]) -> None:
    base, changes = HONEST[name]
    record = submissions[base]
    for kind, change in changes:
        record = changed(record, kind, change)
    assert rules_of(record) == set()


def test_a_mixture_is_taken_on_the_track_of_mixtures(submissions: dict[str, Submission]) -> None:
    record = changed(submissions["own data"], "dataset", mixed)
    work = record.work.model_copy(update={"method": "a mix"})
    record = Submission.seal(work=work, parents=record.parents, made_by=record.made_by).model_copy(
        update={"chain": record.chain}
    )
    assert rules_of(record) == set()


def test_a_mixture_has_its_page_and_its_commands(tmp_path: Path) -> None:
    options: dict[str, Any] = {"track": "mixing", "method": "a mix", "steps": [], "pool": "a mix"}
    folder = altered(make_folder(tmp_path, **options), "dataset", mixed)
    bundle = open_bundle(folder)
    verdict = check_bundle(bundle)
    assert verdict.faults == ()
    assert verdict.measured is not None
    assert (verdict.measured.row.kept_fraction, verdict.measured.row.baseline_of) == (None, "")
    evidence = evidence_of(bundle)
    assert "repeat: 1.5" in evidence.pipeline
    assert "dclm mix a-mix.yaml --out dataset" in evidence.commands
    case = Case(bundle.record, load_benchmark("dclm"), bundle)
    with pytest.raises(RuleError, match="a mixture of others"):
        repeat_verdicts(case, pool="x", dataset="y", fraction=0.01, salt="s")


def test_there_are_enough() -> None:
    assert len(COUNTS) >= 30
    assert KnownFacts(()).facts == ()
