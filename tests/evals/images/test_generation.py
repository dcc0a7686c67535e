"""Generated images: the distance by hand, null models, and scores from the log alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evals.images import generation
from evals.images.generation import GaussianImages, TrainingSet
from evals.models import ModelError
from evals.run import score_task
from evals.tasks import GenerationTask, load_task
from pipelines.errors import DataError

NUMBER = 200


def images(seed: int, number: int = NUMBER) -> np.ndarray:
    """Two kinds of blobs, so that a Gaussian of pixels is another law."""
    rng = np.random.default_rng(seed)
    left = rng.random(number) < 0.5
    base = np.full((number, 1, 4, 4), -0.8, np.float32)
    base[left, :, :, :2] = 0.7
    base[~left, :, :, 2:] = 0.7
    return (base + 0.05 * rng.standard_normal(base.shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    layers = {
        "weight0": rng.standard_normal((16, 12)).astype(np.float32),
        "bias0": np.zeros(12, np.float32),
    }
    np.savez(tmp_path / "digits_heldout.npz", images=images(1), **layers)  # type: ignore[arg-type]
    return str(tmp_path)


def task_of(name: str) -> GenerationTask:
    task = load_task(name)
    assert isinstance(task, GenerationTask)
    return task


def score(name: str, folder: str, model: object) -> tuple[float, float]:
    task = task_of(name)
    kind = generation.KINDS[task.kind]
    data = kind.read(task, folder)
    log = kind.answer(task, data, range(NUMBER), model, window=0)
    measured, draws = score_task(task, log)  # type: ignore[arg-type]
    assert len(draws) == 1000
    assert abs(float(draws.mean()) - measured.value) < 0.05 * max(measured.value, 1e-3) + 1e-6
    return measured.value, measured.stderr


def test_null_models_are_where_they_should_be(folder: str) -> None:
    """Other images of the law are near, a Gaussian of the same moments is far."""
    fresh = TrainingSet(images(2))
    copies, copies_error = score("digits_frechet", folder, fresh)
    gaussian, _ = score("digits_frechet", folder, GaussianImages(images(2)))
    assert copies + 3 * copies_error < gaussian
    assert score("digits_novelty", folder, fresh)[0] < 1e-3
    assert score("digits_novelty", folder, GaussianImages(images(2)))[0] > 0.5


def distances(folder: str, drawn: np.ndarray) -> dict[str, float]:
    """All figures of images that a model drew, and the score among them."""
    task = task_of("digits_frechet")
    kind = generation.KINDS[task.kind]
    log = kind.answer(task, kind.read(task, folder), range(NUMBER), TrainingSet(drawn), window=0)
    assert isinstance(log, pa.Table)
    figures = kind.metrics(task, log) or {}
    assert figures["frechet"] == score_task(task, log)[0].value
    return {name: value for name, value in figures.items() if value is not None}


CHEATS = {
    "one image again and again": lambda held_out: held_out[:1],
    "the mean image": lambda held_out: held_out.mean(0, keepdims=True),
    "four images": lambda held_out: held_out[:4],
    "grey": lambda held_out: 0 * held_out,
    "noise": lambda held_out: np.random.default_rng(5).uniform(-1, 1, held_out.shape),
    "each pixel of another image": lambda held_out: (
        np.random.default_rng(5)
        .permuted(held_out.reshape(NUMBER, -1), axis=0)
        .reshape(held_out.shape)
    ),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_duplicates_means_and_noise_are_far_in_both_distances(cheat: str, folder: str) -> None:
    """Although each is made of the held-out images themselves."""
    law = distances(folder, images(2))
    far = distances(folder, CHEATS[cheat](images(1)))
    assert far["frechet"] > 3 * law["frechet"]
    assert far["kernel"] > 3 * abs(law["kernel"])


@pytest.mark.parametrize("cheat", ["copies", "copies with noise", "one copy", "grey", "noise"])
def test_copies_are_not_new_and_what_is_no_image_is_no_newer_than_images(
    cheat: str, folder: str
) -> None:
    training = images(2)
    drawn = {
        "copies": training,
        "copies with noise": training
        + 0.01 * np.random.default_rng(3).standard_normal(training.shape),
        "one copy": training[:1],
        "grey": 0 * training,
        "noise": np.random.default_rng(4).uniform(-1, 1, training.shape),
    }[cheat]

    class Draws(TrainingSet):
        def training_images(self) -> list[np.ndarray]:
            return [training]

    ratio, _ = score("digits_novelty", folder, Draws(drawn))
    if "cop" in cheat:
        assert ratio < 0.3
    else:
        assert ratio < 1.1  # the ratio of other images of the law is 1


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ([], "has no training images to compare with"),
        ([np.zeros((0, 1, 4, 4))], "has no training images to compare with"),
        ([np.zeros((2, 1, 4, 4)), np.full((3, 1, 4, 4), np.inf)], "training images 2 to 4 are not"),
        ([np.full((1, 1, 4, 4), np.nan)], "training images 0 to 0 are not finite"),
        ([np.zeros((1, 1, 8, 8))], r"are not finite images of \(1, 4, 4\)"),
    ],
)
def test_training_images_that_are_none_or_no_numbers_are_refused(
    training: list[np.ndarray], message: str, folder: str
) -> None:
    class Draws(TrainingSet):
        def training_images(self) -> list[np.ndarray]:
            return training

    with pytest.raises(ModelError, match=message):
        score("digits_novelty", folder, Draws(images(2)))


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_held_out_images_are_not_new(noise: float, folder: str) -> None:
    """They are far from the training images, and would be the newest of all."""
    drawn = images(1) + noise * np.random.default_rng(6).standard_normal((NUMBER, 1, 4, 4))

    class Draws(TrainingSet):
        def training_images(self) -> list[np.ndarray]:
            return [images(2)]

    with pytest.raises(ModelError, match="the model has seen them"):
        score("digits_novelty", folder, Draws(drawn))


def test_a_model_of_another_shape_or_without_numbers_is_refused(folder: str) -> None:
    with pytest.raises(ModelError, match="the held-out"):
        score("digits_frechet", folder, TrainingSet(np.zeros((3, 1, 8, 8))))
    with pytest.raises(ModelError, match="not finite"):
        score("digits_frechet", folder, TrainingSet(np.full((3, 1, 4, 4), np.nan)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pixels": np.zeros((100, 1, 4, 4))}, "no array `images`"),
        ({"images": np.zeros((3, 1, 4, 4))}, "at least 64 images"),
        ({"images": np.full((100, 1, 4, 4), 255.0)}, "not within"),
        ({"images": np.zeros((100, 1, 4, 4))}, "TorchScript"),
    ],
)
def test_bad_data_is_named(content: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "digits_heldout.npz", **content)  # type: ignore[arg-type]
    task = task_of("digits_frechet")
    with pytest.raises(DataError, match=message):
        generation.KINDS[task.kind].read(task, str(tmp_path))


def test_moments_of_resamples_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 3)) + 100
    draws = rng.integers(40, size=(5, 40))
    for (mean, covariance), draw in zip(generation.resampled(rows, draws), draws, strict=True):
        np.testing.assert_allclose(mean, rows[draw].mean(0))
        np.testing.assert_allclose(covariance, np.cov(rows[draw], rowvar=False), atol=1e-9)


def test_kernel_distance_of_one_law_is_near_zero() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 500, 8))
    assert abs(generation.kernel_distance(first, second)) < 0.02
    assert generation.kernel_distance(first, second + 1) > 1


def test_in_many_dimensions_few_resamples_are_computed_and_the_error_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [generation.num_exact(dim) for dim in (32, 256, 384, 2048)] == [1000, 1000, 296, 24]
    rng = np.random.default_rng(0)
    rows = {name: rng.standard_normal((80, 4)).tolist() for name in ("features", "reference")}
    log = pa.table({"row": range(80), **rows})
    kind, task = generation.KINDS["image_generation"], task_of("digits_frechet")
    value, all_draws = kind.estimate(task, log, seed=1)  # type: ignore[misc]
    monkeypatch.setattr(generation, "EXACT_DIM", 2.0)  # an eighth of them
    again, few = kind.estimate(task, log, seed=1)  # type: ignore[misc]
    assert (again, len(few)) == (value, 1000)
    assert few.mean() == pytest.approx(value)
    assert few.std() == pytest.approx(all_draws.std(), rel=0.3)
