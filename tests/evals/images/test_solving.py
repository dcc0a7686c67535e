"""Restoration, few steps and clips: against what is known exactly, and what cheats would get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from evals.images.denoiser_answers import images_drawn, operator_of
from evals.images.generation import GaussianImages, TrainingSet
from evals.images.sampling import heun, noise_of, schedule
from evals.kinds import kind_of
from evals.models import ModelError
from evals.run import score_task
from evals.tasks import ClipTask, RestorationTask, SamplingTask, load_task
from pipelines.errors import DataError
from tests.evals.helpers import strokes

SIDE, NUMBER = 8, 64


def images(seed: int, number: int = 400) -> np.ndarray:
    """Draws of a Gaussian whose neighbouring pixels are alike, (number, 1, 8, 8)."""
    rng = np.random.default_rng(seed)
    position = np.arange(SIDE)
    near = np.exp(-((position[:, None] - position) ** 2) / 8) + 1e-4 * np.eye(SIDE)
    root = np.linalg.cholesky(near)
    white = rng.standard_normal((number, SIDE, SIDE))
    drawn = 0.2 * np.einsum("ij,njk,lk->nil", root, white, root) + 0.1
    return drawn.clip(-1, 1)[:, None].astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    np.savez(tmp_path / "digits_heldout.npz", images=images(1, NUMBER))
    return str(tmp_path)


def log_of(task: Any, folder: str, model: object) -> pa.Table:
    kind = kind_of(task)
    data = kind.read(task, folder)
    log = kind.answer(task, data, range(len(data.items)), model, window=0)
    assert isinstance(log, pa.Table)
    return log


def score(task: Any, folder: str, model: object) -> float:
    return score_task(task, log_of(task, folder, model))[0].value


def restoration(measured: str, **changed: Any) -> RestorationTask:
    names = {"fourier lines": "lines", "pixels": "pixels", "block means": "blocks"}
    task = load_task(f"digits_restored_{names[measured]}")
    assert isinstance(task, RestorationTask)
    return task.model_copy(update={"draws": 4, "steps": 40, "zeta": 0.3, "number": 32, **changed})


class Known:
    """A model by its denoiser alone."""

    id, settings, shape = "known", {}, (1, SIDE, SIDE)

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser


@pytest.mark.parametrize("measured", ["fourier lines", "pixels", "block means"])
def test_a_better_prior_restores_better(measured: str, folder: str) -> None:
    """The law's own Gaussian beside one whose pixels have the right variance and no relation.

    These images vary less than digits, so that guidance of strength .3 suits them.
    """
    task = restoration(measured)
    right = score(task, folder, GaussianImages(images(2)))
    shuffled = np.random.default_rng(0).permuted(images(2).reshape(400, -1), axis=0)
    white = score(task, folder, GaussianImages(shuffled.reshape(400, 1, SIDE, SIDE)))
    assert right < 0.9 * white
    assert right < 0.85


def test_the_mean_of_samples_is_near_the_exact_answer(folder: str) -> None:
    """Half of the pixels of a Gaussian: E[x | y] is linear, and no answer is better."""
    task = restoration("pixels", draws=8)
    truth = images(1, NUMBER)[: task.number].reshape(task.number, -1).astype(np.float64)
    law = images(2).reshape(400, -1).astype(np.float64)
    mean, covariance = law.mean(0), np.cov(law, rowvar=False)
    operator = operator_of(task, (1, SIDE, SIDE))
    seen = operator(torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64)).numpy().reshape(-1) > 0
    gain = covariance[:, seen] @ np.linalg.inv(
        covariance[np.ix_(seen, seen)] + task.noise**2 * np.eye(int(seen.sum()))
    )
    exact = mean + (truth[:, seen] - mean[seen]) @ gain.T
    least = (np.linalg.norm(exact - truth, axis=1) / np.linalg.norm(truth, axis=1)).mean()
    metrics = kind_of(task).metrics(task, log_of(task, folder, GaussianImages(images(2))))
    assert metrics is not None
    assert 0.9 * least < metrics["normalised_error"] < 2 * least  # guidance is an approximation


def test_a_model_that_says_one_thing_gains_nothing_from_measurements(folder: str) -> None:
    """Its samples do not depend on what was measured; it is the error of its constant."""
    task = restoration("pixels")

    def constant(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return 0 * x - 1.0

    log = log_of(task, folder, Known(constant))
    truth = images(1, NUMBER)[: task.number].reshape(task.number, -1)
    expected = np.linalg.norm(truth + 1, axis=1) / np.linalg.norm(truth, axis=1)
    np.testing.assert_allclose(log["error"].to_numpy(), expected, rtol=1e-4)
    assert score_task(task, log)[0].value > 1  # worse than no model
    figures = kind_of(task).metrics(task, log)
    assert figures is not None
    assert figures["calibration"] < 1e-6  # type: ignore[operator]
    assert figures["normalised_error"] == pytest.approx(expected.mean(), rel=1e-4)
    # Signal to noise of images from -1 to 1, below that of the zero-filled images.
    squares = ((truth + 1) ** 2).mean(1)
    assert figures["psnr"] == pytest.approx((10 * np.log10(4 / squares)).mean(), rel=1e-4)
    unaided = log["unaided"].to_numpy() ** 2 * (truth**2).mean(1)
    assert figures["psnr"] < (10 * np.log10(4 / unaided)).mean()


@pytest.fixture
def all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn counts as an image: what is tried is the sampler."""
    monkeypatch.setattr(
        "evals.images.denoiser_answers.images_drawn",
        lambda drawn, held_out: (np.ones(len(drawn), bool), np.zeros(len(drawn))),
    )


