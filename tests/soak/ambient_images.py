"""Make the images of the systems in docs/ambient.md: `make ambient-images`, about two minutes.

Each is drawn from the small world of the system's own test, one seed. `--only NAME` makes one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from ambient import estimates
from ambient.diffusion import loss as ambient
from ambient.diffusion.edm import Mlp, Preconditioned
from ambient.image_grids import grid, save
from ambient.pool import tiny_pool
from ambient.systems import restoration as samplers
from evals.images import warp
from evals.images.sampling import heun, noise_of, schedule
from pipelines.images.pairs import METADATA, open_pairs
from tests.ambient.diffusion import test_loss
from tests.ambient.systems import (
    test_consistency,
    test_latent,
    test_pseudo_words,
    test_restoration,
)
from tests.soak import stereo_clip

FOLDER = Path(__file__).parents[2] / "docs" / "ambient"
COLUMNS = 12


def rows_of(*rows: Tensor, columns: int = COLUMNS) -> Any:
    """Images (n, 64) or (n, 1, 8, 8), a row of the grid each."""
    parts = [row[:columns].reshape(-1, 1, 8, 8) for row in rows]
    return grid(torch.cat(parts).numpy(), columns=columns)


# ---- Ambient Diffusion


def hidden() -> None:
    """Digits of which half of the pixels were never seen: truth, seen, as if clean, ambient."""
    generator = torch.Generator().manual_seed(1)
    digits = torch.from_numpy(load_digits().data / 8 - 1).float()
    digits = digits[torch.randperm(len(digits), generator=generator)]
    mask = (torch.rand(digits.shape, generator=generator) > 0.5).float()
    seen = digits * mask
    estimated = []
    for step in (test_loss.masked_as_clean, test_loss.right):
        torch.manual_seed(1)
        net = Preconditioned(Mlp(128, out=64, width=256), masked=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
        zero = torch.zeros(256)
        for _ in range(2000):
            rows = torch.randint(100, len(digits), (256,), generator=generator)
            value = step(net, ambient.Rows(seen[rows], zero, zero, mask[rows]), generator).mean()
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            decay.step()
        with torch.no_grad():
            estimated.append(net(seen[:100], torch.full((100,), 0.05), mask[:100]))
    save(rows_of(digits, seen, *estimated), FOLDER / "hidden.png", enlarge=5)


# ---- PSLD


def codes() -> None:
    """Digits from half of their pixels: truth, seen, latent-DPS, PSLD."""
    model, others = test_latent.trained(1)
    operator = test_latent.operators(1)["inpainting"]
    tuning, truth = others[:64], others[64:128]
    drawn = []
    for gammas in ((0.0,), test_latent.GAMMAS):
        pair = test_latent.tuned(model, operator, tuning, gammas)
        drawn.append(test_latent.restored_by(model, operator, truth, *pair))
    save(rows_of(truth, operator(truth), *drawn), FOLDER / "codes.png", enlarge=5)


# ---- Warped Diffusion

SIDE, FRAMES, FACTOR, LENGTH, NOISE = 32, 12, 4, 1.5, 0.02
TORN = 0.05
"""The white share of the noise of a scene with edges, where moved noise tears: a purely smooth law
takes the tear for part of the image (squared error .16, with this share .06)."""


def clip() -> None:
    """Clips from their 4 x 4 means: truth, means, fresh, fixed, warped noise.

    `clip.gif` pans over one photograph, `stereo.gif` goes from one photograph to another of the
    same scene by the flow that was measured for them. The prior is the Gaussian of windows of
    another part of the photograph, whose posterior is exact.
    """
    photo = torch.from_numpy(load_sample_images().images[0].mean(2) / 127.5 - 1)
    photo = torch.nn.functional.avg_pool2d(photo[None, None], 2)[0, 0]
    flow = warp.rotation(SIDE, SIDE, degrees=1.5, shift=1.25)
    positions = [warp.grid(SIDE, SIDE)]
    for _ in range(FRAMES - 1):
        positions.append(flow(positions[-1]))
    corner = torch.tensor([36.0, 62.0], dtype=torch.float64)
    frames = [warp.interpolate(photo[None], where + corner)[0][0] for where in positions]
    _clip("clip", frames, [flow] * (FRAMES - 1), positions, photo[95:])
    views = stereo_clip.views(FRAMES, factor=FACTOR)
    lamp = stereo_clip.Window(top=24, left=104.0, side=SIDE, follows=10.0)
    flows = [lamp.flow(view, before) for before, view in itertools.pairwise(views)]
    below = torch.from_numpy(views[0].brightness)[lamp.top + SIDE :]
    points = [lamp.points(view) for view in views]
    _animate("scene", _scene(views, lamp))
    _clip("stereo", [lamp.frame(view) for view in views], flows, points, below, white=TORN)


def _clip(
    name: str,
    frames: list[Tensor],
    flows: list[warp.Flow],
    points: list[Tensor],
    windows_of: Tensor,
    *,
    white: float = 0.0,
) -> None:
    """Restore a clip in three ways and write it; `points` of every frame in that of the noise.

    A share `white` of the noise's variance is white and does not move.
    """
    generator = torch.Generator().manual_seed(1)
    measured = [_means(frame, generator) for frame in frames]
    models = _posteriors(windows_of, measured, generator, white=white)
    sigmas = schedule(36, low=0.01, high=10.0)

    def noise() -> Callable[[Tensor], Tensor]:
        smooth = warp.Noise.draw(length=LENGTH, features=3000, generator=generator)
        if not white:
            return lambda where: smooth(where)[None]
        still = torch.randn(SIDE, SIDE, generator=generator, dtype=torch.float64)
        return lambda where: ((1 - white) ** 0.5 * smooth(where) + white**0.5 * still)[None]

    moving = noise()
    starts = {
        "fresh": [noise()(warp.grid(SIDE, SIDE)) for _ in frames],
        "fixed": [moving(points[0])] * FRAMES,
        "warped": [moving(where) for where in points],
    }
    shown = [torch.stack(frames), torch.stack([_enlarged(y) for y in measured])]
    for kind, start in starts.items():
        guidance = 0.5 if kind == "warped" else 0.0
        made = warp.clip(models, flows, start, sigmas, guidance=guidance)
        gap = float((torch.cat(made) - shown[0]).pow(2).mean())
        error = _warp_error(made, flows)
        say(f"{name}, {kind} noise: warp error {error:.5f}, squared error {gap:.4f}")
        shown.append(torch.cat(made))
    true = _warp_error([frame[None] for frame in frames], flows)
    say(f"{name}, the photograph: warp error {true:.5f}")
    pages = [
        Image.fromarray(grid(torch.stack([row[n] for row in shown])[:, None].numpy(), columns=5))
        for n in range(FRAMES)
    ]
    _animate(name, [page.resize((4 * page.width, 4 * page.height), 0) for page in pages])


def _animate(name: str, pages: list[Image.Image]) -> None:
    """Pages there and back, as a GIF of 64 greys."""
    greys = [page.convert("L").quantize(64) for page in pages]
    there_and_back = greys + greys[-2:0:-1]
    greys[0].save(
        FOLDER / f"{name}.gif",
        save_all=True,
        append_images=there_and_back[1:],
        duration=150,
        loop=0,
    )


def _scene(views: list[stereo_clip.View], window: stereo_clip.Window) -> list[Image.Image]:
    """The whole scene, twice as large, with the window in a frame."""
    pages = []
    for view in views:
        image = ((view.brightness.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        page = Image.fromarray(image).resize((2 * image.shape[1], 2 * image.shape[0]), 0)
        top, left = (2 * window.positions(view)[0, 0]).tolist()
        side = 2 * window.side
        ImageDraw.Draw(page).rectangle((left, top, left + side, top + side), outline=255)
        pages.append(page)
    return pages


def _warp_error(frames: list[Tensor], flows: list[warp.Flow]) -> float:
    errors = [
        float(warp.warp_error(after, before, flow))
        for (before, after), flow in zip(itertools.pairwise(frames), flows, strict=True)
    ]
    return float(np.mean(errors))


def _means(frame: Tensor, generator: torch.Generator) -> Tensor:
    means = torch.nn.functional.avg_pool2d(frame[None, None], FACTOR)[0, 0]
    return means + NOISE * torch.randn(means.shape, generator=generator, dtype=means.dtype)


def _enlarged(means: Tensor) -> Tensor:
    return means.repeat_interleave(FACTOR, 0).repeat_interleave(FACTOR, 1)


def _posteriors(
    photo: Tensor, measured: list[Tensor], generator: torch.Generator, *, white: float
) -> list[warp.Frames]:
    """The exact denoiser of each frame given its means, under a Gaussian of windows of a photo."""
    number = 4000
    rows = torch.randint(0, photo.shape[0] - SIDE, (number,), generator=generator).tolist()
    columns = torch.randint(0, photo.shape[1] - SIDE, (number,), generator=generator).tolist()
    windows = torch.stack(
        [photo[r : r + SIDE, c : c + SIDE] for r, c in zip(rows, columns, strict=True)]
    ).flatten(1)
    mean = windows.mean(0)
    covariance = torch.cov(windows.T) + 1e-4 * torch.eye(SIDE * SIDE, dtype=torch.float64)
    eye = torch.eye(SIDE * SIDE, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    a = torch.nn.functional.avg_pool2d(eye, FACTOR).flatten(1).T
    inner = a @ covariance @ a.T + NOISE**2 * torch.eye(len(a), dtype=torch.float64)
    gain = torch.linalg.solve(inner, a @ covariance).T
    posterior = covariance - gain @ a @ covariance
    smooth = warp.covariance(warp.grid(SIDE, SIDE).reshape(-1, 2), LENGTH)
    kernel = (1 - white) * smooth + white * torch.eye(SIDE * SIDE, dtype=torch.float64)
    shares: dict[float, Tensor] = {}

    def share(sigma: float) -> Tensor:
        if sigma not in shares:
            total = posterior + sigma**2 * kernel
            total = total + 1e-6 * torch.eye(SIDE * SIDE, dtype=torch.float64)
            shares[sigma] = torch.linalg.solve(total, posterior)
        return shares[sigma]

    def model(y: Tensor) -> warp.Frames:
        centre = mean + gain @ (y.flatten() - a @ mean)
        return lambda u, sigma: (centre + (u.flatten(1) - centre) @ share(sigma)).reshape(u.shape)

    return [model(y) for y in measured]


# ---- restoration and degradation


def orders() -> None:
    """Error at the endpoint over the number of steps, of samplers and of two wrong variants."""
    process, start, reference = test_restoration.world(1)
    fresh = torch.Generator().manual_seed(5)
    named: dict[str, Callable[..., Tensor]] = {
        "DDIM": samplers.ddim,
        "restoration-degradation": samplers.restore_degrade,
        "Heun": samplers.heun,
        "linear factor": lambda p, x, t: samplers.restore_degrade(
            p, x, t, factor=lambda part: part
        ),
        "fresh noise": lambda p, x, t: samplers.restore_degrade(p, x, t, fresh=fresh),
    }
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    steps = test_restoration.STEPS
    for name, sampler in named.items():
        slope, errors = samplers.order(
            sampler, process, start, reference, grid=test_restoration.grid, steps=steps
        )
        say(f"orders, {name}: slope {slope:.2f} over all steps")
        axes.loglog(steps, errors, "o-", label=name, linewidth=1.5, markersize=4)
    axes.set_xticks(steps, [str(number) for number in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps")
    axes.set_ylabel("distance from the exact endpoint")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(FOLDER / "orders.png", dpi=110)


# ---- consistent models


def martingale() -> None:
    """Samples of models of noisy points on a ring: data, without and with the consistency term."""
    ring = test_consistency.RING
    start = noise_of(range(1500), (2,), seed=3)
    sigmas = schedule(40, low=0.01, high=20.0)
    shown = {"what is known: noisy points": test_consistency.noised(0.3, 1500, 1)}
    for name, strength in (("noisy points only", 0.0), ("with the term", 0.3)):
        net = test_consistency.train(1, strength=strength)
        figures = test_consistency.figures(net, 1)
        say(f"martingale, {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        shown[name] = heun(net, start * sigmas[0].float(), sigmas)
    shown["the true points"] = ring.draw(1500, torch.Generator().manual_seed(4))
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        axes.scatter(*points.detach().T.numpy(), s=1, color="#1f5f99")
        axes.set(
            title=name, xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal", xticks=[], yticks=[]
        )
        axes.title.set_fontsize(9)
    figure.savefig(FOLDER / "martingale.png", dpi=110)


# ---- pseudo-words


def words() -> None:
    """The concept, then three samples at each of six resolutions; rows: semi, full, fixed."""
    _, concept = test_pseudo_words.world()
    learnt = test_pseudo_words.words()
    ways: tuple[test_pseudo_words.Way, ...] = ("semi", "full", "fixed")
    rows = [
        torch.cat(
            [
                concept,
                *(test_pseudo_words.drawn(learnt, how, t)[:3] for t in test_pseudo_words.TIMES),
            ]
        )
        for how in ways
    ]
    save(rows_of(*rows, columns=19), FOLDER / "words.png", enlarge=4)


# ---- Omni


def levels() -> None:
    """The estimated level from which on an image may teach, by a blur that is in no table."""
    with TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        tiny_pool.build_unknown(pool)
        out = Path(folder) / "sigma_min"
        estimates.estimate(open_pairs(str(pool)), out=str(out), num_steps=800, seed=0)
        rows = pq.read_table(pool.with_name("pool.withheld.parquet")).to_pylist()
        blur = {row["uid"]: row["level"] for row in rows}
        values: dict[float, list[float]] = {}
        for table in sorted((pool / METADATA).iterdir()):
            uids = pq.read_table(table)["uid"].to_pylist()
            scores = pq.read_table(out / table.name)["score"].to_pylist()
            for uid, score in zip(uids, scores, strict=True):
                values.setdefault(blur[uid], []).append(4.5 if score is None else score)
    say("levels: " + ", ".join(f"{b:g} {np.median(values[b]):.3f}" for b in sorted(values)))
    blurs = sorted(value for value in values if value)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        [values[b] for b in blurs], tick_labels=[f"{b:g}" for b in blurs], showfliers=False
    )
    axes.set_yscale("log")
    axes.set_xlabel("blur in pixels, which the estimate does not know")
    axes.set_ylabel("estimated sigma_min")
    figure.savefig(FOLDER / "levels.png", dpi=110)


MAKERS = (hidden, codes, clip, orders, martingale, words, levels)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> None:
    """Make all images, or the one that is named."""
    names = [maker.__name__ for maker in MAKERS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=names)
    only = parser.parse_args().only
    torch.set_num_threads(1)
    for maker in MAKERS:
        if only in (None, maker.__name__):
            maker()


if __name__ == "__main__":
    main()
