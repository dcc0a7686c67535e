"""CLIP evaluation against clip_benchmark, over the same folders; training against open_clip.

    python benches/bench_clip_eval.py [--model ViT-B-32] [--images 64] [--one 256] [--every 1]
                                      [--only tiny] [--dry]

On this machine's processors: one made-up dataset, then every dataset of DataComp's suite that
clip_benchmark can measure (all but WinoGAViL and the two sets of attributes), 64 images each, in
the published layout with the real numbers of classes; last the same 37 datasets of 16 images with
the CLIP of the tiny scale, both sides in this run: that row is of everything around the model.
clip_benchmark runs as its command line does, the model loaded for every dataset; the table also
shows both sides without loading. Every metric must be equal within 1e-6. It lives in an environment
of its own, and is slow: what it measured of the large model is kept by dataset (`--again` measures
anew), `--every 3` takes every third dataset, and `--only tiny` the last row. `--dry` runs all of it
with the small model on two datasets, writes no report and trains nothing: does it run?

Times are CPU-seconds of the process, on a GPU seconds. Where there is one, training on synthetic
data is measured against `open_clip_train.main` by hand with the same arguments, and against the
goals of samples a second on an H100; without one these rows are null.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
PEER = "clip-benchmark==1.6.2"
SMALL = "tiny-vit"  # whose time is not the model's
SMALL_IMAGES = 16  # of each dataset: few more than the classes of the smallest
TURNS = 3  # of both sides over one dataset, one after the other: the median counts
GOALS = {"ViT-B-32": (5500, 512), "ViT-B-16": (2800, 512), "ViT-L-14": (720, 96)}
"""Samples a second on one H100 on synthetic data, and the batch of the measurement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=64, help="of each dataset")
    parser.add_argument("--one", type=int, default=256, help="images of the single dataset")
    parser.add_argument("--every", type=int, default=1, help="take every so many of the datasets")
    parser.add_argument("--again", action="store_true", help="forget what the peer took before")
    parser.add_argument("--only", choices=("tiny",), help="the whole suite with a small model")
    parser.add_argument("--dry", action="store_true", help="toy sizes: does it run at all?")
    parser.add_argument("--check", action="store_true", help="only compare the metrics")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        again = [str(_peer_python()), __file__, "--inside", *sys.argv[1:]]
        raise SystemExit(subprocess.run(again, env=_environment(arguments.threads)).returncode)
    rows = evaluation(arguments)
    if arguments.check:
        return
    if not (arguments.only or arguments.dry):
        rows += training()
    report = {
        "machine": f"{platform.machine()}, {arguments.threads} thread(s) of {os.cpu_count()}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    name = "clip_eval-dry" if arguments.dry else "clip_eval"
    (BUILD / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'work':58} {'ours':>9} {'peer':>9} {'ratio':>6}  unit, peer")
    for row in rows:
        shown = ["-" if row[k] is None else f"{row[k]:.2f}" for k in ("ours", "peer", "ratio")]
        print(
            f"{row['work']:58} {shown[0]:>9} {shown[1]:>9} {shown[2]:>6}  {row['unit']}, "
            f"{row['peer_name']}{' - ' + row['reason'] if row.get('reason') else ''}"
        )
    short = [r["work"] for r in rows if r["ratio"] is not None and r["ratio"] < r["at_least"]]
    if short and not arguments.dry:
        raise SystemExit(f"below the goal: {'; '.join(short)}")


def _peer_python() -> Path:
    """The interpreter of an environment with the peer; it also sees what this one has."""
    venv = BUILD / "venv-clip"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        ours = next(p for p in reversed(sys.path) if (Path(p) / "open_clip").is_dir())
        (next(venv.glob("lib/*/site-packages")) / "ours.pth").write_text(ours + "\n")
    if subprocess.run([str(python), "-c", "import clip_benchmark"], capture_output=True).returncode:
        # with numpy 2.4 and later clip_benchmark's accuracy is a TypeError
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER, "numpy<2.4"], check=True)
    return python


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    fixed = dict.fromkeys(names, str(threads))
    return {**os.environ, **fixed, "PYTHONPATH": str(ROOT)}


