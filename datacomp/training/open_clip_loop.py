"""Runs open_clip's training loop with seeds, step count and logging under our control.

The loop is `open_clip_train.main.main` as installed. What is put in its place while it runs:

- every piece of the training run seeds all generators from (seed, piece, process), and loader
  processes start anew with it: a piece that is done again gives the same batches;
- the loader ends after exactly the recipe's steps, whatever the number of its processes, and the
  number of parts that a batch is computed in;
- images are decoded, cropped and resized by compiled code, to the same floats;
- texts run at their own length (`evals/images/short_texts.py`);
- metrics are taken as numbers where it would write them to TensorBoard;
- on processors, and under Ray, the process group is made in a way that those have.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, partialmethod
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import open_clip_train.data as clip_data
import open_clip_train.main as clip_main
import orjson
import torch
import torch.distributed as dist
import webdataset

from datacomp.recipe import MODELS, Recipe, num_steps, steps_per_piece
from evals.images.image_tasks import IMAGES
from evals.images.short_texts import encode_text
from evals.images.transforms import ImageTransform
from pipelines.errors import TrainingError
from pipelines.execution.progress import short
from pipelines.images import fast_decode

METRICS, SKIPPED, LOG = "metrics.jsonl", "skipped.jsonl", "log.txt"
MAX_SKIPPED = 0.1  # of the samples read: more is no accident, but a broken pool
MIN_SKIPPED = 20  # fewer say nothing about a share
LINE_SECONDS = 60.0  # between two lines of progress


def run(
    argv: list[str],
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    rank: int,
    world: int,
    parts: int,
    num_threads: int,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Run the loop; TrainingError when it refuses, or when the loss is not a number."""
    open_clip.add_model_config(MODELS)
    if not torch.cuda.is_available():
        torch.set_num_threads(num_threads)
    state = _Chance(seed, rank)
    messages = _Messages(folder, quiet=rank > 0)
    metrics = partial(_Metrics, folder, recipe, progress)
    batches = steps_per_piece(recipe) * parts
    replaced: list[tuple[Any, str, Any]] = [
        (clip_data, "pytorch_worker_seed", state.worker_seed),
        (webdataset, "shuffle", partial(webdataset.shuffle, rng=state.shuffle)),
        (webdataset, "WebLoader", _loader_without_memory),
        (webdataset, "decode", _decoder),
        (clip_data, "filter_no_caption_or_no_image", _is_trainable),
        (clip_main, "get_data", partial(_get_data, clip_main.get_data, state, batches)),
        (clip_main, "setup_logging", lambda *_: None),
        (clip_main, "tensorboard", SimpleNamespace(SummaryWriter=lambda _: metrics())),
    ]
    if "--torchcompile" not in argv:  # a graph of many lengths would be compiled many times
        own = open_clip.CLIP.encode_text
        replaced.append((open_clip.CLIP, "encode_text", partialmethod(_short_texts, own)))
    if not torch.cuda.is_available():
        on_processors = partial(_on_processors, torch.nn.parallel.DistributedDataParallel)
        replaced.append((torch.nn.parallel, "DistributedDataParallel", on_processors))
    if dist.is_initialized():  # by Ray
        replaced.append((dist, "init_process_group", lambda **_: None))
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(_replaced(owner, name, value))
        stack.enter_context(_world_size_in_environment(rank, world))
        stack.enter_context(_listening(messages))
        exit_code = clip_main.main(argv)
    if exit_code not in (None, 0):
        raise TrainingError(f"{folder}: open_clip refused to train ({exit_code}); see {LOG}")


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute, while the loop runs."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _world_size_in_environment(rank: int, world: int) -> Iterator[None]:
    """Say how many processes there are: to open_clip a Slurm job's script is all of its tasks."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    variables = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": local}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Chance:
    """Where all randomness of one process comes from."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank
        self.shuffle = random.Random()  # of the buffer of samples

    def mixed(self, piece: int) -> int:
        """A number of this seed, piece and process alone."""
        return (self.seed * 1_000_003 + piece) * 65_537 + self.rank

    def start(self, piece: int) -> None:
        """Begin a piece: what comes after depends on nothing that came before."""
        number = self.mixed(piece)
        torch.manual_seed(number)
        random.seed(number)
        self.shuffle.seed(number)
        np.random.seed(number % 2**32)

    def worker_seed(self, increment: int = 0) -> int:
        """Of a loader process its own, which torch derives; without them, the training's."""
        info = torch.utils.data.get_worker_info()
        base = self.mixed(0) if info is None else info.seed
        return base + increment * (1 if info is None else max(1, info.num_workers))


class UnusableSample(ValueError):
    """A sample that open_clip passes over: its caption or its image is missing."""


def _is_trainable(sample: dict[str, Any]) -> bool:
    """Whether a sample has a caption and an image; others are counted like broken ones."""
    missing = [] if "txt" in sample else ["txt"]
    if not any(extension in sample for extension in ("png", "jpg", "jpeg", "webp")):
        missing.append("png, jpg, jpeg or webp")
    if missing:
        clip_data.log_and_continue(UnusableSample(f"{sample.get('__key__')}: no {missing[0]}"))
    return not missing


_decode = webdataset.decode


def _decoder(*_: Any, handler: Any) -> Any:
    """webdataset's stage that decodes members, with images decoded as they are everywhere here."""
    return _decode(_image, handler=handler)


def _image(name: str, data: bytes) -> Any:
    """The RGB pixels of a member, None for one that is not an image."""
    if name.rpartition(".")[2].lower() not in IMAGES:
        return None
    return fast_decode.decode(data)


