"""Entries of the speedrun track: what is admitted, what is refused, and the page of the places."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from evals.suite import load_suite
from leaderboard.benchmark import load_stages
from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.rules import load_benchmark
from leaderboard.service.service import Service
from leaderboard.web.app import create_app
from pipelines.installed import folder as folder_of
from pipelines.storage.open import open_store
from tests.leaderboard.frauds import (
    altered,
    checked,
    known_of,
    listed,
    manifested,
    put,
    refused,
    rules_of,
)
from tests.leaderboard.made_up import make_folder, make_zip

pytestmark = pytest.mark.usefixtures("few_draws")
RACES = [
    (book, scale.name)
    for book in ("dclm", "datacomp")
    for scale in load_benchmark(book).scales
    if scale.speedrun is not None
]
THREE = (124, 125, 126)


def race(out: Path, **options: Any) -> Path:
    return make_folder(out, track="speedrun", **options)


def test_eight_scales_have_a_speedrun() -> None:
    assert len(RACES) == 8


@pytest.mark.parametrize(("benchmark", "scale"), RACES)
def test_a_whole_entry_passes_at_every_scale(benchmark: str, scale: str, tmp_path: Path) -> None:
    assert checked(race(tmp_path, benchmark=benchmark, scale=scale)).faults == ()


@pytest.mark.parametrize(("benchmark", "scale"), RACES)
def test_checkpoints_are_measured_by_the_headline_of_the_scale(benchmark: str, scale: str) -> None:
    """The last point is the row's own score, so both suites must mean the same by it."""
    rung = load_benchmark(benchmark).scale(scale)
    assert rung.speedrun is not None
    own, theirs = (
        load_suite(folder_of(benchmark) / "suites" / f"{name}.yaml")
        for name in (rung.suite, rung.speedrun.suite)
    )
    head = next(a for a in own.aggregates if a.name == own.headline)
    other = next(a for a in theirs.aggregates if a.name == theirs.headline)
    assert (head.name, head.how, own.members(head)) == (
        other.name,
        other.how,
        theirs.members(other),
    )


@pytest.mark.parametrize(("benchmark", "scale"), RACES)
def test_every_other_change_of_the_recipe_is_refused(
    benchmark: str, scale: str, tmp_path: Path
) -> None:
    """Only the data changes: not the rate, and not the number of checkpoints."""
    for name, value in (("learning_rate", 0.5), ("num_checkpoints", 3), ("seeds", [1])):
        whole = race(tmp_path / name, benchmark=benchmark, scale=scale)
        changed = altered(whole, "model", put("work", "recipe", name, value=value))
        assert refused(changed, "lineage.recipe", f"work.recipe.{name}")


def test_the_recipe_of_another_track_is_refused(tmp_path: Path) -> None:
    official = load_stages("dclm").recipe("tiny").model_dump(mode="json")
    plain = altered(race(tmp_path / "a"), "model", put("work", "recipe", value=official))
    refused(plain, "lineage.recipe", "num_checkpoints")


def test_a_score_that_is_left_out_is_refused(tmp_path: Path) -> None:
    folder = race(tmp_path)
    curves = orjson.loads((folder / "bundle.json").read_bytes())["curves"]
    fewer = {seed: points[:3] + points[4:] for seed, points in curves.items()}
    fault = refused(manifested(folder, curves=fewer), "lineage.speedrun", "curves.124")
    assert "step-00000180" in fault.found
    assert refused(manifested(folder, curves={}), "lineage.speedrun", "curves.124")


@pytest.mark.parametrize("steps", [(), (45, 90), tuple(range(1, 16))])
def test_checkpoints_at_other_steps_are_refused(steps: tuple[int, ...], tmp_path: Path) -> None:
    def elsewhere(fields: dict[str, Any]) -> None:
        kept = [file for file in fields["outputs"] if "intermediate/" in file["name"]]
        others = [file for file in fields["outputs"] if file not in kept]
        new = [
            file | {"name": f"intermediate/step-{step:08d}.safetensors"}
            for file, step in zip(kept, steps, strict=False)
        ]
        fields["outputs"] = [*others, *new]

    folder = altered(_elsewhere(race(tmp_path), steps), "model", elsewhere)
    points = [{"checkpoint": f"step-{step:08d}", "value": 3.0} for step in steps]
    fault = refused(manifested(folder, curves={"124": points}), "lineage.speedrun", "model")
    assert "those of the recipe, at 45, 90, 135," in fault.expected


