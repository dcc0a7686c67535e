"""Every scale of every rule book: a complete submission passes, and one broken rule is named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from evals.tasks import load_task
from leaderboard.benchmark import load_stages
from leaderboard.board.ranking import rank
from leaderboard.rules import baselines, load_benchmark
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.faults import HINTS
from leaderboard.submissions.logs import columns_of
from leaderboard.submissions.validate import check, check_bundle
from pipelines.records import Submission, parse_record
from tests.leaderboard.frauds import (
    Change,
    altered,
    changed,
    checked,
    known_of,
    manifested,
    put,
    record_of,
    relisted,
    rules_of,
)
from tests.leaderboard.made_up import make_folder

CORRUPTION: list[dict[str, Any]] = [{"operator": "corruption", "parameters": {"keep": ["none"]}}]
pytestmark = pytest.mark.usefixtures("few_draws")

FEW = 20  # questions a task without a number of its own; what is broken here is in the record
BOOKS = ("dclm", "datacomp", "ambient")
SCALES = [(book, scale.name) for book in BOOKS for scale in load_benchmark(book).scales]


@pytest.mark.parametrize(("benchmark", "scale"), SCALES)
def test_a_complete_submission_passes_and_ranks(benchmark: str, scale: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, benchmark=benchmark, scale=scale, method="complete")
    verdict = checked(folder)
    assert verdict.faults == ()
    assert verdict.measured is not None
    [row] = rank([verdict.measured.row], {})
    assert row.rank == (1 if load_benchmark(benchmark).scale(scale).ranked else 0)
    assert row.scale == scale


def other_task(fields: dict[str, Any]) -> None:
    fields["work"]["tasks"] = fields["work"]["tasks"][1:]


def other_definition(fields: dict[str, Any]) -> None:
    fields["work"]["tasks"][0]["definition"] = "0" * 32


def more_packed(fields: dict[str, Any]) -> None:
    for unit in ("documents", "samples", "images"):
        if unit in fields["counts"]:
            fields["counts"][unit] *= 10


BROKEN: dict[str, tuple[str, str, Change]] = {
    "pool": ("lineage.pool", "pool", put("work", "name", value="another pool")),
    "external": ("lineage.dataset", "dataset", put("work", "external", value=True)),
    "more rows": ("lineage.dataset", "dataset", put("counts", "rows_out", value=10**9)),
    "files": ("lineage.dataset", "dataset", lambda fields: fields["outputs"][0].update(num_rows=1)),
    "funnel": ("lineage.dataset", "dataset", put("counts", "rejected/9/a/b", value=7)),
    "more packed": ("lineage.dataset", "packed", more_packed),
    "a smaller pool": ("lineage.dataset", "pool", put("counts", "documents", value=10)),
    "recipe": ("lineage.recipe", "model", put("work", "recipe", "scale", value="another")),
    "model's scale": ("lineage.recipe", "model", put("work", "scale", value="another")),
    "benchmark": ("lineage.recipe", "model", put("work", "benchmark", value="another")),
    "packing": ("lineage.recipe", "packed", put("work", "mode", value="another")),
    "seed": ("lineage.seeds", "model", put("work", "seed", value=999_999)),
    "suite": ("lineage.suite", "scores", put("work", "suite", value="another")),
    "suite's version": ("lineage.suite", "scores", put("work", "suite_version", value="0")),
    "tasks": ("lineage.suite", "scores", other_task),
    "definition": ("lineage.suite", "scores", other_definition),
    "figures": ("form.record", "model", put("results", value={"tokens_seen": -1})),
    "counts": ("form.record", "dataset", put("counts", "rows_in", value=-1)),
    "steps": ("form.record", "dataset", put("work", "pipeline", "steps", value=[3])),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Submission]:
    """A complete record of each scale, made once: its logs are not looked at here."""
    collected = {}
    for book, scale in SCALES:
        folder = make_folder(
            tmp_path_factory.mktemp("records"), benchmark=book, scale=scale, rows=FEW
        )
        data = (folder / "submission.json").read_bytes()
        collected[book, scale] = parse_record(data, source="made up")
    return collected


def test_seventeen_scales_are_tried(records: dict[tuple[str, str], Submission]) -> None:
    assert len(records) == len(SCALES) >= 17


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_refused_with_its_name(
    name: str, records: dict[tuple[str, str], Submission]
) -> None:
    rule, kind, change = BROKEN[name]
    for (book, scale), record in records.items():
        if name == "pool" and load_benchmark(book).scale(scale).pools == "open":
            continue
        faults = check(changed(record, kind, change), load_benchmark(book))
        assert rule in {fault.rule for fault in faults}, (book, scale)


@pytest.mark.parametrize(
    ("benchmark", "track"), [("dclm", "mixing"), ("datacomp", "byod"), ("ambient", "byod")]
)
def test_data_from_elsewhere_learns_which_track_takes_it(
    benchmark: str, track: str, records: dict[tuple[str, str], Submission]
) -> None:
    record = changed(records[benchmark, "tiny"], *BROKEN["external"][1:])
    faults = check(record, load_benchmark(benchmark))
    [hint] = [f.hint for f in faults if f.rule == "lineage.dataset" and "external" in f.field]
    assert f"data from elsewhere is for track {track}" in hint


# ---- rules of the claim, the chain and the files


def claimed(record: Submission, **fields: str) -> Submission:
    """The same chain with another claim."""
    other = Submission.seal(
        work=record.work.model_copy(update=fields),
        parents=record.parents,
        made_by=record.made_by,
    )
    return other.model_copy(update={"chain": record.chain})


def without_pool(record: Submission) -> Submission:
    return record.model_copy(update={"chain": record.chain[1:]})


def as_a_baseline(record: Submission) -> Submission:
    return claimed(record, method=baselines(record.work.benchmark)[0])


CLAIMS: dict[str, tuple[str, Callable[[Submission], Submission]]] = {
    "track": ("form.claim", lambda record: claimed(record, track="another")),
    "version": ("form.claim", lambda record: claimed(record, benchmark_version="0")),
    "address": ("form.claim", lambda record: claimed(record, url="javascript:alert(1)")),
    "name": ("form.claim", lambda record: claimed(record, method="two\nlines")),
    "letters": ("names.plain", lambda record: claimed(record, team="te\u0430m")),  # a Cyrillic a
    "a baseline's name": ("names.baseline", as_a_baseline),
    "no pool": ("form.chain", without_pool),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_that_breaks_a_rule_is_refused_with_its_name(
    name: str, records: dict[tuple[str, str], Submission]
) -> None:
    rule, change = CLAIMS[name]
    for (book, scale), record in records.items():
        faults = check(change(record), load_benchmark(book))
        assert {fault.rule for fault in faults} == {rule}, (book, scale)


def test_seeds_on_different_data_are_refused(tmp_path: Path) -> None:
    """At every scale whose recipe has two seeds; elsewhere one seed is all there is."""
    tried = 0
    for book, scale in SCALES:
        recipe = load_stages(book).recipe(load_benchmark(book).scale(scale).recipe)
        if len(recipe.seeds) < 2:
            continue
        folder = make_folder(
            tmp_path, benchmark=book, scale=scale, seeds=recipe.seeds[:2], rows=FEW
        )
        seen: list[str] = []

        def other_data(fields: dict[str, Any], seen: list[str] = seen) -> None:
            seen.append("")
            if len(seen) == 2:
                fields["work"]["tasks"][0] |= {"identity": "0" * 64, "data": "0" * 64}

        faults = check(changed(record_of(folder), "scores", other_data), load_benchmark(book))
        assert {fault.rule for fault in faults} <= {"lineage.data", "lineage.suite"}, scale
        assert faults, (book, scale)
        tried += "lineage.data" in {fault.rule for fault in faults}
    assert tried


def flipped(folder: Path) -> None:
    """One bit of a log."""
    path = first_log(folder)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def first_log(folder: Path) -> Path:
    return min(folder.glob("questions/*/*/*.parquet"))


def without_a_log(folder: Path) -> None:
    """A task's log left out, and the manifest in order."""
    path = first_log(folder)
    name = path.relative_to(folder).as_posix()
    path.unlink()
    listed = orjson.loads((folder / "bundle.json").read_bytes())["files"]
    manifested(folder, files=[file for file in listed if file["name"] != name])


