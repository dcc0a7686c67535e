"""Deduplication: rates, recall and precision on planted duplicates, peak memory, growth.

    python benches/bench_dedup.py [--megabytes 270] [--plot FILE]

The corpus is seeded: words drawn from a Zipf law, lengths from a log-normal one, and for each band
of Jaccard similarity some hundred pairs of neighbouring rows whose similarity of 5-grams is known.
Rates are UTF-8 megabytes per CPU-second of one process. Peers are installed into an environment of
their own and see a part of the same corpus. Writes build/bench/dedup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import templates
import zstandard
from rows import Rows

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
WORK = BUILD / "dedup"
PEERS = (
    *("rensa==0.5.0", "datatrove==0.10.1", "xxhash==3.5.0", "regex", "tokenizers", "nltk"),
    *("spacy", "orjson", "zstandard", "tiktoken==0.14.0"),
)
NGRAM = 5
UNIT = "MB/CPU-s"
BANDS = ((0.9, 1.0), (0.8, 0.9), (0.7, 0.8), (0.5, 0.7), (0.1, 0.5))
PAIRS = 400  # of each band
PEER_MEGABYTES = {"rensa": 30, "datatrove": 2, "dolma": 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=270, help="of text in the largest corpus")
    parser.add_argument("--plot", type=Path, help="file for the plot of growth (.svg, .png)")
    parser.add_argument("--inside", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(INSIDE[arguments.inside[0]](Path(arguments.inside[1]))))
        return
    corpora = [corpus(arguments.megabytes // share) for share in (16, 4, 1)]
    large = corpora[-1]
    theirs = peers(large)
    # dolma's own input and output are taken off: ours has none. datatrove: its signatures alone.
    dolma, trove = theirs["dolma"], theirs["datatrove"]
    rate = {
        "rensa": theirs["rensa"]["bytes"] / 1e6 / theirs["rensa"]["seconds"],
        "datatrove, signatures alone": trove["bytes"] / 1e6 / trove["signature_seconds"],
        "dolma": dolma["bytes"] / 1e6 / (dolma["seconds"] - dolma["floor_seconds"]),
    }
    rows = Rows("dedup")
    for work, what, floor in (
        ("MinHash signatures, whitespace words", "signatures", 100),
        ("MinHash signatures, UAX #29 words", "signatures_uax29", 60),
        ("substring dedup, 50 words", "substring", 10),
        ("n-gram Bloom, UAX #29, 128 MB", "bloom_uax29", 30),
    ):
        figures = inside(what, large)
        rows.add(work, figures["mb_per_second"], UNIT, floor=floor, peak_mb=figures["peak_mb"])
    figures = inside("bloom", large)
    for floor_of, floor in (("ours", 50), ("ratio", 10)):
        rows.add(
            *("n-gram Bloom, whitespace, 128 MB", figures["mb_per_second"], UNIT),
            floor=floor,
            floor_of=floor_of,
            peak_mb=figures["peak_mb"],
            peer=rate["dolma"],
            peer_name="dolma 1.2.1",
        )
    figures = inside("minhash", large)
    for peer, times in (("rensa", 8), ("datatrove, signatures alone", 100)):
        rows.add(
            *("whole MinHash dedup from jsonl.zst", figures["mb_per_second"], UNIT),
            floor=times,
            floor_of="ratio",
            peak_mb=figures["peak_mb"],
            peer=rate[peer],
            peer_name=peer,
            **({"recall": figures["recall"]} if peer == "rensa" else {}),
            reason=f"precision {figures['precision']}",
        )
    figures = inside("checked", WORK / "templates")
    ours, plain = figures["checked"], figures["unchecked"]
    rows.add(
        *("near-duplicates of templates, links checked", ours["seconds"], "CPU-s"),
        less=True,
        peer=plain["seconds"],
        peer_name="unchecked",
        floor=0.667,  # at most 1.5 times the cost
        floor_of="ratio",
        reason=f"falsely removed {ours['falsely']} of {ours['dropped']}, unchecked "
        f"{plain['falsely']} of {plain['dropped']}; copies found {ours['recall']:.1%}",
    )
    seconds = inside("exact", large)
    rows.add(
        *("exact dedup of 10 million keys", seconds["seconds"], "CPU-s"),
        less=True,
        peer=seconds["pyarrow_seconds"],
        peer_name="pyarrow group_by",
        floor=0.2,
        floor_of="ratio",
    )
    growth = [
        {"work": work, "megabytes": megabytes(folder), **inside(work, folder)}
        for work in ("minhash", "substring", "exact_run", "bloom_run")
        for folder in corpora
    ]
    rows.more = {"growth": growth, "peers": theirs}
    for measurement in growth:
        print(
            f"  {measurement['work']:12} {measurement['megabytes']:8} "
            f"{measurement['seconds']:8} {measurement['peak_mb']:8}"
        )
    if arguments.plot:
        plot(growth, arguments.plot)
    rows.close()


# ---- the corpus


def corpus(size: int) -> Path:
    """A folder with `size` MB of text in shards of about 64 MB, and `pairs.json`."""
    folder = WORK / f"corpus-{size}"
    if (folder / "pairs.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    rng = np.random.default_rng(size)
    letters = np.array(list("etaoinshrdlucmfwyp"))
    lengths = rng.integers(2, 11, 60_000)
    vocabulary = np.array(["".join(rng.choice(letters, length)) for length in lengths])
    pairs: list[list[float]] = []
    written, shard, lines, shard_bytes = 0, 0, [], 0
    planted = iter([band for band in BANDS for _ in range(PAIRS)])
    number = 0
    while written < size * 1_000_000:
        base = document(rng, vocabulary)
        texts = [base]
        band = next(planted, None)
        if band is not None and len(base) > 60:
            other, similarity = copy(rng, base, vocabulary, rng.uniform(*band))
            texts.append(other)
            pairs.append([number, similarity])
        for words in texts:
            text = " ".join(words)
            lines.append(orjson.dumps({"text": text}))
            written += len(text)
            shard_bytes += len(text)
            number += 1
        if shard_bytes > 64_000_000:
            write_shard(folder, shard, lines)
            shard, lines, shard_bytes = shard + 1, [], 0
    write_shard(folder, shard, lines)
    (folder / "pairs.json").write_text(json.dumps({"pairs": pairs, "bytes": written}))
    return folder


def document(rng: np.random.Generator, vocabulary: Any) -> list[str]:
    length = int(np.clip(rng.lognormal(6.0, 0.8), 20, 20_000))
    ranks = np.minimum(rng.zipf(1.25, length), len(vocabulary)) - 1
    words = vocabulary[ranks].astype(object)
    ends = rng.integers(0, length, length // 60 + 1)
    words[ends] = words[ends] + ".\n"
    return " ".join(words).split(" ")


def copy(
    rng: np.random.Generator, base: list[str], vocabulary: Any, similarity: float
) -> tuple[list[str], float]:
    """The text with its end written anew, so that its 5-grams are about `wanted` similar."""
    keep = round(len(base) * 2 * similarity / (1 + similarity))
    fresh = document(rng, vocabulary)
    while len(fresh) < len(base) - keep:
        fresh += document(rng, vocabulary)
    other = base[:keep] + fresh[: len(base) - keep]
    return other, jaccard(base, other)


def jaccard(first: list[str], other: list[str]) -> float:
    left, right = (
        {tuple(w[i : i + NGRAM]) for i in range(len(w) - NGRAM + 1)}
        for w in (" ".join(first).split(), " ".join(other).split())
    )
    return len(left & right) / len(left | right)


def write_shard(folder: Path, number: int, lines: list[bytes]) -> None:
    data = zstandard.ZstdCompressor(level=3).compress(b"\n".join(lines) + b"\n")
    (folder / "in" / f"{number:04d}.jsonl.zst").write_bytes(data)


def megabytes(folder: Path) -> float:
    return round(json.loads((folder / "pairs.json").read_text())["bytes"] / 1e6, 1)


# ---- ours, each in a process of its own


def inside(work: str, folder: Path) -> dict[str, Any]:
    """Measured in a fresh process: CPU-seconds, peak memory, what was found."""
    command = [sys.executable, __file__, "--inside", work, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(started: float, size: float, **more: Any) -> dict[str, Any]:
    seconds = time.process_time() - started
    return {
        "seconds": round(seconds, 3),
        "mb_per_second": round(size / 1e6 / seconds, 2),
        "peak_mb": peak_mb(),
        **more,
    }


def peak_mb() -> float:
    """The most memory this process has held; getrusage would count its parent's, from the fork."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def texts_of(folder: Path, most: float = 64e6) -> Any:
    """The first texts as one Arrow array, and the memory of what reading them took."""
    import pyarrow as pa

    texts: list[str] = []
    size = 0
    for path in sorted((folder / "in").iterdir()):
        data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
        for line in data.splitlines():
            texts.append(orjson.loads(line)["text"])
            size += len(texts[-1])
            if size >= most:
                return pa.array(texts, pa.large_string()), size
    return pa.array(texts, pa.large_string()), size