def cpu_seconds() -> float:
    """Of this process and those it waited for; on a GPU, which runs concurrently, seconds."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.monotonic()
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


# ---- evaluation


def evaluation(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from evals.suite import load_suite

    tasks = load_suite("datacomp/full").load_tasks()
    tasks = [t for t in tasks if t.kind in ("image_classification", "image_retrieval")]
    many = tasks[:: arguments.every]
    if arguments.again:
        shutil.rmtree(BUILD / "clip-peer", ignore_errors=True)
    single = [task for task in tasks if task.name == "cifar10"]
    turns = 1 if arguments.check or arguments.dry else TURNS
    retrieval = [task for task in tasks if task.kind == "image_retrieval"][:1]
    small = [*single, *retrieval] if arguments.dry else tasks
    rows = []
    if not (arguments.only or arguments.dry):
        large = arguments.model
        rows += _rows(large, single, arguments.one, turns, (1.0, 1.0), keep=False)
        rows += _rows(large, many, arguments.images, 1, (3.0, 1.0), keep=True)
    return rows + _rows(SMALL, small, SMALL_IMAGES, turns if arguments.dry else 1, (3.0, 1.0))


def _rows(
    model: str,
    tasks: list[Any],
    images: int,
    turns: int,
    at_least: tuple[float, float],
    *,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """Both sides over made-up data of these tasks: with loading the model, and without."""
    import torch

    from evals.images.synthetic import write_synthetic_images

    weights = _weights(model)
    data = BUILD / f"clip-data-{images}"
    write_synthetic_images(tasks, data, seed=1, images=images)
    seconds = []
    for _ in range(turns):
        mine, *own = ours(model, weights, tasks, data)
        theirs, *other = peer(model, weights, tasks, data, keep=keep)
        _check(mine, theirs)
        seconds.append((*own, *other))
    load, work, peer_load, peer_work = (statistics.median(c) for c in zip(*seconds, strict=True))
    total = images * len(tasks)
    several = len(tasks) > 1
    name = f"{len(tasks)} datasets of {images}" if several else f"one dataset of {images} images"
    return [
        {
            "work": f"{model}, {name}{what}",
            "ours": round(total / a, 3),
            "peer": round(total / b, 3),
            "unit": "images per second" if torch.cuda.is_available() else "images per CPU-second",
            "peer_name": PEER,
            "ratio": round(b / a, 3),
            "at_least": goal,
        }
        for what, a, b, goal in (
            ("", load + work, peer_load + peer_work, at_least[0]),
            (", without loading the model", work, peer_work, at_least[1]),
        )
    ]


def _weights(model: str) -> Path:
    """Random weights of a model, the same for both sides."""
    import open_clip
    import torch

    from datacomp.recipe import MODELS

    open_clip.add_model_config(MODELS)  # for the peer, too, which runs in this process
    weights = BUILD / f"{model}.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    if not weights.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(model).state_dict(), weights)
    return weights


Metrics = dict[str, dict[str, float | None]]


def ours(model: str, weights: Path, tasks: list[Any], data: Path) -> tuple[Metrics, float, float]:
    """Metrics by dataset; CPU-seconds of loading the model, and of the rest."""
    from datacomp.recipe import MODELS
    from datacomp.results import read_results
    from evals.images.open_clip import load_open_clip
    from evals.run import run
    from evals.suite import Suite

    out = BUILD / "clip-scores"
    shutil.rmtree(out, ignore_errors=True)
    suite = Suite.model_validate(
        {
            "name": "bench",
            "version": "1",
            "benchmark": "datacomp",
            "description": "What clip_benchmark can measure too.",
            "tasks": [task.name for task in tasks],
            "aggregates": [{"name": "mean", "how": "mean"}],
            "headline": "mean",
        }
    )
    before = cpu_seconds()
    loaded = load_open_clip(model, pretrained=str(weights), configs=MODELS)
    between = cpu_seconds()
    run(loaded, suite=suite, data=data, out=out)
    after = cpu_seconds()
    by_key = read_results((out / "eval_results.jsonl").read_bytes(), source="results")
    metrics_of = {task.name: by_key[task.key] for task in tasks}
    return metrics_of, between - before, after - between


def peer(
    model: str, weights: Path, tasks: list[Any], data: Path, *, keep: bool
) -> tuple[Metrics, float, float]:
    """The same by clip_benchmark's command, dataset after dataset."""
    kept = BUILD / "clip-peer"
    kept.mkdir(parents=True, exist_ok=True)
    metrics_of: Metrics = {}
    loading = working = 0.0
    for task in tasks:
        path = kept / f"{model}-{data.name}-{task.name}.json"
        if not path.exists() or not keep:
            measured = _peer_dataset(model, weights, task, data)
            path.write_text(json.dumps(measured))
        first = json.loads(path.read_text())
        metrics_of[task.name] = first["metrics"]
        loading += first["loading"]
        working += first["working"]
    return metrics_of, loading, working