def with_another_file(folder: Path) -> None:
    name, data = "questions/0/another/000000.parquet", b"another"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(data)
    entry = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    listed = orjson.loads((folder / "bundle.json").read_bytes())["files"]
    manifested(folder, files=[*listed, entry])


def without_a_column(folder: Path) -> None:
    """Without the last of the columns that the log must have."""
    path = first_log(folder)
    *_, needed = columns_of(load_task(path.parent.name))[1]
    pq.write_table(pq.read_table(path).drop_columns([needed]), path)
    relisted(folder, {path.relative_to(folder).as_posix(): path.read_bytes()})


def raised(folder: Path) -> None:
    """A higher headline than the questions give, every id computed anew."""

    def change(fields: dict[str, Any]) -> None:
        for aggregate in fields["results"]["aggregates"].values():
            aggregate["value"] += 0.01

    altered(folder, "scores", change)


def more_uids(folder: Path) -> None:
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifested(folder, uids=manifest["uids"] | {"count": manifest["uids"]["count"] + 1})


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit of a log": ("form.manifest", flipped),
    "a place that is none": (
        "form.manifest",
        lambda folder: manifested(folder, dataset={"location": "file:///etc/passwd"}),
    ),
    "a file that no task needs": ("form.files", with_another_file),
    "no log of a task": ("arithmetic", without_a_log),
    "a log without a column": ("form.columns", without_a_column),
    "a raised score": ("arithmetic", raised),
    "a longer list of uids": ("form.uids", more_uids),
    "documents that cannot be": (
        "form.documents",
        lambda folder: manifested(folder, documents={"count": 10**12, "sketch": []}),
    ),
}


