"""DataComp curation: filters, the sort of uids, centroid assignment, the resharder.

    python benches/bench_datacomp.py [--rows 1000000] [--megabytes 500] [--assets DIR ...]

Rates are per CPU-second of one process, user and system. The reference's own rules are stated in
plain Python here (pandas and numpy as it uses them) and run in the same run over the same rows, or
fewer where they are slow. Writes build/bench/datacomp.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datacomp.curation.curate import curate
from pipelines import kernels
from pipelines.assets.catalogue import Assets
from pipelines.execution.executors import map_here
from pipelines.execution.progress import quiet
from pipelines.formats.pool import open_pool
from pipelines.image_text.clusters import has_gpu, nearest, on_device
from pipelines.images.reshard import pack
from pipelines.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
WORK = BUILD / "datacomp"
WORDS = "a the of photo image red blue car dog house tree water sale shop vintage art black white"
CAPTIONS = ROOT.parent / "shared" / "data" / "image_text" / "test_10000.parquet"
L14 = "clip_l14_similarity_score"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--megabytes", type=int, default=500, help="of tars for the resharder")
    parser.add_argument("--assets", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    assets = Assets(folders=(*arguments.assets, Path("/usr/share/wordnet")))
    with quiet():
        rows = [*filters(arguments.rows, assets), *centroids(), *resharder(arguments.megabytes)]
    report = {
        "machine": f"{platform.machine()}, 1 of {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "datacomp.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'work':50} {'ours':>12} {'plain':>12} {'ratio':>7} {'at least':>10}  unit")
    for row in rows:
        ours, plain = (
            "-" if row[side] is None else f"{row[side]:,.0f}" for side in ("ours", "plain")
        )
        whole = row["ours"] is not None and row["plain"] is not None
        ratio = f"{row['ours'] / row['plain']:.2f}" if whole else "-"
        print(
            f"{row['work']:50} {ours:>12} {plain:>12} {ratio:>7} {row['at_least']!s:>10}  "
            f"{row['unit']} {row.get('reason', '')}"
        )


def timed(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def best(function: Callable[[], object], times: int = 3) -> float:
    return min(timed(function) for _ in range(times))


def row(
    work: str, ours: float | None, plain: float | None, at_least: object, unit: str
) -> dict[str, Any]:
    return {"work": work, "ours": ours, "plain": plain, "at_least": at_least, "unit": unit}


# ---- filters over tables


def tables(rows: int) -> Path:
    """Seeded metadata in files of half a million rows, as the published pool has them."""
    folder = WORK / f"metadata-{rows}"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = np.array(WORDS.split())
    for number in range(max(1, rows // 500_000)):
        count = min(rows, 500_000)
        halves = rng.integers(0, 1 << 62, (count, 2))
        lengths = rng.integers(1, 16, count)
        flat = words[rng.integers(0, len(words), int(lengths.sum()))]
        ends = np.cumsum(lengths)
        texts = [" ".join(flat[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
        if CAPTIONS.is_file():  # real ones, and every third with a word that no other has
            real = [text or "" for text in pq.read_table(CAPTIONS).column("TEXT").to_pylist()]
            chosen = rng.integers(0, len(real), count).tolist()
            texts = [
                f"{real[first]} q{n:x}{number:x}s" if n % 3 == 0 else real[first]
                for n, first in enumerate(chosen)
            ]
        table = pa.table(
            {
                "uid": [f"{a:016x}{b:016x}" for a, b in halves.tolist()],
                "url": [f"https://pictures.example/{n}" for n in range(count)],
                "text": texts,
                "original_width": rng.integers(50, 2000, count),
                "original_height": rng.integers(50, 2000, count),
                "clip_b32_similarity_score": rng.random(count),
                L14: rng.random(count),
                "sha256": ["0" * 64] * count,
            }
        )
        pq.write_table(table, folder / f"{number:032x}.parquet")
    return folder


def filters(rows: int, assets: Assets) -> list[dict[str, Any]]:
    pool = open_pool(str(tables(rows)))
    result_rows = []
    select = {"select": {"by": L14, "fraction": 0.3, "ties": "reference", "missing": "drop"}}
    small = {"caption_size": {}}, {"picture_size": {}}
    for name, steps, at_least, plain in (
        ("no_filter, with the sort of uids", [], 2_500_000, plain_no_filter),
        ("clip_score 30 %, with the sort of uids", [select], 2_500_000, plain_clip),
        ("basic_filter", ["caption_language", *small], 300_000, plain_basic),
        ("text_based", ["caption_language", "synset_words"], 150_000, None),
    ):
        pipeline = Pipeline.from_steps(steps, name="bench", assets=assets)
        try:
            for step in pipeline.steps:
                step.operator.load(assets)
        except ValueError as error:
            print(f"{name}: not measured: {error}")
            continue
        seconds = best(lambda pipeline=pipeline: run(pipeline, pool))  # type: ignore[misc]
        slow = None
        if plain is not None:
            few = rows if plain is not plain_basic else min(rows, 100_000)
            slow = few / timed(lambda plain=plain, few=few: plain(pool.uri, few))  # type: ignore[misc]
        result_rows.append(row(name, rows / seconds, slow, at_least, "rows/s"))
    scores = pq.read_table(Path(pool.uri) / pool.shards[0].name, columns=[L14])[L14]
    result_rows.append(filter_alone(scores))
    return result_rows


def run(pipeline: Pipeline, pool: Any) -> None:
    out = WORK / "out"
    shutil.rmtree(out, ignore_errors=True)
    curate(pipeline, pool, out=str(out), map_tasks=map_here)


def filter_alone(scores: Any) -> dict[str, Any]:
    """The filter on scores without reading or uids."""
    from pipelines.batch import Batch
    from pipelines.image_text.image_rules import ClipScore

    batch = Batch(pa.table({L14: scores}))
    operator = ClipScore(arch="l14", min_score=0.7)
    seconds = best(lambda: operator.reject(batch))
    return row(
        "clip_score by threshold, the filter alone", len(scores) / seconds, None, 5e6, "rows/s"
    )


def plain_no_filter(uri: str, rows: int) -> None:
    uids = [uid for table in read(uri, ["uid"]) for uid in table["uid"].to_pylist()]
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids]
    np.sort(np.array(pairs, dtype=kernels.uids.SUBSET))


def plain_clip(uri: str, rows: int) -> None:
    tables_read = list(read(uri, ["uid", L14]))
    scores = np.concatenate([table[L14].to_numpy() for table in tables_read])
    uids = np.concatenate([table["uid"].to_pandas().to_numpy() for table in tables_read])
    threshold = np.sort(scores)[::-1][int(len(scores) * 0.3)]
    kept = uids[scores >= threshold]
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in kept]
    np.sort(np.array(pairs, dtype=kernels.uids.SUBSET))


def plain_basic(uri: str, rows: int) -> None:
    import fasttext

    from pipelines.assets.catalogue import Assets

    model = fasttext.load_model(str(Assets().path("lid.176.ftz"))).f
    names = ["uid", "text", "original_width", "original_height"]
    table = next(iter(read(uri, names))).slice(0, rows)
    kept = []
    for uid, text, width, height in zip(*(table[n].to_pylist() for n in names), strict=True):
        line = text.replace("\n", " ") + "\n"
        [(_, label)] = model.predict(line, 1, 0.0, "strict") or [(0.0, "")]
        if label != "__label__en" or len(text.split()) <= 2 or len(text) <= 5:
            continue
        if min(width, height) >= 200 and max(width, height) / min(width, height) <= 3.0:
            kept.append(divmod(int(uid, 16), 1 << 64))


def read(uri: str, columns: list[str]) -> Any:
    for file in sorted(Path(uri).glob("*.parquet")):
        yield pq.read_table(file, columns=columns)


# ---- centroids


def centroids() -> list[dict[str, Any]]:
    """Assignment against the matrix product alone, one thread."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((8192, 768)).astype(np.float32)
    centres = rng.standard_normal((10_000, 768)).astype(np.float32)
    out = np.empty((1600, len(centres)), np.float32)

    def product() -> None:
        for begin in range(0, len(features), 1600):
            part = features[begin : begin + 1600]
            np.matmul(part, centres.T, out=out[: len(part)])

    operations = 2 * features.shape[0] * features.shape[1] * len(centres) / 1e9
    ours, plain = best(lambda: nearest(features, centres)), best(product)
    return [
        row("centroid assignment", operations / ours, operations / plain, "90 %", "GFLOP/s"),
        on_gpu(),
    ]