def _peer_dataset(model: str, weights: Path, task: Any, data: Path) -> dict[str, Any]:
    """Metrics of one dataset, and CPU-seconds of loading the model and of the rest."""
    from contextlib import redirect_stderr
    from unittest import mock

    from clip_benchmark import cli

    loading = 0.0
    load_clip: Callable[..., Any] = cli.load_clip

    def timed(**named: Any) -> Any:
        nonlocal loading
        start = cpu_seconds()
        loaded = load_clip(**named)
        loading += cpu_seconds() - start
        return loaded

    out = BUILD / "peer.json"
    retrieval = task.kind == "image_retrieval"
    arguments_ = [
        *("eval", "--dataset", "wds/x", "--dataset_root", str(data / task.file)),
        *("--model", model, "--pretrained", str(weights), "--output", str(out), "--quiet"),
        *("--task", "zeroshot_retrieval" if retrieval else "zeroshot_classification"),
        *("--no_amp", "--num_workers", "0", "--batch_size", "64", "--recall_k", "1", "5", "10"),
    ]
    before = cpu_seconds()
    with (
        mock.patch.object(sys, "argv", ["clip_benchmark", *arguments_]),
        mock.patch.object(cli, "load_clip", timed),
        open(os.devnull, "w") as quiet,
        redirect_stderr(quiet),
    ):
        _, args = cli.get_parser_args()
        args.dataset, args.model, args.pretrained = "wds/x", model, str(weights)
        args.train_split = "train"
        cli.run(args)
    working = cpu_seconds() - before - loading
    metrics = json.loads(out.read_text())["metrics"]
    return {"metrics": metrics, "loading": loading, "working": working}


def _check(mine: Metrics, theirs: Metrics) -> None:
    """Every metric of theirs is ours within 1e-6; their NaN is our None."""
    wrong = []
    for task, metrics in theirs.items():
        for name, value in metrics.items():
            actual = mine[task][name]
            if value is None or value != value:
                same = actual is None
            else:
                same = actual is not None and abs(actual - value) <= 1e-6
            if not same:
                wrong.append(f"{task} {name}: {actual} instead of {value}")
    if wrong:
        raise SystemExit("other results than clip_benchmark:\n" + "\n".join(wrong))
    print(f"{sum(map(len, theirs.values()))} metrics of {len(theirs)} datasets are equal")


# ---- training


def training() -> list[dict[str, Any]]:
    """Rows on a GPU; without one, a few steps of ViT-B/32 on a processor and rows of null."""
    import torch

    if torch.cuda.is_available():
        return [_gpu_row(model) for model in GOALS]
    mine, theirs = _rate("ViT-B-32", 16, ["--ours", "--cpu"]), _rate("ViT-B-32", 16, ["--cpu"])
    row = _row("training ViT-B-32, batch 16 of captions of 20 tokens, one core", mine, theirs)
    return [
        row | {"unit": "samples per CPU-second"},
        *(
            _row(f"training {model}, synthetic data, one GPU", None, None)
            | {"goal": goal, "reason": "no GPU on this machine"}
            for model, (goal, _) in GOALS.items()
        ),
    ]


