"""PSLD on linear models, where the right answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient.systems import latent
from evals.images.posterior import Matrix

DIM, CODES, MEASURED, ROWS = 32, 8, 16, 64


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix)[0]


def linear(decoder: Tensor, covariance: Tensor, num_steps: int = 800) -> latent.LatentModel:
    """Codes ~ N(0, covariance), Dec = `decoder`, E its pseudo-inverse; the noise is exact."""
    encoder = torch.linalg.pinv(decoder)
    alphas = latent.ddim_alphas(num_steps)
    values, vectors = torch.linalg.eigh(covariance)

    def noise(z: Tensor, k: int) -> Tensor:
        alpha = alphas[k]
        shares = (1 - alpha).sqrt() / (alpha * values + 1 - alpha)
        return ((z @ vectors) * shares) @ vectors.T

    return latent.LatentModel(lambda x: x @ encoder.T, lambda z: z @ decoder.T, noise, alphas)


def relative(estimate: Tensor, truth: Tensor) -> float:
    return float((estimate - truth).norm() / truth.norm())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_linear_model_is_recovered(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    subspace = orthonormal(DIM, CODES, generator)
    operator = Matrix(orthonormal(DIM, MEASURED, generator).T)
    codes = torch.randn(ROWS, CODES, generator=generator, dtype=torch.float64)
    truth = codes @ subspace.T
    model = linear(subspace, torch.eye(CODES, dtype=torch.float64))
    start = torch.randn(ROWS, CODES, generator=generator, dtype=torch.float64)
    y = operator(truth)

    def run(eta: float, gamma: float) -> float:
        return relative(
            model.decode(latent.restore(model, operator, y, start, eta=eta, gamma=gamma)), truth
        )

    assert run(0.5, 0.5) < 2e-3
    assert run(0.0, 0.0) > 1
    assert run(0.0, 0.5) > 5 * run(0.5, 0.5)  # the glue alone


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_several_codes_of_an_image_psld_ends_at_the_encoder_s(seed: int) -> None:
    """12 codes for 8 dimensions: latent-DPS leaves what the decoder ignores as it drew it."""
    generator = torch.Generator().manual_seed(seed)
    subspace = orthonormal(DIM, CODES, generator)
    decoder = subspace @ orthonormal(12, CODES, generator).T
    operator = Matrix(orthonormal(DIM, MEASURED, generator).T)
    truth = torch.randn(ROWS, CODES, generator=generator, dtype=torch.float64) @ subspace.T
    model = linear(decoder, torch.eye(12, dtype=torch.float64))
    start = torch.randn(ROWS, 12, generator=generator, dtype=torch.float64)
    y = operator(truth)

    def gap(gamma: float) -> float:
        z = latent.restore(model, operator, y, start, eta=0.2, gamma=gamma)
        return float((z - model.encode(model.decode(z))).norm(dim=1).mean())

    assert gap(0.2) < 1e-3
    assert gap(0.0) > 1


def test_a_step_that_is_too_large_diverges() -> None:
    generator = torch.Generator().manual_seed(1)
    decoder = 3 * torch.randn(DIM, CODES, generator=generator, dtype=torch.float64)
    operator = Matrix(orthonormal(DIM, MEASURED, generator).T)
    model = linear(decoder, torch.eye(CODES, dtype=torch.float64), num_steps=50)
    truth = torch.randn(4, CODES, generator=generator, dtype=torch.float64) @ decoder.T
    start = torch.randn(4, CODES, generator=generator, dtype=torch.float64)
    y = operator(truth)
    scale = 1 / float(torch.linalg.matrix_norm(operator.a @ decoder, 2)) ** 2
    small = model.decode(latent.restore(model, operator, y, start, eta=0.5 * scale, gamma=0.1))
    large = model.decode(latent.restore(model, operator, y, start, eta=0.5, gamma=0.1))
    assert relative(small, truth) < 1
    assert not relative(large, truth) < 100


def test_the_parts_of_a_diffusers_pipeline_are_driven() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        layers_per_block=1,
    )
    scheduler = diffusers.DDIMScheduler()
    prompt = torch.zeros(1, 3, 8)
    long = latent.latent_model(vae, unet, scheduler, prompt=prompt, num_steps=5)
    assert bool((long.alphas.diff() > 0).all())
    model = latent.latent_model(vae, unet, scheduler, prompt=prompt, num_steps=1)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    mask = torch.ones_like(image)
    mask[..., 8:] = 0
    from evals.images.posterior import Pixels

    start = torch.randn(1, 4, 8, 8)
    unguided = latent.restore(model, Pixels(mask), image * mask, start, eta=0.0, gamma=0.0)
    guided = latent.restore(model, Pixels(mask), image * mask, start, eta=1e-3, gamma=1e-4)
    assert guided.shape == start.shape
    before, after = (
        float(((model.decode(z) - image) * mask).pow(2).mean()) for z in (unguided, guided)
    )
    assert after < before
