"""Train CLIP under a recipe: open_clip's own model, loss and loop, with every argument frozen.

`open_clip_train.main` does the training (`open_clip_loop` holds its seeds, its number of steps and
its messages in hand). Around it is what a benchmark needs: the shards come from a
PackedRecord, metrics are written as they come, an image that does not decode is counted by reason,
and the weights end as safetensors next to a ModelRecord. One process, torchrun, Slurm and Ray Train
call the same function; each process runs it. Killed at any moment, the same call resumes from the
last finished part of the training run, and ends with the same weights.

A training folder: `metrics.jsonl`, `skipped.jsonl`, `log.txt`, `open_clip/` (the last checkpoint,
while it runs), `model.safetensors`, `open_clip_config.json`, `loss.svg`, `record.json`.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from datacomp.recipe import (
    MODELS,
    Recipe,
    accumulation,
    arguments,
    num_steps,
    samples_seen,
    steps_per_part,
)
from evals.images.image_tasks import IMAGES
from leaderboard.benchmark import INTERMEDIATE
from leaderboard.rounds.train_folder import claim, metric_lines, write_weights
from pipelines.errors import TrainingError
from pipelines.execution.process import process_of
from pipelines.formats.tars import Member, samples, tar_bytes
from pipelines.images.decode import DECODE_ERRORS, decode_rgb
from pipelines.records import (
    File,
    ModelRecord,
    ModelWork,
    PackedRecord,
    RecordError,
    made_by,
    now,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, read_chain, standing
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store

WEIGHTS, CONFIG = "model.safetensors", "open_clip_config.json"
METRICS = "metrics.jsonl"
RUN = "open_clip"  # open_clip's own folder, while the training runs
TRIED = 64  # samples of the first shard that are opened before anything starts


def train(
    packed: str,
    *,
    recipe: Recipe,
    seed: int,
    out: str,
    num_threads: int = 1,
    device: str | None = None,
    max_batch: int | None = None,
    loader_workers: int | None = None,
    compiled: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelRecord:
    """Train one model on packed shards; returns its record, also when it was there before.

    `max_batch` is the largest batch that a GPU holds: the recipe's is then computed in parts, which
    gives the same gradients (Gao et al. 2021). `loader_workers` and `compiled` change how fast it
    goes, `progress` takes lines for a log. BatchError when the GPUs cannot share the batch;
    TrainingError when the loss is not a number, or shards are not what their record says.
    """
    started = now()
    source, out_store = open_store(packed), LocalStore(Path(out))
    record = _packed_record(source, packed, recipe)
    work = ModelWork(
        benchmark="datacomp", scale=recipe.scale, recipe=recipe.model_dump(mode="json"), seed=seed
    )
    parents = {"packed": record.id}
    key = ModelRecord.key_of(work=work, parents=parents)
    before = _finished(out_store, key)
    if before is not None:
        return before
    rank, world = process_of()
    if world > 1 and "MASTER_ADDR" not in os.environ:
        raise TrainingError(
            f"{world} processes were started, but MASTER_ADDR does not say where they meet; start "
            "them with torchrun, or with deploy/slurm-train.sh"
        )
    parts = accumulation(recipe, num_gpus=world, fitting=max_batch)
    shards = _shards(source, record)
    out_store.root.mkdir(parents=True, exist_ok=True)
    marker = out_store.root / "work.json"
    if rank == 0:
        claim(marker, key)
    resumed = (out_store.root / RUN / "run" / "checkpoints" / "epoch_latest.pt").is_file()
    import torch

    from datacomp.training import open_clip_loop

    given = arguments(recipe, seed=seed, num_gpus=world, parts=parts, loader_workers=loader_workers)
    argv = [
        *given,
        *("--train-data", "::".join(shards)),
        *("--logs", str(out_store.root / RUN), "--name", "run", "--resume", "latest"),
        *("--device", device or ("cuda" if torch.cuda.is_available() else "cpu")),
        *(["--torchcompile"] if _compiles(compiled, device) else []),
    ]
    open_clip_loop.run(
        argv,
        out_store.root,
        recipe,
        seed=seed,
        rank=rank,
        world=world,
        parts=parts,
        num_threads=num_threads,
        progress=progress,
    )
    if rank:
        return _wait(out_store, key)
    rows = metric_lines(out_store.root / METRICS)
    outputs = write_model(out_store, recipe)
    figures: dict[str, float] = {"gpus": world, "parts": parts, "resumed": float(resumed)}
    for reason, number in open_clip_loop.skipped(out_store.root).items():
        figures[f"skipped/{reason}"] = number
    sealed = ModelRecord.seal(
        work=work,
        parents=parents,
        outputs=outputs,
        counts={
            "steps": num_steps(recipe),
            "params": _num_params(out_store),
            "samples_available": record.counts["samples"],
        },
        results={"samples_seen": samples_seen(recipe), "loss": rows[-1]["loss"]},
        made_by=made_by(started, locations={"packed": source.uri}, figures=figures | _rates(rows)),
    )
    loss_curve(rows, out_store.root / "loss.svg")
    shutil.rmtree(out_store.root / RUN)
    write_bytes(out_store, RECORD, sealed.to_json())
    _meet()
    return sealed


def _packed_record(source: Store, packed: str, recipe: Recipe) -> PackedRecord:
    """The record of the shards. TrainingError when they were made elsewhere and not registered."""
    if not source.exists(RECORD) and source.exists("meta.json"):
        raise TrainingError(
            f"{packed} has no {RECORD}: its shards were made elsewhere; run first: datacomp "
            f"register-shards {packed} --scale {recipe.scale}"
        )
    record = read_chain(source)[-1]
    if not isinstance(record, PackedRecord):
        raise RecordError(f"{packed} holds a {record.kind} record; expected packed shards")
    return record


def _compiles(asked: bool | None, device: str | None) -> bool:
    """Whether the model is compiled: as asked, else on GPUs (1.7 times the rate at B/32)."""
    if asked is not None:
        return asked
    import torch

    return torch.cuda.is_available() and device != "cpu"


def _finished(store: LocalStore, key: str) -> ModelRecord | None:
    other = "other shards, another recipe or seed"
    return standing(store, key=key, kind=ModelRecord, other=other)


def _shards(source: Store, record: PackedRecord) -> list[str]:
    """Addresses of the shards, as webdataset opens them. TrainingError when one was changed."""
    sizes = {entry.name: entry.num_bytes for entry in source.list()}
    names = []
    for file in record.outputs:
        if not file.name.endswith(".tar"):
            continue
        if sizes.get(file.name) != file.num_bytes:
            raise TrainingError(
                f"{source.uri}/{file.name} has {sizes.get(file.name)} bytes, its record says "
                f"{file.num_bytes}; pack again"
            )
        path = source.local_path(file.name)
        names.append(str(path) if path else _piped(f"{source.uri}/{file.name}"))
    if not names:
        raise TrainingError(f"{source.uri} has no samples: nothing of the dataset was in the pool")
    if any(mark in names[0] for mark in ("{", "}", "::")):
        raise TrainingError(
            f"{source.uri}: webdataset reads braces and :: in a name as several names"
        )
    _check_samples(source, next(f.name for f in record.outputs if f.name.endswith(".tar")))
    return names


def _piped(uri: str) -> str:
    """A command of webdataset's that reads an object with the project's own client."""
    command = [sys.executable, "-m", "pipelines.storage.cat", uri]
    return f"pipe:{shlex.join(command)}"


def _check_samples(source: Store, name: str) -> None:
    """TrainingError when half of the first samples have no image that decodes, or no caption.

    While it trains, the loop stops at a tenth; here few are looked at, so only a broken pool shows.
    """
    faults: dict[str, int] = {}
    tried = 0
    with tar_bytes(source, name) as data:
        for sample in islice(samples(data, f"{source.uri}/{name}", repeats=True), TRIED):
            tried += 1
            fault = _fault_of(data, sample)
            if fault:
                faults[fault] = faults.get(fault, 0) + 1
    number = sum(faults.values())
    if tried and number * 2 < tried:
        return
    counts = ", ".join(f"{count}x {fault}" for fault, count in sorted(faults.items())[:3])
    raise TrainingError(
        f"{source.uri}/{name}: {number} of its first {tried} samples cannot be trained on "
        f"({counts}); pack a dataset whose images were fetched"
    )


def _fault_of(data: memoryview, sample: Sequence[Member]) -> str:
    """Why a sample cannot be trained on; empty when it can."""
    members = {member.extension: member for member in sample}
    image = next((members[extension] for extension in IMAGES if extension in members), None)
    if image is None or "txt" not in members:
        return f"no {'image' if image is None else 'txt'}"
    try:
        decode_rgb(bytes(data[image.start : image.start + image.size]))
    except DECODE_ERRORS:
        return "an image that does not decode"
    return ""


def _meet() -> None:
    """Wait for the other processes, where there are any."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _wait(store: LocalStore, key: str) -> ModelRecord:
    """The record that the first process writes."""
    _meet()
    record = _finished(store, key)
    if record is None:
        raise TrainingError(f"{store.uri}: the first process left no record; see its message")
    return record


