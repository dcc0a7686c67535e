"""Train a denoiser under a recipe, on one process, torchrun, Slurm or Ray Train.

Every process runs `train`; gradients are averaged over all (DDP). After a kill at any moment, the
same call resumes from the last checkpoint and ends with the same weights, because a batch depends
only on seed, step and process. A training folder: `metrics.jsonl`, `checkpoint.pt` (while it runs),
`model.safetensors` (the moving average), `config.json`, `loss.svg`, `record.json`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist
from torch import nn

from ambient.diffusion.edm import Average, Preconditioned
from ambient.diffusion.loss import Draw, Rows, draw, losses
from ambient.recipe import Recipe, images_seen, num_steps, parts
from ambient.training.data import Images
from ambient.training.model import build, device_of, num_params
from leaderboard.rounds.train_folder import claim, metric_lines, write_weights
from pipelines.errors import CheckpointError, TrainingError
from pipelines.execution.process import process_of
from pipelines.records import (
    File,
    ModelRecord,
    ModelWork,
    PackedRecord,
    RecordError,
    made_by,
    now,
)
from pipelines.storage.base import write_bytes
from pipelines.storage.chain import RECORD, read_chain, standing
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store

WEIGHTS, CONFIG, METRICS, CHECKPOINT = (
    "model.safetensors",
    "config.json",
    "metrics.jsonl",
    "checkpoint.pt",
)
WORK = "work.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Run:
    """One training run in this process: the model, its optimizer, its average."""

    def __init__(self, recipe: Recipe, images: Images, *, seed: int, device: torch.device) -> None:
        self.recipe, self.images, self.seed, self.device = recipe, images, seed, device
        torch.manual_seed(seed)
        self.model: Preconditioned = build(recipe, masked=images.masked).to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=recipe.learning_rate, betas=recipe.betas
        )
        half_life = recipe.ema_half_life / recipe.global_batch_size
        self.average = Average(self.model, half_life=half_life)
        self.step = 0

    def rate(self) -> float:
        """The learning rate of the next step."""
        recipe, seen = self.recipe, self.step * self.recipe.global_batch_size
        rate = recipe.learning_rate * min(1.0, (seen + 1) / max(1, recipe.warmup_images))
        if recipe.decay == "cosine":
            rate *= (1 + math.cos(math.pi * self.step / num_steps(recipe))) / 2
        return rate

    def save(self, path: Path, key: str) -> None:
        """Write the whole state to a file next to `path`, then rename it."""
        state = {
            "key": key,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path, key: str) -> None:
        """Continue from a checkpoint. CheckpointError if it is damaged or another run's."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            saved_key = state["key"]
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}); delete it and run the same command "
                "again: training starts over"
            ) from error
        if saved_key != key:
            raise CheckpointError(f"{path} is of another training run; choose an empty --out")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step = state["step"]


class _Loss(nn.Module):
    """The loss as a module, so that DDP sees the forward pass."""

    def __init__(self, model: Preconditioned) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Rows, drawn: Draw) -> torch.Tensor:
        return losses(self.model, rows, drawn).mean()


