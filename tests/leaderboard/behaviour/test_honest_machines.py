"""Honest entries as other people's machines make them: none is blocked, on any benchmark.

Resumed, with fewer threads, other versions and numbers that are rounded otherwise; of all scales
`test_scales` has a complete entry each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evals.tasks import Task
from leaderboard.submissions.facts import KnownFacts
from pipelines.records import Record
from tests.leaderboard.behaviour.test_record_frauds import external, mixed
from tests.leaderboard.frauds import altered, checked, known_of, record_of, rewritten
from tests.leaderboard.made_up import Edit, make_folder

pytestmark = pytest.mark.usefixtures("few_draws")

Build = Callable[[Path], Path]
Options = dict[str, Any]
TEXT: Options = {}
PAIRS: Options = {"benchmark": "datacomp", "rows": 200}
IMAGES: Options = {"benchmark": "ambient"}


def machine(options: Options, kinds: str = "model", **fields: Any) -> Build:
    """Records of some kinds made elsewhere: other figures, versions and times."""

    def build(folder: Path) -> Path:
        home = make_folder(folder, **options)
        made = record_of(home)

        def at(link: Record) -> Record:
            mine = link.made_by.model_copy(update=fields)
            return link.model_copy(update={"made_by": mine}) if link.kind in kinds else link

        return rewritten(home, made.model_copy(update={"chain": tuple(map(at, made.chain))}))

    return build


def logs(options: Options, change: Callable[[Task, pa.Table], pa.Table]) -> Build:
    edit: Edit = change
    return lambda folder: make_folder(folder, edit=edit, **options)


def single(task: Task, log: pa.Table) -> pa.Table:
    """Numbers with seven digits, as a GPU has them."""
    fields = [
        field.with_type(pa.float32()) if pa.types.is_float64(field.type) else field
        for field in log.schema
    ]
    return log if task.kind == "image_association" else log.cast(pa.schema(fields))


def turned(task: Task, log: pa.Table) -> pa.Table:
    """The rows as many workers wrote them: in another order."""
    order = np.random.default_rng(1).permutation(len(log))
    return log if task.kind == "image_retrieval" else log.take(pa.array(order))


def wide(task: Task, log: pa.Table) -> pa.Table:
    """Texts and whole numbers of the types that another library prefers."""
    kinds = {pa.string(): pa.large_string(), pa.int64(): pa.int32()}
    return log.cast(
        pa.schema([field.with_type(kinds.get(field.type, field.type)) for field in log.schema])
    )


def rounded(fields: Options) -> None:
    """Sums that were taken in another order: the last digits of every figure differ."""
    for score in (*fields["results"]["tasks"], *fields["results"]["aggregates"].values()):
        score["value"] *= 1 + 1e-9
        if score["stderr"] is not None:
            score["stderr"] *= 1 - 1e-9


def record(options: Options, kind: str, change: Callable[[Options], Any]) -> Build:
    return lambda folder: altered(make_folder(folder, **options), kind, change)


OTHER = {"torch": "2.11.0+cu130", "numpy": "2.4.1", "pyarrow": "24.0.0"}
HONEST: dict[str, Build] = {
    "a resumed run of text": machine(
        TEXT, figures={"seconds": 20.0, "first_step": 40.0, "num_processes": 1.0}
    ),
    "a resumed run of pairs": machine(PAIRS, figures={"samples_per_second": 300.0}),
    "a resumed run of images": machine(IMAGES, figures={"resumed": 1.0, "seconds": 2.5}),
    "one thread in place of many": machine(TEXT, figures={"num_threads": 1.0, "seconds": 900.0}),
    "eight processes": machine(TEXT, figures={"num_processes": 8.0, "seconds": 4.0}),
    "other libraries, text": machine(TEXT, "model scores", versions=OTHER, python="3.13.2"),
    "other libraries, pairs": machine(PAIRS, "model scores", versions=OTHER, python="3.12.9"),
    "other libraries, images": machine(IMAGES, "model scores", versions=OTHER, python="3.10.1"),
    "a laptop": machine(PAIRS, "dataset packed", platform="macOS-26-arm64", host=""),
    "code that was changed locally": machine(TEXT, "dataset", dirty=True, revision="f" * 40),
    "an installed package, no revision": machine(IMAGES, "dataset", dirty=None, revision=None),
    "evaluated a month later": machine(
        TEXT, "scores", started="2026-11-26T10:00:00Z", finished="2026-11-26T10:05:00Z"
    ),
    "a clock that is an hour behind": machine(
        PAIRS, "scores", started="2026-11-01T09:00:00Z", finished="2026-11-01T10:00:00Z"
    ),
    "numbers of seven digits, text": logs(TEXT, single),
    "numbers of seven digits, pairs": logs(PAIRS, single),
    "numbers of seven digits, images": logs(IMAGES, single),
    "rows in another order, text": logs(TEXT, turned),
    "rows in another order, pairs": logs(PAIRS, turned),
    "rows in another order, images": logs(IMAGES, turned),
    "types of another library": logs(TEXT, wide),
    "sums in another order, text": record(TEXT, "scores", rounded),
    "sums in another order, pairs": record(PAIRS, "scores", rounded),
    "sums in another order, images": record(IMAGES, "scores", rounded),
    "two seeds of images": lambda folder: make_folder(folder, seeds=(0, 1), **IMAGES),
    "a baseline of images": lambda folder: make_folder(folder, method="mix", steps=[], **IMAGES),
    "a third of the clean images, at their price": lambda folder: make_folder(
        folder, track="price", clean=1700, **IMAGES
    ),
    "pairs of one's own": record(PAIRS | {"track": "byod"}, "dataset", external),
    "images of one's own": record(IMAGES | {"track": "byod"}, "dataset", external),
    "a mixture": record(
        {"track": "mixing", "method": "a mix", "steps": [], "pool": "a mix"}, "dataset", mixed
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_entry_passes(name: str, tmp_path: Path) -> None:
    verdict = checked(HONEST[name](tmp_path))
    assert verdict.faults == ()
    assert verdict.measured is not None


@pytest.mark.parametrize("options", [TEXT, PAIRS, IMAGES])
def test_a_second_team_with_the_same_baseline_passes(options: Options, tmp_path: Path) -> None:
    """The same steps over the same pool on another machine: another order of sums, other losses."""
    same = options | {"steps": [], "method": "of ours"}
    first = make_folder(tmp_path / "a", team="first", **same)
    second = make_folder(tmp_path / "b", team="second", chance=1, **same)
    assert checked(second, known_of(first)).faults == ()


def test_models_of_another_size_are_told_to_the_reviewer(tmp_path: Path) -> None:
    """One recipe makes one model; its size is in the record alone where no rule computes it."""
    first = make_folder(tmp_path / "a", team="first", method="first", **PAIRS)
    own = make_folder(tmp_path / "b", team="second", method="second", chance=1, **PAIRS)
    known = known_of(first)

    def shown(folder: Path, board: KnownFacts) -> list[str]:
        verdict = checked(folder, board)
        assert verdict.faults == ()
        return [n.text for n in verdict.notices if n.rule == "plausible.params"]

    assert shown(own, known) == []
    larger = altered(own, "model", lambda fields: fields["counts"].update(params=20_000_000))
    expected = "the models have 20,000,000 parameters; those of accepted entries have 10,000,000"
    assert shown(larger, known) == [expected]
    waiting = KnownFacts((known.facts[0].model_copy(update={"accepted": False}),))
    assert shown(larger, waiting) == []  # nobody has looked at that one either
    elsewhere = KnownFacts((known.facts[0].model_copy(update={"scale": "small"}),))
    assert shown(larger, elsewhere) == []
    unsaid = altered(larger, "model", lambda fields: fields["counts"].pop("params"))
    assert shown(unsaid, known)[0].startswith("the models have no number of parameters; ")


def test_there_are_enough() -> None:
    assert len(HONEST) >= 20