def _rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the lines: samples a second, and the share of the time that waits for data."""
    rates = sorted(row["samples_per_second"] for row in rows)
    waits = sorted(row["data_seconds"] / max(row["batch_seconds"], 1e-9) for row in rows)
    return {
        "samples_per_second": rates[len(rates) // 2],
        "waiting_for_data": round(waits[len(waits) // 2], 4),
    }


# ---- what is left behind


def write_model(store: LocalStore, recipe: Recipe) -> list[File]:
    """The weights as safetensors, with the configuration that lets open_clip open the folder."""
    import open_clip
    from open_clip.factory import get_model_config

    open_clip.add_model_config(MODELS)
    file = _write_weights(store, "epoch_latest.pt", WEIGHTS)
    parts = range(1, recipe.num_checkpoints)
    kept = [
        _write_weights(store, f"epoch_{part * recipe.resume_points}.pt", kept_name(recipe, part))
        for part in parts
    ]
    open_clip_config = {"model_cfg": get_model_config(recipe.model), "preprocess_cfg": {}}
    config = orjson.dumps(open_clip_config, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return [file, write_bytes(store, CONFIG, config), *kept]


def kept_name(recipe: Recipe, part: int) -> str:
    """The file with the weights at the end of a part of the budget."""
    return f"{INTERMEDIATE}/step-{part * steps_per_part(recipe):08d}.safetensors"


def _write_weights(store: LocalStore, checkpoint: str, name: str) -> File:
    """The weights of one of open_clip's checkpoints as safetensors."""
    import torch

    source = store.root / RUN / "run" / "checkpoints" / checkpoint
    state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    weights = {key.removeprefix("module."): value.contiguous() for key, value in state.items()}
    return write_weights(store, name, weights)


def _num_params(store: LocalStore) -> int:
    from safetensors import safe_open

    with safe_open(store.root / WEIGHTS, framework="pt") as file:
        return sum(
            math.prod(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 - it is not a mapping
            if "running_" not in name and "num_batches" not in name
        )


def loss_curve(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and logit scale over the samples seen, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    samples = [row["samples"] for row in rows]
    axes.plot(samples, [row["loss"] for row in rows], color="#1f5f99", label="loss")
    axes.set_xlabel("samples seen")
    axes.set_ylabel("contrastive loss (nats)")
    other = axes.twinx()
    scale = [row["logit_scale"] for row in rows]
    other.plot(samples, scale, color="#b35900", linestyle="--", label="logit scale")
    other.set_ylabel("logit scale")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