def _gpu_row(model: str) -> dict[str, Any]:
    """Our loop on synthetic data, plain and compiled, and open_clip's with the same arguments."""
    goal, batch = GOALS[model]
    plain = _rate(model, batch, ["--ours"])
    compiled = _rate(model, batch, ["--ours", "--torchcompile"])
    row = _row(
        f"training {model}, synthetic data, one GPU",
        max(plain, compiled),
        _rate(model, batch, []),
    )
    reason = f"plain {plain:.0f}, compiled {compiled:.0f}, goal {goal}"
    return row | {"goal": goal, "reason": reason}


def _row(work: str, mine: float | None, theirs: float | None) -> dict[str, Any]:
    return {
        "work": work,
        "ours": mine,
        "peer": theirs,
        "unit": "samples per second",
        "peer_name": "open_clip by hand",
        "ratio": None if mine is None or theirs is None else round(mine / theirs, 3),
        "at_least": 1.0,
    }


def _rate(model: str, batch: int, flags: list[str]) -> float:
    """Samples a second of a training run in a process of its own, the median of its steps."""
    code = (
        "import sys; from benches.bench_clip_eval import train_steps; "
        f"train_steps({model!r}, {batch}, sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(f"training {model} with {flags}:\n{done.stderr}")
    return float(done.stdout.strip().splitlines()[-1])


def train_steps(model: str, batch: int, flags: list[str]) -> None:
    """Some steps under a recipe's arguments; prints samples a second.

    On a GPU 60 with synthetic data, by open_clip's own rates from the twentieth on; with `--cpu` 6
    over JPEGs with captions, by the CPU time between steps.
    """
    import tempfile
    from functools import partialmethod
    from types import SimpleNamespace
    from unittest import mock

    import open_clip
    from open_clip_train import main as clip_main

    from benches.bench_clip_loader import write_shard
    from datacomp.recipe import arguments, load_recipe
    from datacomp.training import open_clip_loop

    on_cpu = "--cpu" in flags
    scale = {"ViT-B-32": "medium", "ViT-B-16": "large", "ViT-L-14": "xlarge"}[model]
    steps, skipped = (6, 1) if on_cpu else (60, 20)
    changed = {"global_batch_size": batch, "samples": steps * batch, "num_checkpoints": 1}
    if on_cpu:
        changed |= {"precision": "fp32", "loader_workers": 0}
    recipe = load_recipe(scale).model_copy(update=changed)
    rates: list[float] = []
    ticks: list[float] = []

    def add_scalar(name: str, value: float, step: int) -> None:
        if name == "train/samples_per_second" and step >= skipped:
            rates.append(value)
        if name == "train/loss":
            ticks.append(time.process_time())

    options = arguments(recipe, seed=0, num_gpus=1, parts=1)
    options[options.index("--log-every-n-steps") + 1] = "1" if on_cpu else "5"
    if on_cpu:
        shard = BUILD / "loader-600.tar"
        if not shard.exists():
            write_shard(shard, 600)
        options += ["--train-data", str(shard), "--device", "cpu"]
    else:
        options[options.index("webdataset")] = "synthetic"
        options.remove("--dataset-resampled")
        options += ["--device", "cuda"]
    options += [flag for flag in flags if flag == "--torchcompile"]
    own = open_clip.CLIP.encode_text
    short = partialmethod(open_clip_loop._short_texts, own)
    ours = "--ours" in flags and "--torchcompile" not in flags
    board = SimpleNamespace(SummaryWriter=lambda _: SimpleNamespace(add_scalar=add_scalar))
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(clip_main, "tensorboard", board),
        mock.patch.object(open_clip.CLIP, "encode_text", short if ours else own),
    ):
        clip_main.main([*options, "--logs", folder, "--name", "bench"])
    if on_cpu:
        between = [b - a for a, b in zip(ticks[skipped:], ticks[skipped + 1 :], strict=False)]
        rates = [batch / seconds for seconds in between]
    print(statistics.median(rates))


if __name__ == "__main__":
    main()
