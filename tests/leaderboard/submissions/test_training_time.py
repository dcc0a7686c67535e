"""No model was trained faster than devices can: what each benchmark's records say of time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from leaderboard.benchmark import load_stages
from leaderboard.rules import load_benchmark
from leaderboard.submissions.case import Case
from leaderboard.submissions.training_time import FASTEST_DEVICE, too_fast
from pipelines.records import ModelRecord, ModelWork
from tests.leaderboard.made_up import MADE_BY


def faults_of(benchmark: str, scale: str, **figures: float) -> list[str]:
    """The fields of a model's record that are refused."""
    book, package = load_benchmark(benchmark), load_stages(benchmark)
    recipe: Any = package.recipe(book.scale(scale).recipe)
    model = ModelRecord.seal(
        work=ModelWork(
            benchmark=benchmark, scale=scale, recipe=recipe.model_dump(mode="json"), seed=0
        ),
        parents={},
        outputs=(),
        counts={"steps": package.num_steps(recipe)},
        results={f"{book.budget_unit}_seen": package.budget(recipe)},
        made_by=MADE_BY.model_copy(update={"figures": figures}),
    )
    case = SimpleNamespace(package=package, recipe=recipe, models=[model], book=book)
    return [fault.field.partition(": ")[2] for fault in too_fast(cast(Case, case))]


RATE = "made_by.figures.samples_per_second"
SECONDS = "made_by.figures.seconds"


def test_the_operations_of_a_scale_are_those_of_its_recipe() -> None:
    # B/32: 14.78 G forward, three times that with backward (open_clip's profile), 128 M samples
    pairs = load_stages("datacomp")
    assert pairs.operations(pairs.recipe("medium")) == pytest.approx(3 * 14.78e9 * 128e6, rel=0.01)
    assert pairs.operations(pairs.recipe("tiny")) is None
    # an MLP 64-256-256-256-64: 2 * (64 * 256 * 2 + 256 * 256 * 2) forward, 640,000 images
    images = load_stages("ambient")
    values = images.recipe("tiny").model_dump(mode="json")
    values |= {"network": {"kind": "mlp", "width": 256, "layers": 3}, "images": 640_000}
    recipe = type(images.recipe("tiny")).model_validate(values)
    assert images.operations(recipe) == 3 * 327_680 * 640_000


@pytest.mark.parametrize(
    ("benchmark", "scale", "figures", "fields"),
    [
        # 5.68e18 operations: 284 seconds of the fastest device, so at most 3.6 M samples a second
        # of eight of them; a year of one would be 4 samples a second
        ("datacomp", "medium", {"gpus": 8.0, "samples_per_second": 3.7e6}, [RATE]),
        ("datacomp", "medium", {"gpus": 8.0, "samples_per_second": 3.5e6}, []),
        ("datacomp", "medium", {"gpus": 1.0, "samples_per_second": 4.0}, []),
        ("datacomp", "medium", {"gpus": 0.0, "samples_per_second": 4.0}, ["made_by.figures"]),
        ("datacomp", "medium", {"gpus": 8.0, "samples_per_second": -1.0}, ["made_by.figures"]),
        ("datacomp", "medium", {"gpus": 8.0}, []),
        ("datacomp", "tiny", {"gpus": 1.0, "samples_per_second": 1e9}, []),
        # 1.1e20 operations: 5,486 seconds
        ("ambient", "large", {"processes": 8.0, "seconds": 680.0, "resumed": 0.0}, [SECONDS]),
        ("ambient", "large", {"processes": 8.0, "seconds": 700.0, "resumed": 0.0}, []),
        ("ambient", "large", {"processes": 8.0, "seconds": 680.0, "resumed": 1.0}, []),
        ("ambient", "large", {"seconds": float("nan")}, ["made_by.figures"]),
        # 2.03e19: 1,017 seconds; the second half of it 509
        ("dclm", "400m-1x", {"num_processes": 2.0, "seconds": 500.0}, [SECONDS]),
        ("dclm", "400m-1x", {"num_processes": 2.0, "seconds": 520.0}, []),
        ("dclm", "400m-1x", {"seconds": 0.0}, ["made_by.figures"]),
    ],
)
def test_devices_have_a_limit(
    benchmark: str, scale: str, figures: dict[str, float], fields: list[str]
) -> None:
    assert faults_of(benchmark, scale, **figures) == fields


def test_a_resumed_run_has_the_operations_of_its_rest() -> None:
    package = load_stages("dclm")
    steps = package.num_steps(package.recipe("400m-1x"))
    half = {"num_processes": 2.0, "first_step": float(steps // 2)}
    assert faults_of("dclm", "400m-1x", **half, seconds=270.0) == []
    assert faults_of("dclm", "400m-1x", **half, seconds=240.0) == [SECONDS]
    beyond = {"num_processes": 2.0, "first_step": steps + 1.0, "seconds": 270.0}
    assert faults_of("dclm", "400m-1x", **beyond) == ["made_by.figures"]


def test_the_limit_is_above_every_device_s_data_sheet() -> None:
    assert FASTEST_DEVICE > 144e15 / 8  # DGX B300: eight GPUs at four bits, sparse