def signatures(folder: Path, units: str = "whitespace") -> dict[str, Any]:
    from pipelines.dedup.minhash import MinhashDedup

    batches, size = batches_of(folder)
    operator = MinhashDedup.model_validate({"units": units})
    operator.keys(batches[0])  # compiles
    started = time.process_time()
    for batch in batches:
        operator.keys(batch)
    return measured(started, size)


def batches_of(folder: Path) -> tuple[list[Any], int]:
    import pyarrow as pa

    from pipelines.batch import Batch, cut

    texts, size = texts_of(folder)
    table = pa.table({"row": pa.array(range(len(texts)), pa.int64()), "text": texts})
    return [Batch(part) for part in cut(table)], size


def bloom(folder: Path, units: str = "whitespace") -> dict[str, Any]:
    from pipelines.dedup.ngram_bloom import NgramBloomDedup

    batches, size = batches_of(folder)
    operator = NgramBloomDedup.model_validate({"units": units, "expected_ngrams": 103_000_000})
    warm = NgramBloomDedup.model_validate({"units": units, "expected_ngrams": 1_000_000})
    warm.step(warm.start(), batches[0])
    state = operator.start()
    filter_mb = round(state.filter.bits.nbytes / 1e6, 1)
    state.filter.bits[:] = 0  # its pages are there before the clock runs
    started = time.process_time()
    for batch in batches:
        state, _ = operator.step(state, batch)
    return measured(started, size, filter_mb=filter_mb)


