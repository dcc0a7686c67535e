"""Restoration of digits from Fourier lines, where the exact posterior is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from ambient.systems.exact import Gaussian, exact_samples
from evals.images import posterior
from evals.images.sampling import schedule

NOISE, DRAWS = 0.02, 6


@cache
def digits() -> tuple[Gaussian, Tensor]:
    images = torch.from_numpy(load_digits().data / 8 - 1)
    mean = images.mean(0)
    covariance = (images - mean).T @ (images - mean) / len(images)
    prior = Gaussian(mean, covariance + 1e-3 * torch.eye(64, dtype=torch.float64))
    return prior, prior.draw(64, torch.Generator().manual_seed(0))


def problem(acceleration: int, seed: int) -> tuple[posterior.Matrix, Tensor, Tensor]:
    """Measured columns as a real matrix, measurements, and the zero-filled images."""
    _, truth = digits()
    generator = torch.Generator().manual_seed(seed)
    lines = posterior.line_mask(8, acceleration, centre=1, generator=generator)
    fourier = posterior.Fourier(lines)
    units = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    columns = fourier(units).flatten(1)
    columns = columns[:, lines.repeat(8) > 0]
    operator = posterior.Matrix(torch.cat([columns.real, columns.imag], 1).T)
    clean = operator(truth)
    y = clean + NOISE * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return operator, y, operator.adjoint(y)


def by_dps(
    operator: posterior.Matrix,
    y: Tensor,
    *,
    zeta: float,
    hidden: float | None = None,
    draws: int = DRAWS,
    seed: int = 3,
) -> Tensor:
    """`draws` samples per measurement, (draws, rows, 64); `hidden` makes it A-DPS."""
    prior, truth = digits()
    generator = torch.Generator().manual_seed(seed)
    sigmas = schedule(100, low=0.01, high=20.0)
    result = []
    for _ in range(draws):
        mask = None
        if hidden is not None:
            seen = torch.rand(1, 64, generator=generator) >= hidden
            mask = seen.double().expand(len(truth), -1)
        start = sigmas[0] * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        result.append(posterior.sample(prior, operator, y, start, sigmas, zeta=zeta, mask=mask))
    return torch.stack(result)


def error(samples: Tensor) -> float:
    return float(posterior.nrmse(samples, digits()[1]).mean())


@pytest.mark.parametrize("acceleration", [2, 4])
def test_dps_is_better_than_zero_filling_and_worse_than_the_exact_mean(acceleration: int) -> None:
    operator, y, zero_filled = problem(acceleration, seed=1)
    prior, _ = digits()
    mean, _ = prior.posterior(operator.a, y, NOISE)
    dps = error(by_dps(operator, y, zeta=1.0).mean(0))
    assert error(mean) < dps < 0.85 * error(zero_filled)


@pytest.mark.parametrize("acceleration", [2, 4, 8])
def test_exact_samples_have_the_posterior_s_spread(acceleration: int) -> None:
    operator, y, _ = problem(acceleration, seed=1)
    prior, _ = digits()
    mean, covariance = prior.posterior(operator.a, y, NOISE)
    samples = exact_samples(
        prior, operator.a, y, NOISE, number=16, generator=torch.Generator().manual_seed(1)
    )
    ratio = float(samples.var(0).sum(1).mean() / covariance.trace())
    assert ratio == pytest.approx(1, abs=0.1)
    first = np.sqrt(float(((samples[0] - digits()[1]) ** 2).sum(1).mean()))
    best = np.sqrt(float(((mean - digits()[1]) ** 2).sum(1).mean()))
    assert first / best == pytest.approx(2**0.5, abs=0.1)


def test_a_dps_restores_with_a_prior_of_masked_images() -> None:
    """The less the prior saw, the worse; with three in four pixels hidden it hardly helps."""
    operator, y, zero_filled = problem(4, seed=1)
    errors = {
        hidden: error(by_dps(operator, y, zeta=0.3, hidden=hidden, draws=4).mean(0))
        for hidden in (0.0, 0.25, 0.75)
    }
    assert errors[0.25] < 0.92 * error(zero_filled)
    assert errors[0.0] < errors[0.25] + 0.02
    assert errors[0.25] < errors[0.75]


def test_without_guidance_or_with_its_sign_flipped_nothing_is_restored() -> None:
    operator, y, zero_filled = problem(4, seed=1)
    guided = error(by_dps(operator, y, zeta=0.3, draws=1)[0])
    assert guided < error(zero_filled)
    assert error(by_dps(operator, y, zeta=0.0, draws=1)[0]) > 1.3 * guided
    assert error(by_dps(operator, y, zeta=-0.3, draws=1)[0]) > 2 * error(zero_filled)


def inner(first: Tensor, second: Tensor) -> float:
    return float((first * second.conj()).sum().real)


def test_adjoints_are_adjoints() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 1, 8, 6, generator=generator, dtype=torch.float64)
    coils = torch.randn(3, 8, 6, generator=generator, dtype=torch.complex128)
    lines = posterior.line_mask(6, 2, centre=1, generator=generator)
    operators: list[posterior.Operator] = [
        posterior.Fourier(lines),
        posterior.Fourier(lines, coils),
        posterior.Downsample(2),
        posterior.Pixels((torch.rand(8, 6, generator=generator) > 0.5).double()),
    ]
    for operator in operators:
        measured = operator(image)
        other = torch.randn(measured.shape, generator=generator, dtype=measured.dtype)
        assert inner(measured, other) == pytest.approx(
            inner(image.to(other.dtype), operator.adjoint(other).to(other.dtype)), rel=1e-9
        )


def test_downsampling_undoes_its_adjoint() -> None:
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    operator = posterior.Downsample(2)
    torch.testing.assert_close(operator(operator.adjoint(y)), y)


def test_multi_coil_measurements_are_deepinv_s() -> None:
    physics = pytest.importorskip("deepinv").physics
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 2, 8, 8, generator=generator)
    coils = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.complex64)
    lines = posterior.line_mask(8, 2, centre=2, generator=generator)
    mask = lines.float().expand(1, 2, 8, 8)
    theirs = physics.MultiCoilMRI(mask=mask, coil_maps=coils, img_size=(2, 8, 8))(image)
    complex_image = torch.complex(image[:, 0], image[:, 1]).to(torch.complex128)[:, None]
    ours = posterior.Fourier(lines, coils[0].to(torch.complex128), real=False)(complex_image)
    torch.testing.assert_close(
        torch.complex(theirs[:, 0], theirs[:, 1]).to(torch.complex128), ours, atol=1e-4, rtol=1e-4
    )
