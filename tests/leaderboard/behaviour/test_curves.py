"""Scores of checkpoints from `evaluate --checkpoint all` to the submission's page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import CurvePoint, open_bundle, write_zip
from leaderboard.submissions.curves import curves_of, read_checkpoints
from leaderboard.web.app import create_app
from pipelines.errors import RuleError
from pipelines.records import ScoresRecord, digest
from pipelines.storage.open import open_store
from tests.leaderboard.frauds import altered, control_of, controls, manifested, record_of, refused
from tests.leaderboard.made_up import MADE_BY, make_folder, sha

NAMES = ("step-00000010", "step-00000020")


def with_checkpoints(fields: dict[str, Any]) -> None:
    """The model's record with two weights on the way."""
    for name in NAMES:
        fields["outputs"].append(
            {
                "name": f"intermediate/{name}.safetensors",
                "sha256": sha(name, fields["work"]["seed"]),
                "num_bytes": 10,
                "num_rows": None,
            }
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return altered(make_folder(tmp_path), "model", with_checkpoints)


def evaluated(folder: Path, out: Path, values: tuple[float, ...], suite: str = "tiny") -> Path:
    """What `evaluate --checkpoint all` writes: a folder of scores for each checkpoint."""
    record = record_of(folder)
    model = next(link for link in record.chain if link.kind == "model")
    scores = next(link for link in record.chain if isinstance(link, ScoresRecord))
    for name, value in zip(NAMES, values, strict=True):
        head = scores.results.aggregates["bits_per_byte"].model_copy(update={"value": value})
        results = scores.results.model_copy(
            update={"aggregates": scores.results.aggregates | {"bits_per_byte": head}}
        )
        made = ScoresRecord.seal(
            work=scores.work.model_copy(update={"suite": suite}),
            parents={"model": digest([model.id, name])},
            results=results,
            made_by=MADE_BY,
        )
        (out / name).mkdir(parents=True)
        (out / name / "record.json").write_bytes(made.to_json())
    return out


def curve(*values: tuple[str, float]) -> dict[str, Any]:
    points = [CurvePoint(checkpoint=name, value=value, stderr=0.1) for name, value in values]
    return {"124": [point.model_dump() for point in points]}


def test_folders_of_scores_become_a_curve(folder: Path, tmp_path: Path) -> None:
    out = evaluated(folder, tmp_path / "out", (3.5, 3.25))
    measured = read_checkpoints([str(out)], record_of(folder).chain, suite="tiny")
    curves = curves_of(measured, headline="bits_per_byte")
    assert [(p.step, p.value) for p in curves["124"]] == [(10, 3.5), (20, 3.25)]


def test_scores_of_another_model_or_suite_are_no_curve(folder: Path, tmp_path: Path) -> None:
    chain = record_of(folder).chain
    other = altered(make_folder(tmp_path / "x", chance=5), "model", with_checkpoints)
    out = evaluated(other, tmp_path / "other", (3.5, 3.25))
    with pytest.raises(RuleError, match="of other models than those that are submitted"):
        read_checkpoints([str(out)], chain, suite="tiny")
    out = evaluated(folder, tmp_path / "suite", (3.5, 3.25), suite="another")
    with pytest.raises(RuleError, match="holds no scores of suite tiny"):
        read_checkpoints([str(out)], chain, suite="tiny")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuleError, match="has no scores of checkpoints"):
        read_checkpoints([str(tmp_path / "empty")], chain, suite="tiny")


@pytest.mark.parametrize(
    "curves",
    [
        curve(("step-00000010", 3.5), ("step-00000099", 3.0)),
        curve(("step-00000020", 3.5), ("step-00000010", 3.0)),
        {"125": curve(("step-00000010", 3.5))["124"]},
    ],
    ids=["a checkpoint that is none", "another order", "another seed"],
)
def test_a_curve_that_cannot_be_is_refused(curves: dict[str, Any], folder: Path) -> None:
    refused(manifested(folder, curves=curves), "form.curves", "curves.")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    service = Service(store, open_store(tmp_path / "files"))
    with TestClient(create_app(service)) as client:
        yield client, service
    store.close()


def test_the_page_draws_the_curve_with_its_numbers(
    folder: Path, site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    manifested(folder, curves=curve(("step-00000010", 3.5), ("step-00000020", 3.25)))
    token, _ = create_token(service.store, "ci", scopes=["submit"], team="a team")
    submission, _ = service.receive(write_zip(folder, tmp_path / "x.zip"), token)
    service.check_next("check")
    service.store.move(submission.id, "accepted", who="ada")
    text = client.get(f"/submissions/{submission.id}").text
    start = text.index("<h2>While it was trained</h2>")
    part = text[start : text.index("<h2>Figures</h2>")]
    assert part.count("<circle") == 3
    assert "seed 124: 3.5000 at 10" in part
    value = open_bundle(folder).record.chain[-1].results.aggregates["bits_per_byte"].value
    for number in ("3.5", "3.25", f"{value:.4g}"[:4]):
        assert number in part
    assert "checkpoints of training" in part


def test_a_row_without_checkpoints_has_no_curve(
    folder: Path, site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    token, _ = create_token(service.store, "ci", scopes=["submit"], team="a team")
    submission, _ = service.receive(write_zip(folder, tmp_path / "x.zip"), token)
    service.check_next("check")
    service.store.move(submission.id, "accepted", who="ada")
    assert "While it was trained" not in client.get(f"/submissions/{submission.id}").text


def test_the_page_shows_what_the_tests_of_the_test_say(
    site: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = site
    folder = make_folder(tmp_path)
    unused = control_of(folder, task="heldout_next_sentence", drop=0.1)
    used = control_of(folder, drop=0.3)
    folder = altered(folder, "scores", controls(used, unused))
    token, _ = create_token(service.store, "ci", scopes=["submit"], team="a team")
    submission, _ = service.receive(write_zip(folder, tmp_path / "x.zip"), token)
    service.check_next("check")
    service.store.move(submission.id, "accepted", who="ada")
    text = client.get(f"/submissions/{submission.id}").text
    part = text[text.index("<h2>Does the test work</h2>") : text.index("<h2>Lineage</h2>")]
    assert part.count("context swapped") == 2
    assert "uses the context" in part
    assert "this score does not use the context" in part
    assert "0.1" in part
    assert "0.5" in part