def on_gpu() -> dict[str, Any]:
    """Assignment on a GPU against its bare product in bfloat16; null where there is none."""
    result_row = row("centroid assignment on a GPU", None, None, "60 %", "TFLOP/s")
    if not has_gpu():
        return result_row | {"reason": "there is no GPU here"}
    import torch

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100_000, 768)).astype(np.float32)
    features = rng.standard_normal((65_536, 768)).astype(np.float32)
    assign = on_device("cuda", centres)
    a = torch.from_numpy(features).cuda().bfloat16()
    b = torch.from_numpy(centres).cuda().bfloat16().T.contiguous()

    def product() -> None:
        for begin in range(0, len(a), 8192):
            torch.mm(a[begin : begin + 8192], b)
        torch.cuda.synchronize()

    seconds = []
    for work in (lambda: assign(features), product):
        work()
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    operations = 2 * features.size * len(centres) / 1e12
    device = torch.cuda.get_device_name()
    return result_row | {
        "ours": operations / seconds[0],
        "plain": operations / seconds[1],
        "device": device,
    }


# ---- the resharder


def tars(megabytes: int) -> tuple[Path, list[str]]:
    folder = WORK / f"tars-{megabytes}"
    names = folder / "uids.json"
    if names.exists():
        return folder, json.loads(names.read_text())
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    uids: list[str] = []
    size, number = 0, 0
    while size < megabytes * 1_000_000:
        with tarfile.open(folder / f"{number:08d}.tar", "w") as archive:
            for index in range(1000):
                a, b = rng.integers(0, 1 << 62, 2).tolist()
                uid = f"{a:016x}{b:016x}"
                uids.append(uid)
                key = f"{number:05d}{index:04d}"
                meta = {"uid": uid, "caption": "a photo", "key": key, "status": "success"}
                image = rng.bytes(int(rng.integers(10_000, 54_000)))
                for extension, data in (
                    ("jpg", image),
                    ("json", json.dumps(meta).encode()),
                    ("txt", b"a photo"),
                ):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                    size += len(data)
        number += 1
    names.write_text(json.dumps(uids))
    return folder, uids


