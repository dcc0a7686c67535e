"""Training speed as far as a CPU can tell; `bench_gpu.py` measures the same code on a GPU.

    python benches/bench_train.py

The tiny recipe against a plain PyTorch loop on the same data, in CPU-seconds; the data loader in
tokens per second against ten times what one H100 takes; tokenization against the `tokenizers`
library.
"""

from __future__ import annotations

import argparse
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

import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dclm.packing import tokenizer  # noqa: E402
from dclm.packing.loader import Sequences  # noqa: E402
from dclm.packing.pack import pack  # noqa: E402
from dclm.recipe import Recipe, load_recipe, lr, num_steps  # noqa: E402
from dclm.training.model import OpenLM  # noqa: E402
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

H100_TOKENS = 148_000  # per second at 411M parameters, the goal of spec and plan


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    machine = f"{platform.processor() or platform.machine()}, 1 thread"
    with tempfile.TemporaryDirectory() as folder:
        rows = _cpu_rows(Path(folder))
    for row in rows:
        _show(row)
    out = ROOT / "build" / "bench" / "train.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    out.write_text(json.dumps(report | {"rows": rows}, indent=2) + "\n")
    print(f"\n{machine}, torch {torch.__version__}; written to {out}")


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


def _plain_loss(model: OpenLM, tokens: Tensor, recipe: Recipe) -> Tensor:
    logits = model(tokens[:, :-1]).flatten(0, 1)
    z = logits.logsumexp(1).square().mean()
    return F.cross_entropy(logits, tokens[:, 1:].flatten()) + recipe.z_loss * z


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
    library = tokenizers.Tokenizer.from_buffer(encoder.data)
    library_seconds = _cpu_seconds(
        lambda: library.encode_batch_fast(texts, add_special_tokens=False)
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
            megabytes / library_seconds,
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
    collected = []
    for _ in range(2):
        started = time.process_time()
        work()
        collected.append(time.process_time() - started)
    return min(collected)


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
