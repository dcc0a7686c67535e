"""Training speed: the trainer's own step on a GPU, or what a CPU can tell.

    python benches/bench_train.py [--packed DIR] [--shapes 25m 400m-1x 1b-1x] [--seconds 25]

On one GPU, for each shape: tokens per second, share of the bf16 peak (6 N D) and peak memory of

- plain: eager, whole float32 logits, as the recipe reads;
- chunked: eager, head and loss in chunks;
- final: compiled blocks, chunked loss, cuDNN attention: what `dclm train` runs.

Optimizer, clipping and data loading are inside the timed part; compilation is not. It ends within
eight minutes. `--packed` names packed data of the gpt-neox-20b recipes; otherwise ids are random.

On a CPU: the tiny recipe against a plain PyTorch loop on the same data, in CPU-seconds; the data
loader in tokens per second against ten times what one H100 takes; tokenization against the
`tokenizers` library. GPU rows are then null, with the reason.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dclm.packing import tokenizer  # noqa: E402
from dclm.packing.loader import Sequences  # noqa: E402
from dclm.packing.pack import pack  # noqa: E402
from dclm.plan import GPUS, micro_batch  # noqa: E402
from dclm.recipe import Recipe, load_recipe, lr, num_steps  # noqa: E402
from dclm.training.model import OpenLM  # noqa: E402
from dclm.training.parallel import build, fast_attention, processes  # noqa: E402
from dclm.training.train import train  # noqa: E402
from pipelines.execution.executors import map_here  # noqa: E402
from pipelines.records import (  # noqa: E402
    DatasetRecord,
    DatasetWork,
    File,
    made_by,
    now,
    sha256_file,
)
from pipelines.storage.base import write_bytes  # noqa: E402
from pipelines.storage.open import open_store  # noqa: E402

GOALS = {"400m-1x": 0.37, "1b-1x": 0.46, "3b-1x": 0.46, "7b-1x": 0.51}
ACCUMULATION = 4  # micro-batches in a timed step
H100_TOKENS = 148_000  # per second at 411M parameters, the goal of spec and plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packed", help="packed data of a gpt-neox-20b recipe")
    parser.add_argument("--shapes", nargs="+", default=["25m", "400m-1x", "1b-1x"])
    parser.add_argument("--seconds", type=float, default=25.0, help="timed, per shape and kind")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
        for shape in arguments.shapes:
            for kind in ("plain", "chunked", "final"):
                if time.monotonic() - began > 420:
                    rows.append(_not_run(shape, kind, "the eight minutes were used up"))
                    continue
                rows.append(_gpu_row(shape, kind, arguments.packed, arguments.seconds))
                _show(rows[-1])
    else:
        machine = f"{platform.processor() or platform.machine()}, 1 thread"
        for shape in arguments.shapes:
            rows.append(_not_run(shape, "final", "no GPU on this machine"))
        with tempfile.TemporaryDirectory() as folder:
            rows += _cpu_rows(Path(folder))
        for row in rows:
            _show(row)
    out = ROOT / "build" / "bench" / "train.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    out.write_text(json.dumps(report | {"rows": rows}, indent=2) + "\n")
    print(f"\n{machine}, torch {torch.__version__}; written to {out}")


def _not_run(shape: str, kind: str, reason: str) -> dict[str, Any]:
    return {
        "work": f"train {shape}, {kind}",
        "ours": None,
        "unit": "tokens/s",
        "peer": None,
        "peer_name": "share of the bf16 peak",
        "ratio": None,
        "at_least": GOALS.get(shape),
        "reason": reason,
    }


def _show(row: dict[str, Any]) -> None:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"

    extra = row.get("reason") or row.get("note", "")
    print(
        f"{row['work']:<38} {number(row['ours']):>10} {row['unit']:<12} {row['peer_name']}: "
        f"{number(row['peer'])}  ratio {number(row['ratio'])}  at least {number(row['at_least'])}"
        f"  {extra}",
        flush=True,
    )


# ---- One GPU ------------------------------------------------------------------------------------


def _gpu_row(shape: str, kind: str, packed: str | None, seconds: float) -> dict[str, Any]:
    recipe = load_recipe(shape)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with processes(recipe) as (_, _, device, mesh):
        memory = torch.cuda.get_device_properties(device).total_memory
        fitting = micro_batch(recipe, num_gpus=1, memory_bytes=memory)
        if fitting is None:
            return _not_run(shape, kind, "does not fit this GPU")
        if kind == "plain":  # whole logits take four to five float32 copies
            fitting = max(1, min(fitting, int(0.5 * memory / (recipe.model.seq_len * 50432 * 20))))
        model = build(recipe, 0, device, mesh, compiled=kind == "final")
        optimizer = torch.optim.AdamW(
            model.parameters(), betas=recipe.betas, eps=recipe.eps, fused=True
        )
        batches = _batches(recipe, packed, fitting)
        loss = _plain_loss if kind == "plain" else _chunked_loss

        def step() -> None:
            for part in range(ACCUMULATION):
                if isinstance(model, FSDPModule):
                    model.set_requires_gradient_sync(part + 1 == ACCUMULATION)
                tokens = next(batches).pin_memory().to(device, non_blocking=True)
                (loss(model, tokens, recipe) / ACCUMULATION).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        with fast_attention(device):
            for _ in range(3):
                step()
            torch.cuda.synchronize()
            started, steps = time.monotonic(), 0
            while time.monotonic() - started < seconds:
                for _ in range(3):
                    step()
                steps += 3
                torch.cuda.synchronize()
            spent = time.monotonic() - started
    speed = steps * ACCUMULATION * fitting * recipe.model.seq_len / spent
    share = 6 * recipe.counted_params * speed / GPUS["h100"].peak_flops
    peak = torch.cuda.max_memory_allocated() / 1e9
    return {
        "work": f"train {shape}, {kind}",
        "ours": speed,
        "unit": "tokens/s",
        "peer": share,
        "peer_name": "share of the bf16 peak",
        "ratio": None,
        "at_least": GOALS.get(shape) if kind == "final" else None,
        "note": f"micro-batch {fitting}, peak {peak:.1f} GB",
    }


def _plain_loss(model: OpenLM, tokens: Tensor, recipe: Recipe) -> Tensor:
    logits = model(tokens[:, :-1]).flatten(0, 1)
    z = logits.logsumexp(1).square().mean()
    return F.cross_entropy(logits, tokens[:, 1:].flatten()) + recipe.z_loss * z


def _chunked_loss(model: OpenLM, tokens: Tensor, recipe: Recipe) -> Tensor:
    pad = recipe.tokenizer.pad
    return model.loss(tokens[:, :-1], tokens[:, 1:], z_loss=recipe.z_loss, ignore=pad)[0]


def _batches(recipe: Recipe, packed: str | None, size: int) -> Any:
    """An endless iterator of (size, seq_len + 1) int64 on the CPU."""
    if packed is None:
        chance = np.random.default_rng(0)
        while True:
            shape = (size, recipe.model.seq_len + 1)
            yield torch.from_numpy(chance.integers(0, 50277, shape, dtype=np.int64))
    data = Sequences(packed, recipe=recipe)
    position = 0
    while True:
        yield torch.from_numpy(data.batch(position, size))
        position += size


# ---- A CPU --------------------------------------------------------------------------------------


def _cpu_rows(folder: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    texts = _texts()
    dataset = _dataset(folder / "dataset", texts)
    recipe = load_recipe("tiny").model_copy(update={"tokens": 100 * 1024, "scale": "bench"})
    record = pack(dataset, recipe=recipe, out=str(folder / "packed"), map_tasks=map_here)
    data = Sequences(str(folder / "packed"), recipe=recipe)
    tokens = num_steps(recipe) * recipe.global_batch_size * recipe.model.seq_len

    def ours() -> None:
        with tempfile.TemporaryDirectory() as out:
            train(str(folder / "packed"), recipe=recipe, seed=124, out=out)

    ours_seconds = _cpu_seconds(ours)
    plain_seconds = _cpu_seconds(lambda: _plain_training(recipe, data))

    def load() -> None:
        for position in range(0, 60_000, 512):
            data.batch(position, 512)

    loaded = 60_000 // 512 * 512 * recipe.model.seq_len
    load_seconds = _cpu_seconds(load)
    encoder = tokenizer.load(recipe.tokenizer)
    encode_seconds = _cpu_seconds(lambda: encoder.encode(texts))
    exact_seconds = _cpu_seconds(
        lambda: encoder._exact.encode_batch_fast(texts, add_special_tokens=False)
    )
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return [
        _row(
            f"train tiny, {record.counts['sequences']:,} sequences",
            tokens / ours_seconds,
            "tokens/s",
            tokens / plain_seconds,
            "plain PyTorch loop",
            1.0,
        ),
        _row(
            "data loader, 256 tokens a sequence",
            loaded / load_seconds,
            "tokens/s",
            10 * H100_TOKENS,
            "ten times one H100's need",
            1.0,
        ),
        _row(
            "tokenize, tiny-bpe",
            megabytes / encode_seconds,
            "MB/s",
            megabytes / exact_seconds,
            "tokenizers",
            1.0,
        ),
    ]


def _row(
    work: str, ours: float, unit: str, peer: float, peer_name: str, at_least: float
) -> dict[str, Any]:
    return {
        "work": work,
        "ours": ours,
        "unit": unit,
        "peer": peer,
        "peer_name": peer_name,
        "ratio": ours / peer,
        "at_least": at_least,
    }


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """The fewer CPU-seconds of two runs."""
    found = []
    for _ in range(2):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def _plain_training(recipe: Recipe, data: Sequences) -> None:
    torch.manual_seed(124)
    model = OpenLM(recipe.model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=recipe.betas, weight_decay=0.033)
    for step in range(num_steps(recipe)):
        rows = data.batch(step * recipe.global_batch_size, recipe.global_batch_size)
        optimizer.param_groups[0]["lr"] = lr(recipe, step)
        optimizer.zero_grad()
        _plain_loss(model, torch.from_numpy(rows), recipe).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()


def _texts() -> list[str]:
    """The interpreter's own documentation strings and sources: real text, on every machine."""
    library = Path(os.__file__).parent
    paths = sorted(library.glob("*.py"))
    random.Random(0).shuffle(paths)
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths[:150]]


def _dataset(folder: Path, texts: list[str]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "data" / "00000.parquet"
    path.parent.mkdir(parents=True)
    columns = {
        "row": pa.array(range(len(texts)), pa.int64()),
        "text": pa.array(texts, pa.large_string()),
    }
    pq.write_table(pa.table(columns), path)
    file = File(name="data/00000.parquet", sha256=sha256_file(path), num_bytes=path.stat().st_size)
    record = DatasetRecord.seal(
        work=DatasetWork(pipeline={"name": "bench"}),
        parents={"pool": "0" * 32},
        outputs=[file],
        made_by=made_by(now()),
    )
    write_bytes(open_store(folder), "record.json", record.to_json())
    return str(folder)


if __name__ == "__main__":
    main()