class _Piece:
    """A loader that begins each piece of the run from its number, and ends after its steps."""

    def __init__(self, loader: Any, piece: Any, state: _Chance, num_batches: int) -> None:
        self._loader, self._piece, self._state = loader, piece, state
        self.num_batches = num_batches
        self.num_samples = loader.num_samples

    def __iter__(self) -> Iterator[Any]:
        self._state.start(self._piece.get_value())
        return islice(iter(self._loader), self.num_batches)


def _get_data(
    given: Callable[..., Any], state: _Chance, batches: int, *args: Any, **named: Any
) -> Any:
    settings, transforms, *rest = args
    compiled = tuple(ImageTransform(transform) for transform in transforms)
    loaders = given(settings, compiled, *rest, **named)
    info = loaders["train"]
    info.dataloader = _Piece(info.dataloader, info.shared_epoch, state, batches)
    return loaders


def _loader_without_memory(*args: Any, **named: Any) -> Any:
    """Loader processes that start anew with each piece; batches go over to a GPU side by side."""
    named["persistent_workers"] = False
    named["pin_memory"] = torch.cuda.is_available()
    return _WebLoader(*args, **named)


_WebLoader = webdataset.WebLoader


def _short_texts(model: Any, own: Any, text: Any, normalize: bool = False) -> Any:
    return encode_text(own, model, text, normalize)


def _on_processors(given: Any, model: Any, device_ids: Any = None, **named: Any) -> Any:
    """Data parallelism without devices."""
    return given(model, **named)


# ---- what it says


class _Metrics:
    """Takes the loop's numbers, a line of JSON for each step that it reports."""

    def __init__(
        self, folder: Path, recipe: Recipe, progress: Callable[[str], None] | None
    ) -> None:
        self._path, self._recipe, self._progress = folder / METRICS, recipe, progress
        self._row: dict[str, float] = {}
        self._seconds = -LINE_SECONDS

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._row[name.removeprefix("train/")] = float(value)
        if name == "train/loss":  # the last one of a step
            self._write(step)
            self._row = {}

    def _write(self, step: int) -> None:
        row = self._row
        line = {
            "step": step,
            "samples": (step + 1) * self._recipe.global_batch_size,
            "loss": row["loss"],
            "logit_scale": row["scale"],
            "learning_rate": row["lr"],
            "samples_per_second": row["samples_per_second"],
            "data_seconds": row["data_time"],
            "batch_seconds": row["batch_time"],
        }
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"{self._path.parent}: the loss is {row['loss']} at step {step}; look at "
                f"{METRICS}, remove the folder and try another seed, or report the recipe"
            )
        with self._path.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        check_skipped(self._path.parent, samples=int(line["samples"]))
        if self._progress is not None:
            self._report(line)

    def _report(self, line: dict[str, Any]) -> None:
        import time

        total = num_steps(self._recipe)
        last = line["step"] + 1 == total
        if time.monotonic() - self._seconds < LINE_SECONDS and not last:
            return
        self._seconds = time.monotonic()
        assert self._progress is not None
        self._progress(progress_line(line, total=total, batch=self._recipe.global_batch_size))


def check_skipped(folder: Path, *, samples: int) -> None:
    """TrainingError when more than a tenth of the samples read so far were left out."""
    reasons = skipped(folder)
    number = sum(reasons.values())
    if number < MIN_SKIPPED or number <= MAX_SKIPPED * (samples + number):
        return
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    raise TrainingError(
        f"{folder}: {number:,} of {samples + number:,} samples read cannot be trained on "
        f"({counts}), more than {MAX_SKIPPED:.0%}; look at {SKIPPED}, repair the images and "
        "pack again"
    )


def skipped(folder: Path) -> dict[str, int]:
    """Samples that the loader left out, by the name of the error; what was read twice counts so."""
    path = folder / SKIPPED
    counts: dict[str, int] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            if not line.endswith(b"}"):
                continue
            match = re.search(r"\((\w+)\(", orjson.loads(line)["error"])
            name = match[1] if match else "error"
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def progress_line(line: dict[str, Any], *, total: int, batch: int) -> str:
    """One line for a person: step, loss, logit scale, speed, share that waits for data, ETA."""
    left = int((total - line["step"] - 1) * batch / max(line["samples_per_second"], 1e-9))
    hours, seconds = divmod(left, 3600)
    eta = f"{hours}h{seconds // 60:02d}m" if hours else f"{seconds // 60}m{seconds % 60:02d}s"
    waits = line["data_seconds"] / max(line["batch_seconds"], 1e-9)
    return (
        f"step {line['step'] + 1:,}/{total:,}  loss {line['loss']:.3f}  "
        f"scale {line['logit_scale']:.1f}  {short(line['samples_per_second'])} samples/s  "
        f"waits for data {waits:.0%}  ETA {eta}"
    )


class _Messages(logging.Handler):
    """Writes what open_clip says to a file, and what it leaves out to another."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        super().__init__(logging.INFO)
        self._log, self._skipped, self._quiet = folder / LOG, folder / SKIPPED, quiet

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said.startswith("Handling webdataset error"):
            with self._skipped.open("ab") as file:  # loader processes write here too
                file.write(orjson.dumps({"error": said}) + b"\n")
        elif not self._quiet:
            with self._log.open("ab") as file:
                file.write(said.encode("utf-8", "replace") + b"\n")


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Send log lines to the handler alone; progress for people goes to the progress bar."""
    level, handlers = logging.root.level, logging.root.handlers
    logging.root.setLevel(logging.INFO)
    logging.root.handlers = [handler]
    try:
        yield
    finally:
        logging.root.handlers = handlers
        logging.root.setLevel(level)
        handler.close()