@pytest.mark.parametrize(("benchmark", "scale"), SCALES)
def test_files_that_break_a_rule_are_refused_with_its_name(
    benchmark: str, scale: str, tmp_path: Path
) -> None:
    whole = make_folder(tmp_path / "whole", benchmark=benchmark, scale=scale)
    for name, (rule, change) in FILES.items():
        if rule == "form.uids" and load_benchmark(benchmark).dataset_format != "uids":
            continue
        folder = Path(shutil.copytree(whole, tmp_path / name / whole.name))
        change(folder)
        assert rules_of(folder) == {rule}, (name, checked(folder).faults)
    same = make_folder(tmp_path / "same", benchmark=benchmark, scale=scale, team="thieves")
    assert rules_of(same, known_of(whole)) == {"novelty.copy"}


def test_every_rule_with_a_name_is_broken_here() -> None:
    """A new rule must be tried at every scale too."""
    tried = {rule for rule, *_ in (*BROKEN.values(), *CLAIMS.values(), *FILES.values())}
    elsewhere = {
        "form.bundle",  # zips: submissions/test_bundle.py, which no scale changes
        "lineage.data",  # seeds, above
        "lineage.price",  # the track that has a budget, below
        "lineage.speedrun",  # the track of speedruns: behaviour/test_speedruns.py
        "novelty.copy",  # another entry, above
        "form.checkpoints",  # logs of a speedrun: behaviour/test_speedrun_frauds.py
        "form.curves",  # submissions/test_curves.py: what only some submissions hold
    }
    assert tried | elsewhere == set(HINTS) | {"lineage.price"}


def test_the_refinedweb_scales_share_the_recipes_of_the_plain_ones() -> None:
    book = load_benchmark("dclm")
    for size in ("1b-1x", "3b-1x", "7b-1x"):
        scale = book.scale(f"{size}-refinedweb")
        assert load_stages("dclm").recipe(scale.recipe).scale == size
        assert scale.pools != "open"