def train(
    packed: str,
    *,
    recipe: Recipe,
    seed: int,
    out: str,
    num_threads: int = 1,
    device: str | None = None,
    max_batch: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelRecord:
    """Train one model on a packed dataset and return its record; a finished run is not repeated.

    `max_batch` is the largest batch per GPU: a larger one is computed in pieces with the same
    gradients. RecordError when `packed` or `out` holds something else, CheckpointError for a
    damaged checkpoint, TrainingError when the loss is not finite.
    """
    started = now()
    source, folder = open_store(packed), LocalStore(Path(out))
    record = read_chain(source)[-1]
    if not isinstance(record, PackedRecord):
        raise RecordError(f"{packed} holds a {record.kind} record; expected packed images")
    work = ModelWork(
        benchmark="ambient", scale=recipe.scale, recipe=recipe.model_dump(mode="json"), seed=seed
    )
    parents = {"packed": record.id}
    key = ModelRecord.key_of(work=work, parents=parents)
    other = "other images, another recipe or seed"
    before = standing(folder, key=key, kind=ModelRecord, other=other)
    if before is not None:
        return before
    folder.root.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(num_threads)
    rank, world = process_of()
    with _group(world, device):
        if rank == 0:
            claim(folder.root / WORK, key)
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        run = Run(
            recipe, Images(source, record), seed=seed, device=device_of(device, local_rank=local)
        )
        checkpoint = folder.root / CHECKPOINT
        resumed = checkpoint.is_file()
        if resumed:
            run.load(checkpoint, key)
        pieces = parts(recipe, num_processes=world, fitting=max_batch)
        clock = time.monotonic()
        _loop(run, folder, key, rank=rank, world=world, pieces=pieces, progress=progress)
        seconds = time.monotonic() - clock
        if rank:
            dist.barrier()
            written = standing(folder, key=key, kind=ModelRecord, other=other)
            if written is None:
                raise TrainingError(f"{folder.uri}: process 0 wrote no record; see its log")
            return written
        rows = metric_lines(folder.root / METRICS)
        sealed = ModelRecord.seal(
            work=work,
            parents=parents,
            outputs=_write_model(folder, run),
            counts={
                "steps": num_steps(recipe),
                "params": num_params(run.model),
                "images_available": record.counts["images"],
            },
            results={"images_seen": images_seen(recipe), "loss": rows[-1]["loss"]},
            made_by=made_by(
                started,
                locations={"packed": source.uri},
                figures={
                    "processes": world,
                    "pieces": pieces,
                    "resumed": float(resumed),
                    "seconds": round(seconds, 3),
                },
            ),
        )
        _curve(rows, folder.root / "loss.svg")
        write_bytes(folder, RECORD, sealed.to_json())
        checkpoint.unlink(missing_ok=True)
        if world > 1:
            dist.barrier()
    return sealed


def _loop(
    run: Run,
    folder: LocalStore,
    key: str,
    *,
    rank: int,
    world: int,
    pieces: int,
    progress: Callable[[str], None] | None,
) -> None:
    """Run the remaining steps; process 0 writes metrics and checkpoints."""
    recipe, total = run.recipe, num_steps(run.recipe)
    module: nn.Module = _Loss(run.model)
    if world > 1:
        ids = [run.device.index] if run.device.type == "cuda" else None
        module = nn.parallel.DistributedDataParallel(module, device_ids=ids)
    if rank == 0:
        _cut_metrics(folder, run.step)
    clock, seen = time.monotonic(), 0
    run.model.train()
    while run.step < total:
        rate = run.rate()
        run.optimizer.param_groups[0]["lr"] = rate
        loss, norm = _step(run, module, rank=rank, world=world, pieces=pieces)
        run.step += 1
        seen += recipe.global_batch_size
        run.average.update(run.model, run.step)
        if rank == 0 and (run.step % recipe.log_every == 0 or run.step == total):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingError(
                    f"{folder.uri}: the loss is {loss} at step {run.step} (gradient {norm}); look "
                    "at the images of the pool, or lower the learning rate in a recipe of your own"
                )
            row = {
                "step": run.step - 1,
                "loss": loss,
                "grad_norm": norm,
                "learning_rate": rate,
                "images_per_second": round(seen / max(time.monotonic() - clock, 1e-9), 1),
            }
            clock, seen = time.monotonic(), 0
            with open(folder.root / METRICS, "ab") as file:
                file.write(orjson.dumps(row) + b"\n")
            if progress is not None and run.step % (10 * recipe.log_every) == 0:
                progress(f"step {run.step:,} of {total:,}: loss {loss:.4f}")
        if rank == 0 and run.step % recipe.checkpoint_steps == 0 and run.step < total:
            run.save(folder.root / CHECKPOINT, key)


def _step(
    run: Run, module: nn.Module, *, rank: int, world: int, pieces: int
) -> tuple[float, float]:
    """One optimizer step: the loss, and the norm of the gradient before clipping.

    Both are 0 at steps that are not logged. All noise of a step is drawn at once, so that computing
    it in pieces changes only the rounding.
    """
    recipe = run.recipe
    rows, sigma, generator = run.images.batch(
        recipe, seed=run.seed, step=run.step, rank=rank, world=world, device=run.device
    )
    drawn = draw(rows, generator=generator, delta=recipe.delta, sigma=sigma)
    half: Any = nullcontext()
    if recipe.precision != "fp32":
        half = torch.autocast(run.device.type, DTYPES[recipe.precision])
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=run.device)
    size = len(rows) // pieces
    for number in range(pieces):
        part = slice(number * size, (number + 1) * size)
        waits = world > 1 and number < pieces - 1
        with module.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with half:
                loss = module(_cut(rows, part), _cut_draw(drawn, part)) / pieces
            torch.autograd.backward(loss)
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), recipe.max_grad_norm)
    run.optimizer.step()
    if world > 1:
        dist.all_reduce(total)
        total /= world
    is_logged = (run.step + 1) % recipe.log_every == 0 or run.step + 1 == num_steps(recipe)
    # float() waits for the GPU, so only logged steps read the values.
    return (float(total), float(norm)) if is_logged else (0.0, 0.0)


def _cut(rows: Rows, part: slice) -> Rows:
    return Rows(
        rows.images[part],
        rows.level[part],
        rows.sigma_min[part],
        None if rows.mask is None else rows.mask[part],
    )


def _cut_draw(drawn: Draw, part: slice) -> Draw:
    seen = None if drawn.seen is None else drawn.seen[part]
    return Draw(drawn.x[part], drawn.sigma[part], seen)


@contextmanager
def _group(world: int, device: str | None) -> Iterator[None]:
    """A process group for the block, if several processes train together."""
    if world == 1 or dist.is_initialized():  # Ray Train brings its own
        yield
        return
    if "MASTER_ADDR" not in os.environ:
        raise TrainingError(
            f"{world} processes were started, but MASTER_ADDR, the address of the first, is not "
            "set; start them with torchrun, or with deploy/slurm-train.sh"
        )
    gpu = torch.cuda.is_available() and device != "cpu"
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _cut_metrics(folder: LocalStore, first_step: int) -> None:
    kept = [row for row in metric_lines(folder.root / METRICS) if row["step"] < first_step]
    part = folder.root / f".{METRICS}"
    part.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in kept))
    os.replace(part, folder.root / METRICS)


def _write_model(folder: LocalStore, run: Run) -> list[File]:
    """Write the moving average as safetensors and the config that is needed to load it."""
    values = {name: value.cpu().contiguous() for name, value in run.average.values.items()}
    config = {"recipe": run.recipe.model_dump(mode="json"), "masked": run.images.masked}
    return [
        write_weights(folder, WEIGHTS, values),
        write_bytes(folder, CONFIG, orjson.dumps(config, option=orjson.OPT_INDENT_2)),
    ]


def _curve(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the loss over steps as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#1f5f99")
    axes.set_xlabel("step")
    axes.set_ylabel("weighted loss")
    figure.savefig(path, metadata={"Date": None})
