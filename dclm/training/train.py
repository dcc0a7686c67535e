"""Train one model under a recipe, top to bottom.

One process trains alone; under torchrun (or any launcher that sets RANK, WORLD_SIZE and LOCAL_RANK)
all of them train together. The losses do not depend on how many there are, apart from rounding:
every step takes the same sequences, each process its share of rows, each share in micro-batches.

Weights are float32. Where the recipe says bf16, FSDP2 casts them for forward and backward, so the
whole residual stream is bf16 as in DCLM's runs, and sums gradients in the recipe's precision.
"""

from __future__ import annotations

import logging
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dclm.packing.loader import Sequences
from dclm.plan import micro_batch as fitting_micro_batch
from dclm.recipe import RESHARD_PARAMS, Recipe, lr, num_steps, part_steps
from dclm.training.checkpoints import Checkpoints
from dclm.training.model import OpenLM
from dclm.training.model_files import (
    RECORD,
    finished_model,
    finished_or_fail,
    keep_weights,
    seal,
    tokens_after,
    whole_weights,
    write_model,
)
from dclm.training.parallel import agree, build, fast_attention, mean_over_processes, processes
from leaderboard.rounds.train_log import Metrics, Step, draw_loss, read_metrics
from pipelines.errors import Interrupted, PlanError, TrainingError
from pipelines.records import (
    ModelRecord,
    ModelWork,
    now,
)
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store

log = logging.getLogger(__name__)

Progress = Callable[[int, int, float, float], None]

# A jump is what leaves the last steps behind by 2 nats and by ten of their robust deviations: the
# losses of a batch of 1,000 tokens vary by a third of a nat, those of half a million by 0.02.
SPIKE_NATS = 2.0
SPIKE_DEVIATIONS = 10.0  # of the usual losses: small data jumps by a few
SPIKE_WINDOW = 50  # steps whose losses say what is usual
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


def train(
    packed: str,
    *,
    recipe: Recipe,
    seed: int,
    out: str,
    num_threads: int | None = None,
    progress: Progress | None = None,
    micro_batch: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 900.0,
    compile_model: bool | None = None,
    stop_at_spike: bool = True,
    wandb: str | None = None,
) -> ModelRecord:
    """Train on packed data; continues from the last checkpoint in `out`, a local folder.

    `out` gets `checkpoint.safetensors`, `model.json`, `tokenizer.json`, `metrics.jsonl`, `loss.png`
    and `record.json`. `progress(step, num_steps, loss, tokens_per_second)` is called in the first
    process after every logged step. `micro_batch` is the number of sequences of one forward;
    checkpoints are written every `checkpoint_every` steps, or else every `checkpoint_seconds` and
    where a part of the budget ends. The weights there stay, below `intermediate/`.

    Raises ValueError for a seed the recipe does not allow, RecordError and ShardError for data that
    is not what it should be, CheckpointError for a checkpoint of another training, StorageError
    when there is no space, TrainingError at a loss that is not finite or jumps, Interrupted after
    SIGTERM.
    """
    started, began = now(), time.monotonic()
    _check_seed(recipe, seed)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    store = _local(out)
    data = Sequences(packed, recipe=recipe)
    work = ModelWork(
        benchmark="dclm", scale=recipe.scale, recipe=recipe.model_dump(mode="json"), seed=seed
    )
    parents = {"packed": data.record.id}
    key = ModelRecord.key_of(work=work, parents=parents)
    if (finished := finished_model(store, key)) is not None:
        return finished
    with processes(recipe) as (rank, world, device, mesh):
        _rows_of(recipe, rank, world)  # says at once when the batch does not divide
        rows_at_once = _micro_batch(recipe, world, micro_batch, device)
        checkpoints = Checkpoints(store.root / "checkpoints", key=key)
        checkpoints.check_space(recipe.model.num_params, num_kept=len(part_steps(recipe)))
        compiled = device.type == "cuda" if compile_model is None else compile_model
        model = build(recipe, seed, device, mesh, compiled=compiled)
        optimizer = _optimizer(model, recipe)
        first = checkpoints.latest() or 0
        if first:
            checkpoints.load(first, model, optimizer)
            log.info("continuing %s from step %d", out, first)
        metrics = (
            Metrics(store.root, first_step=first, run_id=key, wandb=wandb) if rank == 0 else None
        )
        watch = _Watch(recipe, data, store.root, first_step=first, stop_at_spike=stop_at_spike)
        try:
            seconds = _loop(
                recipe,
                data,
                model,
                optimizer,
                checkpoints,
                watch,
                metrics,
                first=first,
                rank=rank,
                world=world,
                device=device,
                micro_batch=rows_at_once,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                progress=progress if rank == 0 else None,
                keep=partial(keep_weights, store, rank=rank),
            )
        except BaseException:
            if world == 1:  # with more, the others may have ended and would be waited for
                checkpoints.finish()
            raise
        weights = whole_weights(model)
        if rank == 0:
            outputs = write_model(store, recipe, weights)
            history = _draw_history(store, recipe)
            record = seal(
                recipe, data, work, parents, outputs, history, started,
                figures={
                    "seconds": time.monotonic() - began,
                    "tokens_per_second": tokens_after(recipe, num_steps(recipe) - first) / seconds,
                    "first_step": float(first),
                    **(
                        {"passed_spikes": float(watch.passed)}
                        if watch.passed or not stop_at_spike
                        else {}
                    ),
                    "num_processes": float(world),
                    "num_threads": float(torch.get_num_threads()),
                },
            )  # fmt: skip
            write_bytes(store, RECORD, record.to_json())
            checkpoints.remove()
        if mesh is not None:
            dist.barrier()
    return finished_or_fail(store, key)