def whole(folder: Path, step: Any) -> dict[str, Any]:
    """A run over the whole corpus: reading, the step, writing."""
    from pipelines.engine.run import run
    from pipelines.execution.progress import quiet
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline

    warm = folder / "warm"
    if not warm.exists():
        warm.mkdir()
        (warm / "0.jsonl").write_bytes(b'{"text": "some words to compile with"}\n' * 3)
    out = folder / "out"
    pipeline = Pipeline.from_steps([step])
    with quiet():
        for pool in (warm, folder / "in"):
            shutil.rmtree(out, ignore_errors=True)
            source = open_pool(str(pool))
            started = time.process_time()
            result = run(pipeline, source, out=str(out))
    size = json.loads((folder / "pairs.json").read_text())["bytes"]
    return measured(started, size, rows_out=result.record.counts["rows_out"])


def minhash(folder: Path) -> dict[str, Any]:
    figures = whole(folder, {"minhash_dedup": {"preset": "14x8", "verify": None}})
    return figures | quality(folder)


def checked(folder: Path) -> dict[str, Any]:
    """Pages of templates, with links checked and without: CPU seconds, what went, what falsely."""
    made = templates.pages(24_000)
    shutil.rmtree(folder, ignore_errors=True)
    templates.write(folder / "in", made.texts, shards=1)
    size = sum(len(text.encode()) for text in made.texts)
    (folder / "pairs.json").write_text(json.dumps({"bytes": size, "pairs": []}))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    pairs_dropped: dict[bool, list[tuple[int, int]]] = {}
    for _ in range(3):
        for check in (False, True):
            step = {"minhash_dedup": {} if check else {"verify": None}}
            seconds[check].append(whole(folder, step)["seconds"])
            pairs_dropped[check] = dropped(folder)
    copies = [(n, page) for n, page in enumerate(made.copy_of) if n != page]
    figures: dict[str, Any] = {"megabytes": round(size / 1e6, 1)}
    for check, name in ((True, "checked"), (False, "unchecked")):
        false = [
            templates.similarity(made.texts[a], made.texts[b]) < 0.8
            for a, b in pairs_dropped[check]
        ]
        rows = {row for row, _ in pairs_dropped[check]}
        recall = sum(bool(rows & set(pair)) for pair in copies) / len(copies)
        figures[name] = {
            "seconds": statistics.median(seconds[check]),
            "dropped": len(false),
            "falsely": sum(false),
            "recall": round(recall, 4),
        }
    return figures


