"""How many images a second open_clip's loader gives a core, and how many cores eight GPUs need.

    python benches/bench_clip_loader.py [--images 2000] [--seconds 20]

The shards hold JPEGs of the size that DataComp's downloader stores (longest side 512, quality 95)
with captions; the loader is the one that `datacomp train` uses: tar, decode, random crop, bicubic
resize to 224, normalise, tokenize, batch. It runs in the measuring process alone, so its seconds
are those of one core. Rows: one core, and how many feed eight H100s at each goal.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipelines.images import fast_decode

AT_LEAST = 1.6  # of open_clip's rate in the same run
BUILD = Path(__file__).parent.parent / "build" / "bench"
GOALS = {"ViT-B-32": 5500, "ViT-B-16": 2800, "ViT-L-14": 720}
SIZES = ((512, 384), (512, 512), (384, 512), (512, 288), (341, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    shard = BUILD / f"loader-{arguments.images}.tar"
    if not shard.exists():
        write_shard(shard, arguments.images)
    peer = measure(shard, arguments.seconds, plain=True)
    rate = measure(shard, arguments.seconds)
    size = shard.stat().st_size / arguments.images / 1e3
    rows: list[dict[str, Any]] = [
        {
            "work": f"loader, JPEGs of {size:.0f} kB to 224 pixels",
            "ours": round(rate, 1),
            "unit": "images per CPU-second",
            "peer": round(peer, 1),
            "peer_name": "open_clip's own loader",
            "ratio": round(rate / peer, 2),
            "at_least": AT_LEAST,
            "reason": fast_decode.path(),
        }
    ]
    rows += [
        {
            "work": f"cores that feed 8 H100s at {goal} samples/s of {model} each",
            "ours": round(8 * goal / rate, 1),
            "unit": "cores",
            "peer": None,
            "peer_name": "-",
            "ratio": None,
            "at_least": None,
            "reason": "from the row above",
        }
        for model, goal in GOALS.items()
    ]
    report = {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    (BUILD / "clip_loader.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(f"{row['work']:62} {row['ours']:>9} {row['unit']}")


def write_shard(path: Path, images: int) -> None:
    """A tar of images with the detail of photographs: noise of many sizes, summed."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(images):
            width, height = SIZES[number % len(SIZES)]
            total = np.zeros((height, width, 3))
            for grain in (4, 8, 16, 32, 64, 128):
                noise = rng.normal(0, grain, (height // grain + 2, width // grain + 2, 3))
                small = Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8))
                large = small.resize((width, height), Image.Resampling.BICUBIC)
                total += np.asarray(large, np.float64) - 128
            data = io.BytesIO()
            shown = np.clip(total + 128, 0, 255).astype(np.uint8)
            Image.fromarray(shown).save(data, "JPEG", quality=95)
            caption = f"a photo of thing {number} beside a {number % 17} on a table, stock image"
            for extension, content in (("jpg", data.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:08d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def measure(shard: Path, seconds: float, *, plain: bool = False) -> float:
    """Images per CPU-second of this process; `plain`: with open_clip's decoder and transform."""
    import open_clip
    import torch
    import webdataset
    from open_clip.transform import AugmentationCfg, image_transform_v2
    from open_clip_train.data import get_wds_dataset

    from datacomp.training import open_clip_loop
    from evals.images.transforms import ImageTransform

    torch.set_num_threads(1)
    settings = open_clip.transform.PreprocessCfg()
    transform = image_transform_v2(settings, is_train=True, aug_cfg=AugmentationCfg())
    args = SimpleNamespace(
        train_data=str(shard),
        train_num_samples=10_000_000,
        dataset_resampled=True,
        train_data_upsampling_factors=None,
        batch_size=64,
        world_size=1,
        workers=0,
        seed=0,
    )
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    if not plain:  # as the training loop replaces them
        webdataset.decode = open_clip_loop._decoder
        transform = ImageTransform(transform)
    info = get_wds_dataset(args, transform, is_train=True, tokenizer=tokenizer)
    batches = iter(info.dataloader)
    next(batches)  # the buffer that shuffles is filled
    start, count, wall = time.process_time(), 0, time.monotonic()
    while time.monotonic() - wall < seconds:
        images, _ = next(batches)
        count += len(images)
    return count / (time.process_time() - start)


if __name__ == "__main__":
    main()