def _elsewhere(folder: Path, steps: Sequence[int]) -> Path:
    """The files of the first checkpoints below other steps, those of the others removed."""
    kept = sorted((folder / "checkpoints" / "124").iterdir())
    written: dict[str, bytes | None] = {}
    files = {path: path.read_bytes() for own in kept for path in own.rglob("*.*")}
    shutil.rmtree(folder / "checkpoints")
    for number, own in enumerate(kept):
        for path, data in ((path, data) for path, data in files.items() if own in path.parents):
            written[path.relative_to(folder).as_posix()] = None
            if number < len(steps):
                there = own.with_name(f"step-{steps[number]:08d}") / path.relative_to(own)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(data)
                written[there.relative_to(folder).as_posix()] = data
    return listed(folder, written)


def test_the_speedrun_of_an_entry_of_ones_own_is_no_copy(tmp_path: Path) -> None:
    """The final weights are the same; a second speedrun, or another team's, is a copy."""
    plain, same = make_folder(tmp_path / "plain"), race(tmp_path / "race")
    assert rules_of(same, known_of(plain)) == set()
    again = race(tmp_path / "again", url="https://example.org/again")
    assert rules_of(again, known_of(same)) == {"novelty.copy"}
    thieves = race(tmp_path / "thieves", team="thieves")
    assert rules_of(thieves, known_of(plain)) == {"novelty.copy"}


def test_a_scale_without_a_target_has_no_such_track(tmp_path: Path) -> None:
    assert "speedrun" not in load_benchmark("dclm").tracks_of("400m-1x")
    assert "speedrun" in load_benchmark("dclm").tracks_of("tiny")
    folder = make_folder(tmp_path, scale="400m-1x", changed={"track": "speedrun"}, rows=20)
    refused(folder, "form.claim", "work.track")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    service = Service(store, open_store(tmp_path / "files"))
    with TestClient(create_app(service)) as client:
        yield client, service
    store.close()


def accept(service: Service, path: Path) -> str:
    token, _ = create_token(service.store, path.stem[:8], scopes=["submit"], team="a team")
    submission, _ = service.receive(path, token)
    service.check_next("check")
    assert service.store.get(submission.id).faults == ()
    service.store.move(submission.id, "accepted", who="maintainer")
    return submission.id


def test_the_page_has_places_for_three_seeds_and_marks_fewer(
    site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    assert "No entries yet" in client.get("/speedruns/dclm").text
    target = load_benchmark("dclm").scale("tiny").speedrun
    assert target is not None
    assert target.target is not None
    # Half of a skill of .6 is 2.9 bits a byte, before the target; .98 of it is 2.3.
    race_ = {"track": "speedrun", "skill": 0.6}
    steady = make_zip(tmp_path, method="steady", seeds=THREE, chance=1, reach=8, **race_)
    lucky = make_zip(tmp_path, method="lucky", chance=2, reach=2, **race_)
    for path in (steady, lucky):
        accept(service, path)
    page = client.get("/speedruns/dclm")
    assert page.status_code == 200
    rows = [line for line in page.text.split("<tr") if "lucky" in line or "steady" in line]
    assert 'class="n">1</td>' in rows[0]
    assert "steady" in rows[0]
    assert "fewer than three seeds" not in rows[0]
    assert 'class="n">-</td>' in rows[1]
    assert "fewer than three seeds" in rows[1]
    assert "ranks the same entries" in client.get("/boards/dclm/tiny/speedrun").text
    assert client.get("/speedruns/nothing").status_code == 404


def test_the_page_of_an_entry_says_which_gap_its_seeds_see(
    site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    for number, words in ((1, "One seed sees"), (3, "3 seeds see")):
        made = make_zip(tmp_path, method=f"of {number}", chance=number, seeds=THREE[:number])
        page = client.get(f"/submissions/{accept(service, made)}").text
        assert f"{words} a gap of " in page
        assert "with a probability of 80%" in page
    board = client.get("/boards/dclm/tiny/filtering").text
    marked = [line for line in board.split("<tr") if ">one seed</span>" in line]
    assert len(marked) == 1
    assert "of 1" in marked[0]


def test_the_page_needs_the_baseline_where_the_target_is_its_score(
    site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    race_ = {"benchmark": "datacomp", "track": "speedrun", "seeds": (0, 1, 2)}
    accept(service, make_zip(tmp_path, method="mine", chance=1, skill=0.6, **race_))
    assert "no entry of it is here yet" in client.get("/speedruns/datacomp").text
    accept(service, make_zip(tmp_path, method="no_filter", chance=2, skill=0.4, **race_))
    page = client.get("/speedruns/datacomp").text
    assert "what no_filter scores at 50% of its budget, " in page
    assert "mine</a>" in page