def dropped(folder: Path) -> list[tuple[int, int]]:
    """Rows that went and those that stay for them, of a pool of one shard."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path) for path in (folder / "out" / "duplicates").glob("*.parquet")]
    pairs = [zip(t["row"].to_pylist(), t["kept_row"].to_pylist(), strict=True) for t in tables]
    return [pair for some in pairs for pair in some]


def quality(folder: Path) -> dict[str, Any]:
    """Recall by band of similarity, and the share of dropped rows that are truly similar."""
    import pyarrow.parquet as pq

    rows = number_rows(folder)
    kept = {}
    for path in (folder / "out" / "duplicates").glob("*.parquet"):
        table = pq.read_table(path)
        pairs = zip(table["row"].to_pylist(), table["kept_row"].to_pylist(), strict=True)
        kept.update({rows[row]: rows[other] for row, other in pairs})
    planted = json.loads((folder / "pairs.json").read_text())["pairs"]
    similar = {int(first) + 1: value for first, value in planted}
    recall = {}
    for low, high in BANDS:
        band = [int(first) for first, value in planted if low <= value <= high]
        is_found = [kept.get(first + 1) == first for first in band]
        recall[f"{low}-{high}"] = [sum(is_found), len(band)]
    true = [similar.get(row, 0.0) >= 0.5 and other == row - 1 for row, other in kept.items()]
    return {"recall": recall, "dropped": len(kept), "precision": round(float(np.mean(true)), 4)}


def number_rows(folder: Path) -> dict[int, int]:
    """A document's place in the corpus by its row."""
    number_of: dict[int, int] = {}
    for shard, path in enumerate(sorted((folder / "in").iterdir())):
        data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
        for line in range(data.count(b"\n")):
            number_of[shard << 32 | line] = len(number_of)
    return number_of


