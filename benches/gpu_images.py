"""Rows of bench_gpu.py for images: `near_targets`, training CLIP, CLIP scoring."""

from __future__ import annotations

import io
import math
import time
from contextlib import ExitStack
from functools import partialmethod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leaderboard.rounds.gpus import GPUS
from pipelines.image_text.clusters import nearest, on_device

if TYPE_CHECKING:
    from gpu_run import Measured, Run

PEAK = GPUS["h100"].peak_flops
SCALES = ("medium", "large", "xlarge")  # B/32, B/16, L/14
BATCHES = {"medium": 512, "large": 512, "xlarge": 128}  # on one GPU of eight, or of 704
GOALS = {"medium": 5500, "large": 2800, "xlarge": 720}  # samples/s; docs/training-clip.md
FORWARD_FLOPS = {"medium": 14.78e9, "large": 41.1e9, "xlarge": 175.3e9}  # open_clip's profile


# ---- near_targets -------------------------------------------------------------------------------


def near_targets(run: Run) -> None:
    run.row(
        "near_targets, 100,000 centroids of 768 numbers",
        "share of the bf16 peak",
        lambda: _near(run),
        limit=60,
        floor=0.6,
    )


def _near(run: Run) -> Measured:
    """Features in host memory to the number of their centroid, in host memory."""
    clusters, rows, dim = (1000, 500, 64) if run.dry else (100_000, 400_000, 768)
    chance = torch.Generator(run.device).manual_seed(0)

    def unit(count: int) -> np.ndarray:
        drawn = torch.randn((count, dim), generator=chance, device=run.device)
        return torch.nn.functional.normalize(drawn).cpu().numpy()

    centroids, features = unit(clusters), unit(rows)
    assign = on_device(run.device.type, centroids)
    few = features[:200]
    if not np.array_equal(assign(few), nearest(few, centroids)):
        raise RuntimeError("other centroids than the CPU finds")
    assign(features[: rows // 4])
    spent = []
    for _ in range(3):
        began = time.monotonic()
        assign(features)
        spent.append(time.monotonic() - began)
    seconds = sorted(spent)[1]
    share = 2 * clusters * dim * rows / seconds / PEAK
    return share, {"images_per_second": round(rows / seconds), "seconds": round(seconds, 3)}


# ---- CLIP, trained ------------------------------------------------------------------------------


def training(run: Run, *, compiled: bool = False) -> None:
    names = {"medium": "B/32", "large": "B/16", "xlarge": "L/14"}
    for scale in SCALES if not run.dry else ("medium", "xlarge"):
        run.row(
            f"train CLIP {names[scale]}{', compiled' if compiled else ''}, random images in memory",
            "samples/s",
            lambda scale=scale: _train(run, scale, compiled),  # type: ignore[misc]
            limit=90 if compiled else 60,
            floor=None if compiled else GOALS[scale],
        )


def _train(run: Run, scale: str, compiled: bool) -> Measured:
    """open_clip's loop over batches that are on the device; halves the batch until it fits."""
    batch = 4 if run.dry else BATCHES[scale]
    while True:
        try:
            return _train_with(run, scale, batch, compiled)
        except torch.OutOfMemoryError:
            if batch <= 16:
                raise
        batch //= 2
        torch.cuda.empty_cache()


def _train_with(run: Run, scale: str, batch: int, compiled: bool) -> Measured:
    import open_clip
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from datacomp.recipe import MODELS, arguments, load_recipe
    from evals.images.short_texts import encode_text

    open_clip.add_model_config(MODELS)
    recipe = load_recipe(scale)
    changed: dict[str, Any] = {"global_batch_size": batch}
    if run.dry:
        changed |= {"model": "tiny-vit"}
    recipe = recipe.model_copy(update=changed)
    if run.device.type == "cpu":
        recipe = recipe.model_copy(update={"precision": "amp_bf16"})
    args = parse_args(
        [*arguments(recipe, seed=0, num_gpus=1, parts=1), "--device", run.device.type]
    )
    args.distributed = args.distill = args.horovod = args.wandb = False
    args.rank, args.local_rank, args.world_size = 0, 0, 1
    torch.manual_seed(0)
    made = open_clip.create_model(recipe.model, device=run.device, output_dict=True)
    size = made.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    batches = _batches(run, batch, side, made.context_length, made.vocab_size)
    named = list(made.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n]
    kept = {id(p) for p in plain}
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in kept], "weight_decay": args.wd},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=recipe.betas, eps=args.eps)
    scaler = torch.amp.GradScaler(run.device.type) if args.precision == "amp" else None
    scheduler = cosine_lr(optimizer, args.lr, args.warmup, 10_000)
    model = torch.compile(made) if compiled and run.device.type == "cuda" else made
    loss = open_clip.ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True)

    def epoch(number: int, steps: int) -> float:
        loader = _Loader(batches, steps, batch)
        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda _: None)}
        _wait(run)
        began = time.monotonic()
        train_one_epoch(model, data, loss, number, optimizer, scaler, scheduler, None, args)
        _wait(run)
        return time.monotonic() - began

    with ExitStack() as stack:
        if not compiled:  # as training does: texts run at the length of the longest
            own = open_clip.CLIP.encode_text
            stack.callback(setattr, open_clip.CLIP, "encode_text", own)

            def short(model: Any, own: Any, text: Any, normalize: bool = False) -> Any:
                return encode_text(own, model, text, normalize)

            open_clip.CLIP.encode_text = partialmethod(short, own)
        warm = epoch(0, 2 if run.dry else 5)
        each = epoch(0, 2 if run.dry else 5) / (2 if run.dry else 5)
        steps = 2 if run.dry else max(5, min(400, math.ceil(10 / each)))
        spent = epoch(0, steps)
    speed = steps * batch / spent
    more: dict[str, Any] = {
        "batch": batch,
        "precision": recipe.precision,
        "share_of_peak": round(3 * FORWARD_FLOPS[scale] * speed / PEAK, 4),
        "warm_up_seconds": round(warm, 1),
    }
    if run.device.type == "cuda":
        more["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return speed, more


class _Loader:
    """The same few batches over and over."""

    def __init__(self, batches: list[tuple[Any, Any]], num_batches: int, batch: int) -> None:
        self._batches, self.num_batches = batches, num_batches
        self.num_samples = num_batches * batch

    def __iter__(self) -> Any:
        return (self._batches[n % len(self._batches)] for n in range(self.num_batches))


def _batches(run: Run, batch: int, side: int, places: int, vocabulary: int) -> list[Any]:
    """Random images, and ids with the lengths of captions: half have 14 or fewer, a few all 77."""
    chance = np.random.default_rng(5)
    collected = []
    for _ in range(2):
        images = torch.randn((batch, 3, side, side), device=run.device)
        lengths = np.clip(np.exp(chance.normal(math.log(14), 0.7, batch)), 3, places).astype(int)
        ids = np.zeros((batch, places), np.int64)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = chance.integers(1, vocabulary - 2, length)
            row[0], row[length - 1] = vocabulary - 2, vocabulary - 1
        collected.append((images, torch.from_numpy(ids).to(run.device)))
    return collected


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize()


# ---- CLIP, scoring ------------------------------------------------------------------------------


def scoring(run: Run) -> None:
    for name in ("ViT-B-32", "ViT-L-14")[: 1 if run.dry else 2]:
        run.row(
            f"CLIP score, {name}, JPEGs of 320 x 240 in memory",
            "pairs/s",
            lambda name=name: _score(run, name),  # type: ignore[misc]
            limit=70,
        )


def _score(run: Run, name: str) -> Measured:
    """What `clip_score` does with a chunk: decode, both towers, the cosine."""
    from PIL import Image

    from datacomp.recipe import MODELS
    from evals.images.open_clip import load_open_clip

    if run.dry:
        name = "tiny-vit"
    model = load_open_clip(name, pretrained=None, device=run.device.type, configs=MODELS)
    chance = np.random.default_rng(6)
    images = []
    for _ in range(16):
        low = Image.fromarray(chance.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        file = io.BytesIO()
        low.resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        images.append(file.getvalue())
    count = 32 if run.dry else 2048
    captions = [f"a photo of {n % 97} things beside {n} others" for n in range(count)]
    images = [images[n % len(images)] for n in range(count)]
    model.encode_images(images[: min(count, 256)])
    model.encode_texts(captions[: min(count, 256)])
    began = time.monotonic()
    left, right = model.encode_images(images), model.encode_texts(captions)
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    scores = np.einsum("ij,ij->i", left, right)
    spent = time.monotonic() - began
    if not np.isfinite(scores).all():
        raise RuntimeError("scores that are not numbers")
    return count / spent, {"settings": {k: str(v) for k, v in model.settings.items()}}
