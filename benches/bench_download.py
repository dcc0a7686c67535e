"""Fetching images from a server on loopback, against img2dataset with the same options.

    python benches/bench_download.py [--rows 3000] [--images TAR]

Both sides read one parquet file, fetch, decode, make smaller than 512 pixels, blur the faces of
every tenth row and write a tar; ours also checks each sha256. Rates are images per CPU-second of
all processes of a side, less what the same run takes for ten rows (starting, importing). The server
is a process of its own, and not counted. img2dataset lives in an environment of its own.
Writes build/bench/download.json.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
WORK = BUILD / "download"
PEER = ("img2dataset==1.47.0", "setuptools<80")
PHOTOS = ROOT.parent / "shared" / "data" / "image_text" / "cc12m-train-0000.tar"
FEW = 10
ROUNDS = 3

OURS = """
import sys
from pipelines.images.download import DownloadOptions, download
from pipelines.images.fetch import FetchOptions
from datacomp.pool.pool import open_pairs
from pipelines.execution.executors import map_here
if __name__ == "__main__":
    fetch = FetchOptions(allow=(sys.argv[3],), connections=128)
    record = download(open_pairs(sys.argv[1]), out=sys.argv[2], map_tasks=map_here,
                      options=DownloadOptions(fetch=fetch))
    print(record.counts["success"])
"""
THEIRS = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", url_col="url",
             caption_col="text", save_additional_columns=["uid"], bbox_col="face_bboxes",
             output_format="webdataset", image_size=512, resize_mode="keep_ratio_largest",
             resize_only_if_bigger=True, processes_count=1, thread_count=128, retries=2,
             number_sample_per_shard=10000, oom_shard_count=8, enable_wandb=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--images", type=Path, default=PHOTOS, help="a tar with .jpg members")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images = read_images(arguments.images)
    if arguments.serve:
        asyncio.run(serve(images))
        return
    peer = install()
    shutil.rmtree(WORK, ignore_errors=True)
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", "--images", str(arguments.images)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        many = write_tables("many", address, images, arguments.rows)
        few = write_tables("few", address, images, FEW)
        rates_of: dict[str, list[float]] = {"ours": [], "theirs": []}
        for round_ in range(ROUNDS):
            for side, python, script in (("ours", sys.executable, OURS), ("theirs", peer, THEIRS)):
                used = [
                    run(python, script, tables, WORK / f"{side}-{round_}-{tables.name}", address)
                    for tables in (few, many)
                ]
                rates_of[side].append((arguments.rows - FEW) / (used[1] - used[0]))
    finally:
        server.terminate()
        server.wait()
    ours, theirs = (float(np.median(rates_of[side])) for side in ("ours", "theirs"))
    size = sum(map(len, images)) / len(images)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "rows": [
            {
                "work": f"fetch, resize, write ({size / 1000:.0f} kB images)",
                "ours": round(ours, 1),
                "unit": "images/CPU-s",
                "peer": round(theirs, 1),
                "peer_name": PEER[0],
                "ratio": round(ours / theirs, 2),
                "at_least": 1.0,
                "all": {
                    side: [round(item, 1) for item in rates] for side, rates in rates_of.items()
                },
            }
        ],
    }
    (BUILD / "download.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in report["rows"]:
        print(f"{row['work']}: {ours:.0f} against {theirs:.0f} {row['unit']}: {row['ratio']}x")


def read_images(path: Path) -> list[bytes]:
    """The images of a tar of photographs, or made-up ones where there is none."""
    if path.is_file():
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith((".jpg", ".jpeg"))]
            return [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    rng = np.random.default_rng(0)
    made = []
    for _ in range(32):
        rough = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
        data = io.BytesIO()
        rough.resize((900, 600), Image.Resampling.BICUBIC).save(data, "JPEG", quality=85)
        made.append(data.getvalue())
    return made


def write_tables(name: str, address: str, images: list[bytes], rows: int) -> Path:
    folder = WORK / name
    folder.mkdir(parents=True)
    hashes = [hashlib.sha256(data).hexdigest() for data in images]
    box = [[0.4, 0.2, 0.6, 0.5]]
    table = pa.table(
        {
            "uid": [f"{n:032x}" for n in range(rows)],
            "url": [f"http://{address}/{n}.jpg" for n in range(rows)],
            "text": [f"picture {n}" for n in range(rows)],
            "face_bboxes": pa.array(
                [box if n % 10 == 0 else [] for n in range(rows)], pa.list_(pa.list_(pa.float64()))
            ),
            "sha256": [hashes[n % len(images)] for n in range(rows)],
        }
    )
    pq.write_table(table, folder / "a.parquet")
    return folder


def run(python: str | Path, script: str, tables: Path, out: Path, address: str) -> float:
    """CPU-seconds of one download, children included. RuntimeError when images are missing."""
    code = WORK / "side.py"
    code.write_text(script)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if script is THEIRS:
        del environment["PYTHONPATH"]
    done = subprocess.run(
        [str(python), str(code), str(tables), str(out), address],
        env=environment,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    expected = pq.read_metadata(tables / "a.parquet").num_rows
    tars = list(out.glob("*.tar"))
    there = 0
    for tar in tars:
        with tarfile.open(tar) as archive:
            there += sum(name.endswith(".jpg") for name in archive.getnames())
    if done.returncode or there != expected:
        raise RuntimeError(f"{there} of {expected} images came: {done.stderr[-2000:]}")
    shutil.rmtree(out)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def install() -> Path:
    """The peer's own environment."""
    home = BUILD / "img2dataset"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER], check=True)
    return python


async def serve(images: list[bytes]) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        number = int(request.path[1:].removesuffix(".jpg"))
        body = images[number % len(images)]
        return web.Response(body=body, content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server: Any = site._server
    host, port = server.sockets[0].getsockname()[:2]
    print(f"{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