@pytest.mark.parametrize(
    ("clean", "rules"),
    [
        # 30,000 images, of which so many are clean: 10 each, and 1 for each of the others. The
        # budget is 10 for each of the pool's 5,000 clean ones.
        (2_222, set()),  # 22,220 + 27,778 = 49,998
        (2_223, {"lineage.price"}),  # 50,007
        (5_000, {"lineage.price"}),
    ],
)
def test_a_track_with_a_budget_refuses_what_is_beyond_it(
    clean: int, rules: set[str], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, benchmark="ambient", track="price", clean=clean)
    faults = check_bundle(open_bundle(folder)).faults
    assert {fault.rule for fault in faults} == rules
    if faults:
        assert "at most 50,000, the cost of the pool's clean images" in faults[0].found
    same = make_folder(tmp_path / "b", benchmark="ambient", clean=clean)
    assert check_bundle(open_bundle(same)).faults == ()  # the other track has no budget


@pytest.mark.parametrize(
    ("track", "pool", "rules"),
    [
        ("unknown", "ambient-tiny-unknown", set()),
        ("filtering", "ambient-tiny", set()),
        ("unknown", "ambient-tiny", {"lineage.pool"}),  # whose levels were read
        ("filtering", "ambient-tiny-unknown", {"lineage.pool"}),
        ("price", "ambient-tiny-unknown", {"lineage.pool", "lineage.price"}),
        ("byod", "ambient-tiny-unknown", set()),
    ],
)
def test_a_track_that_withholds_corruption_has_pools_of_its_own(
    track: str, pool: str, rules: set[str], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, benchmark="ambient", track=track, pool=pool)
    faults = check_bundle(open_bundle(folder)).faults
    assert {fault.rule for fault in faults} == rules
    if "lineage.pool" in rules:
        assert f"a pool of track {track}" in faults[0].expected


SOLVER: dict[str, Any] = {"benchmark": "ambient", "scale": "tiny-solver"}


def solver(value: object) -> Change:
    return put("work", "parameters", "model", value={"solver": value} if value else {})


@pytest.mark.parametrize(
    ("options", "kind", "change", "rule"),
    [
        (SOLVER, "scores", solver({"name": "x", "sampler": "dps"}), ""),
        (SOLVER, "scores", solver(None), "lineage.suite"),
        ({"benchmark": "ambient"}, "scores", solver({"name": "x"}), "lineage.suite"),
        (SOLVER | {"track": "filtering"}, "pool", lambda fields: None, "form.claim"),
        ({"benchmark": "ambient", "track": "solver"}, "pool", lambda fields: None, "form.claim"),
        (SOLVER | {"steps": CORRUPTION}, "pool", lambda fields: None, "lineage.dataset"),
    ],
)
def test_a_solver_is_on_its_own_track_with_the_given_data(
    options: dict[str, Any], kind: str, change: Change, rule: str, tmp_path: Path
) -> None:
    data = (make_folder(tmp_path, **options) / "submission.json").read_bytes()
    record = parse_record(data, source="made up")
    assert isinstance(record, Submission)
    faults = check(changed(record, kind, change), load_benchmark("ambient"))
    assert {fault.rule for fault in faults} == ({rule} if rule else set())


def test_two_solvers_may_have_the_same_model(tmp_path: Path) -> None:
    """Data and models are given: only the answers must be one's own."""

    first = make_folder(tmp_path / "first", method="one", team="first", **SOLVER)
    verdict = checked(first)
    assert verdict.faults == ()
    assert any(notice.rule == "honesty.settings" for notice in verdict.notices)
    assert verdict.facts is not None
    known = KnownFacts((verdict.facts,))
    again = make_folder(tmp_path / "again", method="one", team="second", **SOLVER)
    copied = check_bundle(open_bundle(again), known=known)
    assert {fault.rule for fault in copied.faults} == {"novelty.copy"}
    assert "the answers" in str(copied.faults[0].found)
    other = make_folder(tmp_path / "other", method="one", team="first", skill=0.6, **SOLVER)
    further = check_bundle(open_bundle(other), known=known)
    assert further.faults == ()  # one's own data and model again: the solver is what is new
    assert verdict.measured is not None
    assert further.measured is not None
    ours = further.measured.row.model_copy(update={"settings_id": "another solver's"})
    assert [row.rank for row in rank([verdict.measured.row, ours], {})] == [1, 2]
    same = [verdict.measured.row, further.measured.row]  # one solver: the older entry stays
    assert [row.rank for row in rank(same, {})] == [1, 0]