def exact(folder: Path, keys: int = 10_000_000) -> dict[str, Any]:
    """Keys with a tenth of duplicates: grouped by us (write, read, verdict) and by pyarrow."""
    import pyarrow as pa

    from pipelines.execution.executors import map_here
    from pipelines.global_steps.group_keys import KeyWriter, find_duplicates
    from pipelines.operators import Keys
    from pipelines.storage.open import open_store

    rng = np.random.default_rng(0)
    number = rng.integers(0, keys * 5, keys).astype(np.uint64)
    key = np.stack([number * np.uint64(0x9E3779B97F4A7C15), number], axis=1)
    table = pa.table({"high": key[:, 0], "low": key[:, 1], "row": np.arange(keys)})
    started = time.process_time()
    peer = table.group_by(["high", "low"], use_threads=False).aggregate([("row", "min")])
    arrow = time.process_time() - started
    groups = peer.num_rows
    del peer, table

    def ours(key: Any) -> int:
        shutil.rmtree(folder / "keys", ignore_errors=True)
        store = open_store(str(folder / "keys"))
        writer = KeyWriter(store, "work/keys.parts", 8)
        step = 1 << 20
        for begin in range(0, len(key), step):
            part = key[begin : begin + step]
            places = np.arange(len(part))
            zeros = np.zeros(len(part))
            given = Keys(places, zeros.astype(np.int64), part, zeros.astype(np.uint8))
            writer.add(given, np.arange(begin, begin + len(part)))
        file = writer.close().name
        _, verdict = find_duplicates(
            store,
            step=0,
            state="x",
            files=[file],
            rank="uint8",
            num_partitions=8,
            shards=1,
            map_tasks=map_here,
        )
        return verdict.dropped

    ours(key[:1000])  # compiles
    started = time.process_time()
    dropped = ours(key)
    seconds = time.process_time() - started
    assert dropped == keys - groups
    shutil.rmtree(folder / "keys")
    return {
        "seconds": round(seconds, 2),
        "pyarrow_seconds": round(arrow, 2),
        "times": round(seconds / arrow, 2),
    }


INSIDE = {
    "signatures": signatures,
    "signatures_uax29": lambda folder: signatures(folder, "uax29"),
    "bloom": bloom,
    "bloom_uax29": lambda folder: bloom(folder, "uax29"),
    "minhash": minhash,
    "checked": checked,
    "substring": lambda folder: whole(folder, {"substring_dedup": {"length": 50}}),
    "exact": exact,
    "exact_run": lambda folder: whole(folder, "exact_dedup"),
    "bloom_run": lambda folder: whole(
        folder, {"ngram_bloom_dedup": {"expected_ngrams": 103_000_000}}
    ),
}


# ---- peers


def peers(folder: Path) -> dict[str, Any]:
    """What other libraries take for the first megabytes of the corpus."""
    python = peer_python()
    results = {}
    for name, most in PEER_MEGABYTES.items():
        file = WORK / f"peer-{name}.jsonl.zst"
        texts, _ = texts_of(folder, most * 1e6)
        lines = [orjson.dumps({"text": text}) for text in texts.to_pylist()]
        lines = lines[: len(lines) // 2 * 2]
        file.write_bytes(zstandard.ZstdCompressor().compress(b"\n".join(lines) + b"\n"))
        command = [str(python), str(Path(__file__).with_name("peers_dedup.py")), name, str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
    planted = json.loads((folder / "pairs.json").read_text())["pairs"]
    pairs = results["rensa"].pop("found")
    recall = {}
    for low, high in BANDS:
        band = [
            int(p) for p, v in planted if low <= v <= high and p % 2 == 0 and p // 2 < len(pairs)
        ]
        recall[f"{low}-{high}"] = [sum(pairs[p // 2] for p in band), len(band)]
    results["rensa"]["recall"] = recall
    return results


def peer_python() -> Path:
    venv = BUILD / "venv-dedup"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PEERS], check=True)
        subprocess.run([*install, "--no-deps", "dolma==1.2.1"], check=True)
    return python


# ---- growth


def plot(growth: list[dict[str, Any]], path: Path) -> None:
    """CPU-seconds and peak memory against megabytes of text, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "minhash": "minhash_dedup",
        "substring": "substring_dedup",
        "exact_run": "exact_dedup",
        "bloom_run": "ngram_bloom_dedup",
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
    for work, label in names.items():
        here = [measurement for measurement in growth if measurement["work"] == work]
        sizes = [item["megabytes"] for item in here]
        for axis, key in zip(axes, ("seconds", "peak_mb"), strict=True):
            axis.plot(sizes, [item[key] for item in here], marker="o", label=label)
    for axis, title in zip(axes, ("CPU-seconds", "peak memory, MB"), strict=True):
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("MB of text")
        axis.set_title(title, fontsize=10)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].legend(fontsize=8)
    axes[0].set_yscale("log")
    axes[0].set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes[1].set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