@pytest.mark.usefixtures("all_images")
def test_heun_s_method_is_of_second_order_on_a_gaussian(folder: str) -> None:
    task = load_task("digits_few_steps")
    assert isinstance(task, SamplingTask)
    task = task.model_copy(update={"steps": (16, 32, 64), "reference": 512, "number": 16})
    log = log_of(task, folder, GaussianImages(images(2)))
    metrics = kind_of(task).metrics(task, log)
    assert metrics is not None
    assert metrics["order"] == pytest.approx(-2, abs=0.3)
    assert metrics["at_16"] > 4 * metrics["at_64"]  # type: ignore[operator]
    score_, _ = score_task(task, log)
    assert score_.value == pytest.approx(metrics["at_64"])


def clip_task(**changed: Any) -> ClipTask:
    task = load_task("digits_clip")
    assert isinstance(task, ClipTask)
    return task.model_copy(update={"number": 4, **changed})


def pointwise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    """Exact for white images of variance .04: every pixel alone, so it moves with its noise."""
    return x * (0.04 / (0.04 + sigma.reshape(-1, 1, 1, 1) ** 2))


def uneven(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same with a gain that depends on where a pixel is."""
    gain = 1 + 0.3 * torch.linspace(-1, 1, SIDE, dtype=x.dtype)
    return pointwise(x, sigma) * gain


@pytest.mark.usefixtures("all_images")
def test_a_pointwise_model_pans_exactly_and_an_uneven_one_by_guidance(folder: str) -> None:
    assert score(clip_task(guidance=0.0), folder, Known(pointwise)) < 1e-9
    without = score(clip_task(guidance=0.0), folder, Known(uneven))
    with_guidance = score(clip_task(guidance=0.1), folder, Known(uneven))
    assert without > 1e-3
    assert with_guidance < 0.5 * without


def test_a_model_of_one_image_is_refused(folder: str) -> None:
    def constant(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return 0 * x + 0.5

    # Steps end at a clean image whatever the noise was, so that no two frames differ.
    with pytest.raises(ModelError, match="draws the same image from all noise"):
        score(clip_task(guidance=0.0), folder, Known(constant))


@pytest.fixture
def stroked(tmp_path: Path) -> str:
    np.savez(tmp_path / "digits_heldout.npz", images=strokes(1, 200))
    return str(tmp_path)


def as_it_is(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return x


def within(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return x.clamp(-1, 1)


def one_grey(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return 0 * x


KNOW_NOTHING = {"identity": as_it_is, "clamp": within, "pointwise": pointwise, "constant": one_grey}


@pytest.mark.parametrize("name", KNOW_NOTHING)
@pytest.mark.parametrize("task_name", ["digits_few_steps", "digits_clip"])
def test_a_denoiser_that_draws_nothing_gains_nothing(
    name: str, task_name: str, stroked: str
) -> None:
    """Its steps are exact and its frames move with the noise, or it always gives one image."""
    task, model = load_task(task_name), Known(KNOW_NOTHING[name])
    if name == "constant":
        with pytest.raises(ModelError, match="draws the same image from all noise"):
            score(task, stroked, model)
        return
    log = log_of(task, stroked, model)
    value = score_task(task, log)[0].value
    if task_name == "digits_clip":
        assert value > 0.8  # independent noise scores 1
        return
    law = log_of(task, stroked, TrainingSet(strokes(2, 100)))
    assert value > 10 * score_task(task, law)[0].value
    figures, of_law = kind_of(task).metrics(task, log), kind_of(task).metrics(task, law)
    assert figures is not None
    assert of_law is not None
    for name, figure in figures.items():
        if name == "order":  # more steps do not make it an image
            assert figure > -0.2 > of_law[name]  # type: ignore[operator]
        else:
            assert figure > 2 * of_law[name]  # type: ignore[operator]


def test_noise_is_told_from_images_by_its_neighbours() -> None:
    """Other images of the law are images; each pixel from another image is none."""
    held_out, others = strokes(1, 300), strokes(3, 200)
    assert images_drawn(others, held_out)[0].all()
    flat = others.reshape(200, -1)
    mixed = np.random.default_rng(5).permuted(flat, axis=0).reshape(others.shape)
    assert images_drawn(mixed, held_out)[0].mean() < 0.15


def test_few_steps_of_a_model_of_nearly_one_image_are_worse_than_they_look(stroked: str) -> None:
    """Its images differ by a tenth of what held-out ones do, and so do its errors: times five."""
    mean, exact = torch.from_numpy(strokes(2, 100).mean(0)), TrainingSet(strokes(2, 100)).denoiser

    def collapsed(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        clean: Tensor = mean + 0.1 * (exact(mean + (x - mean) * 10, sigma * 10) - mean)
        return clean

    start = noise_of(range(64), (1, SIDE, SIDE), seed=0).double()

    def end(steps: int) -> Tensor:
        sigmas = schedule(steps)
        return heun(collapsed, start * sigmas[0], sigmas)

    apart = (end(18) - end(64)).flatten(1).pow(2).mean(1).sqrt().mean()
    assert score(load_task("digits_few_steps"), stroked, Known(collapsed)) > 4 * float(apart)


def test_a_model_that_diverges_is_refused(folder: str) -> None:
    def wild(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return x * float("nan")

    for task in (restoration("pixels"), load_task("digits_few_steps"), clip_task()):
        with pytest.raises(ModelError, match="is not finite; the model diverged"):
            score(task, folder, Known(wild))


def test_a_model_of_samples_alone_and_another_shape_are_refused(folder: str) -> None:
    task = restoration("pixels")
    with pytest.raises(ModelError, match="has no denoiser"):
        score(task, folder, Known(None))
    with pytest.raises(ModelError, match="the model draws images of"):
        score(task, folder, TrainingSet(images(2)[:, :, :4, :4]))


def test_images_without_whole_blocks_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits_heldout.npz", images=images(1, NUMBER)[:, :, :7, :7])
    model = TrainingSet(images(2)[:, :, :7, :7])
    with pytest.raises(DataError, match="has no blocks of 2 pixels"):
        score(restoration("block means"), str(tmp_path), model)