def _check_seed(recipe: Recipe, seed: int) -> None:
    if seed not in recipe.seeds:
        raise ValueError(f"seed {seed} is not allowed by the recipe; choose one of {recipe.seeds}")


def _local(out: str) -> LocalStore:
    store = open_store(out)
    if not isinstance(store, LocalStore):
        raise ValueError(f"cannot train into {out}: name a local folder, and copy it afterwards")
    return store


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),  # all of them decay, norm gains and embeddings too
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _draw_history(store: LocalStore, recipe: Recipe) -> list[Step]:
    """Every logged step; its loss is drawn as `loss.png`."""
    history = read_metrics(store.root / "metrics.jsonl")
    draw_loss(
        history,
        tokens_per_step=recipe.global_batch_size * recipe.model.seq_len,
        title=f"dclm {recipe.scale}",
        path=store.root / "loss.png",
    )
    return history


def _loop(
    recipe: Recipe,
    data: Sequences,
    model: OpenLM,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    watch: _Watch,
    metrics: Metrics | None,
    *,
    first: int,
    rank: int,
    world: int,
    device: torch.device,
    micro_batch: int,
    checkpoint_every: int | None,
    checkpoint_seconds: float,
    progress: Progress | None,
    keep: Callable[[OpenLM, int], None],
) -> float:
    """All steps from `first` on; returns the seconds they took.

    `keep` is called by every process where a part of the budget ends.
    """
    total = num_steps(recipe)
    part_ends = part_steps(recipe)
    rows = _rows_of(recipe, rank, world)
    log_every = 1 if device.type == "cpu" else 20
    pending: list[tuple[int, float, Tensor]] = []  # step, learning rate, (loss, CE, norm)
    began = last_log = last_checkpoint = time.monotonic()
    last_saved = first
    with _terminated() as is_terminated, fast_attention(device):
        for step in range(first, total):
            rate = lr(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sequences = _to_device(data, step * recipe.global_batch_size + rows.start, rows, device)
            sums = _gradients(model, recipe, sequences, micro_batch)
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if step + 1 in part_ends:
                keep(model, step + 1)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            pending.append((step, rate, torch.cat((sums, norm.detach().reshape(1)))))

            is_last = step + 1 == total
            if not is_last and (step + 1) % log_every:
                continue
            values = mean_over_processes(torch.stack([v for _, _, v in pending]), world)
            moment = time.monotonic()
            speed = tokens_after(recipe, len(pending)) / (moment - last_log)
            last_log = moment
            logged = _logged(pending, watch.check(pending, values), speed)
            pending = []
            if metrics is not None:
                metrics.write(logged)
            if progress is not None:
                progress(step + 1, total, logged[-1].loss, speed)

            if checkpoint_every is not None:
                is_due = (step + 1) // checkpoint_every > last_saved // checkpoint_every
            else:
                part_ended = any(last_saved < end <= step + 1 for end in part_ends)
                is_due = part_ended or moment - last_checkpoint > checkpoint_seconds
            is_due, must_stop = agree(is_due, is_terminated(), device, world)
            if (is_due or must_stop) and not is_last:
                checkpoints.save(step + 1, model, optimizer)
                last_checkpoint, last_saved = moment, step + 1
            if must_stop and not is_last:
                checkpoints.finish()
                raise Interrupted(
                    f"stopped by SIGTERM after step {step + 1} of {total}; a checkpoint is written "
                    "and the same command continues from it"
                )
    checkpoints.finish()
    if metrics is not None:
        metrics.close()
    return max(time.monotonic() - began, 1e-9)


def _gradients(model: OpenLM, recipe: Recipe, sequences: Tensor, micro_batch: int) -> Tensor:
    """Add the gradients of this process's sequences; returns their mean (loss, cross entropy)."""
    # Small models sum gradients over processes once a step; of large ones the sum over
    # micro-batches only fits in shards.
    keeps_gradients = recipe.model.num_params <= RESHARD_PARAMS
    sums = torch.zeros(2, device=sequences.device)
    for start in range(0, len(sequences), micro_batch):
        part = sequences[start : start + micro_batch]
        if isinstance(model, FSDPModule) and keeps_gradients:
            model.set_requires_gradient_sync(start + micro_batch >= len(sequences))
        loss, cross_entropy = model.loss(
            part[:, :-1], part[:, 1:], z_loss=recipe.z_loss, ignore=recipe.tokenizer.pad
        )
        share = len(part) / len(sequences)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        sums += torch.stack((loss.detach(), cross_entropy.detach())) * share
    return sums


def _logged(
    pending: Sequence[tuple[int, float, Tensor]], values: Iterable[Sequence[float]], speed: float
) -> list[Step]:
    """One row of metrics per step; `values` are their loss, cross entropy and gradient norm."""
    return [
        Step(
            step=step,
            loss=row[0],
            cross_entropy=row[1],
            grad_norm=row[2],
            learning_rate=rate,
            tokens_per_second=speed,
        )
        for (step, rate, _), row in zip(pending, values, strict=True)
    ]


def spike_limit(recent: Sequence[float]) -> float:
    """The highest loss that may follow these, which are of batches of the same size."""
    usual = statistics.median(recent)
    spread = statistics.median([abs(loss - usual) for loss in recent]) * MAD_TO_DEVIATION
    return usual + max(SPIKE_NATS, SPIKE_DEVIATIONS * spread)


class _Watch:
    """Stops a training run whose loss is no longer a number, or jumps."""

    def __init__(
        self, recipe: Recipe, data: Sequences, folder: Path, *, first_step: int, stop_at_spike: bool
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.stop_at_spike = stop_at_spike
        self.recent: list[float] = []
        self.passed = 0  # jumps that were let pass, before a stop as well
        for row in read_metrics(folder / "metrics.jsonl"):
            if row.step < first_step:
                self.passed += self._limit_passed(row.step, row.cross_entropy) is not None

    def check(self, pending: list[tuple[int, float, Tensor]], values: Tensor) -> list[list[float]]:
        """The values (steps, 3) as lists. TrainingError names the first bad step and its data."""
        rows = values.tolist()
        for (step, _, _), row in zip(pending, rows, strict=True):
            if not all(math.isfinite(value) for value in row):
                names = ("loss", "cross-entropy", "gradient norm")
                problem = ", ".join(f"{n} {v}" for n, v in zip(names, row, strict=True))
                raise TrainingError(self._message(step, f"is not finite ({problem})"))
            usual = statistics.median(self.recent or [row[1]])
            limit = self._limit_passed(step, row[1])
            if limit is not None:
                problem = (
                    f"jumped from {usual:.3f} to {row[1]:.3f} (limit {limit:.3f}; `dclm train "
                    "--pass-spikes` goes past it, and the record says so)"
                )
                if self.stop_at_spike:
                    raise TrainingError(self._message(step, problem))
                self.passed += 1
                log.warning("%s", self._message(step, problem))
        return rows

    def _limit_passed(self, step: int, loss: float) -> float | None:
        """The limit that the next loss is above, None for one that is usual; remembers the loss."""
        is_judged = step >= self.recipe.warmup_steps and len(self.recent) == SPIKE_WINDOW
        limit = spike_limit(self.recent) if is_judged else math.inf
        self.recent = [*self.recent[1 - SPIKE_WINDOW :], loss]
        return limit if loss > limit else None

    def _message(self, step: int, what: str) -> str:
        first = step * self.recipe.global_batch_size
        where = self.data.where(first, self.recipe.global_batch_size)
        return (
            f"the loss of step {step} {what}; its batch is {where} of {self.data.store.uri}; look "
            "at these sequences; the last checkpoint before is kept"
        )


# ---- Rows, devices, signals ---------------------------------------------------------------------


def _rows_of(recipe: Recipe, rank: int, world: int) -> range:
    """This process's rows of every global batch."""
    if recipe.global_batch_size % world:
        raise ValueError(
            f"the global batch of {recipe.global_batch_size} sequences does not divide over "
            f"{world} processes; use a divisor"
        )
    each = recipe.global_batch_size // world
    return range(rank * each, (rank + 1) * each)


def _micro_batch(recipe: Recipe, world: int, max_rows: int | None, device: torch.device) -> int:
    """Sequences of one forward: what was asked for, what fits a GPU, or all rows on a CPU."""
    num_rows = recipe.global_batch_size // world
    if max_rows is not None:
        return max(size for size in range(1, min(max_rows, num_rows) + 1) if num_rows % size == 0)
    if device.type == "cpu":
        return num_rows
    memory = torch.cuda.get_device_properties(device).total_memory
    fitting = fitting_micro_batch(recipe, num_gpus=world, memory_bytes=memory)
    if fitting is None:
        raise PlanError(
            f"{recipe.scale} does not fit {world} GPUs of {memory / 1e9:.0f} GB; use more, and see "
            "what is needed with: dclm plan"
        )
    return fitting


def _to_device(data: Sequences, first: int, rows: range, device: torch.device) -> Tensor:
    sequences = torch.from_numpy(data.batch(first, len(rows)))
    if device.type == "cpu":
        return sequences
    return sequences.pin_memory().to(device, non_blocking=True)


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Remembers a SIGTERM instead of dying from it."""
    seen = [False]

    def remember(number: int, frame: FrameType | None) -> None:
        seen[0] = True

    try:
        before = signal.signal(signal.SIGTERM, remember)
    except ValueError:  # not the main thread: whoever started it handles signals
        yield lambda: False
        return
    try:
        yield lambda: seen[0]
    finally:
        signal.signal(signal.SIGTERM, before)