def resharder(megabytes: int) -> list[dict[str, Any]]:
    folder, uids = tars(megabytes)
    size = sum(file.stat().st_size for file in folder.glob("*.tar"))
    result_rows = []
    for share, at_least in ((0.3, 800), (1.0, 400)):
        step = round(1 / share)
        chosen = uids if share == 1.0 else uids[::step]
        pairs = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in chosen)
        subset = WORK / "subset.npy"
        np.save(subset, np.array(pairs, dtype=kernels.uids.SUBSET))

        def ours(subset: Path = subset) -> None:
            out = WORK / "packed"
            shutil.rmtree(out, ignore_errors=True)
            pack(str(folder), str(subset), out=str(out), map_tasks=map_here)

        seconds = best(ours)
        copied = sum(file.stat().st_size for file in (WORK / "packed").glob("*.tar"))
        plain = size / 1e6 / best(lambda copied=copied: copy(folder, copied))  # type: ignore[misc]
        work = f"resharder, {share:.0%} kept; plain copies the same bytes"
        result_rows.append(row(work, size / 1e6 / seconds, plain, at_least, "MB/s read"))
    return result_rows


def copy(folder: Path, size: int) -> None:
    """Read as many bytes as the resharder writes, and write them, synced, without a hash."""
    left = size
    with open(WORK / "copy.bin", "wb") as out:
        for file in sorted(folder.glob("*.tar")):
            with open(file, "rb") as source:
                while left > 0 and (data := source.read(min(left, 1 << 20))):
                    out.write(data)
                    left -= len(data)
        out.flush()
        os.fsync(out.fileno())


if __name__ == "__main__":
    main()
