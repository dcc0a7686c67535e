"""Time and memory of every stage at 1, 4 and 16 times the rows: is it linear?

    python benches/bench_growth.py [--smallest 8] [--only STAGE ...]

Each measurement is a fresh process with one worker: CPU-seconds of the stage without starting up,
and the most memory that the process held. The slope is that of log(seconds) over log(size): 1 is
linear, 2 quadratic; fixed costs push it below 1. Writes build/bench/growth.json, and the table and
plots of docs/performance/growth.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from bench_datacomp import tables, tars
from bench_dedup import corpus, peak_mb
from bench_extract import member
from rows import BUILD, Rows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance" / "growth.md"
WORK = BUILD / "growth"
TIMES = (1, 4, 16)
ROWS_OF_MB = 31_250  # rows of metadata for each megabyte of text: as long a measurement
MOST_SLOPE = 1.1  # more is not linear, and the page must say why
WHY = {
    "substring_dedup": "spans of a larger corpus repeat more often, and each repeat is compared",
}
"""Why a stage grows faster than its input."""

Stage = Callable[[int, Path], float]
"""Does the work on the input of so many megabytes; returns its CPU-seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--smallest", type=int, default=8, help="megabytes of text of the first size"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(STAGES), default=list(STAGES))
    parser.add_argument("--inside", nargs=2, metavar=("STAGE", "SIZE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        stage, size = given.inside
        out = WORK / f"out-{stage}"
        shutil.rmtree(out, ignore_errors=True)
        seconds = STAGES[stage](int(size), out)
        print(json.dumps({"seconds": round(seconds, 3), "peak_mb": peak_mb()}))
        shutil.rmtree(out, ignore_errors=True)
        return
    rows = Rows("growth")
    sizes = [given.smallest * times for times in TIMES]
    for stage in given.only:
        points = [inside(stage, size) for size in sizes]
        seconds = [point["seconds"] for point in points]
        slope = slope_of(sizes, seconds)
        rows.add(
            stage,
            round(slope, 3),
            "slope of CPU-seconds",
            floor=MOST_SLOPE,
            less=True,
            reason=WHY.get(stage, "") if slope > MOST_SLOPE else "",
            sizes=sizes,
            seconds=seconds,
            peak_mb=[point["peak_mb"] for point in points],
        )
    rows.save()
    write_page(rows.rows)


def inside(stage: str, size: int) -> dict[str, Any]:
    """One measurement, in a process of its own; the first compiles for all."""
    command = [sys.executable, __file__, "--inside", stage, str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{stage} at {size} MB failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def slope_of(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent of growth: least squares over logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# ---- stages


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def curated(steps: Sequence[Any]) -> Stage:
    """A pipeline over made-up text, from zstd JSON lines to parquet."""

    def stage(size: int, out: Path) -> float:
        from pipelines.engine.run import run
        from pipelines.execution.progress import quiet
        from pipelines.formats.pool import open_pool
        from pipelines.pipeline import Pipeline

        pipeline = Pipeline.from_steps(list(steps), assets=ROOT / "dclm" / "assets")
        with quiet():
            run(pipeline, open_pool(str(small_text())), out=str(out / "warm"))
            pool = open_pool(str(corpus(size) / "in"))
            return timed(lambda: run(pipeline, pool, out=str(out / "run")))

    return stage


def small_text() -> Path:
    """A pool of a few rows, to compile with."""
    folder = WORK / "small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.jsonl").write_bytes(b'{"text": "some words to compile with"}\n' * 3)
    return folder


def packed(size: int, out: Path) -> float:
    """Tokenize and shuffle a dataset with the tiny scale's tokenizer."""
    from dclm.packing.pack import pack
    from dclm.recipe import load_recipe
    from pipelines.engine.run import run
    from pipelines.execution.executors import map_here
    from pipelines.execution.progress import quiet
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline

    recipe = load_recipe("tiny")
    with quiet():
        pool = open_pool(str(corpus(size) / "in"))
        run(Pipeline.from_steps([{"word_count": {"min_words": 1}}]), pool, out=str(out / "dataset"))
        return timed(
            lambda: pack(
                str(out / "dataset"), recipe=recipe, out=str(out / "packed"), map_tasks=map_here
            )
        )


def extracted(size: int, out: Path) -> float:
    """Pages of made-up text in one WARC file to documents."""
    from dclm.pool.extract import ExtractTask, extract
    from pipelines.formats.warc import ExtractOptions

    out.mkdir(parents=True)
    with (out / "pages.warc.gz").open("wb") as file:
        for path in sorted((corpus(size) / "in").iterdir()):
            data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
            for line in filter(None, data.splitlines()):
                text = json.loads(line)["text"].replace("\n", "</p><p>")
                file.write(member(f"<html><body><p>{text}</p></body></html>".encode()))
    task = ExtractTask(
        source=str(out),
        name="pages.warc.gz",
        out=str(out / "documents"),
        shard=0,
        key="x",
        options=ExtractOptions(content_types=None),
        format="jsonl.zst",
    )
    return timed(lambda: extract(task))


def indexed(size: int, out: Path) -> float:
    """The index of `pipelines find`."""
    from pipelines.execution.executors import map_here
    from pipelines.execution.progress import quiet
    from pipelines.reports.find_text import build

    with quiet():
        build(str(small_text()), out=str(out / "warm"), map_tasks=map_here)
        return timed(
            lambda: build(str(corpus(size) / "in"), out=str(out / "index"), map_tasks=map_here)
        )


def pairs(steps: Sequence[Any]) -> Stage:
    """A pipeline over the metadata of image-text pairs, the sort of uids included."""

    def stage(size: int, out: Path) -> float:
        from datacomp.curation.curate import curate
        from pipelines.execution.executors import map_here
        from pipelines.execution.progress import quiet
        from pipelines.formats.pool import open_pool
        from pipelines.pipeline import Pipeline

        pipeline = Pipeline.from_steps(list(steps))
        pool = open_pool(str(tables(size * ROWS_OF_MB)))
        with quiet():
            return timed(lambda: curate(pipeline, pool, out=str(out), map_tasks=map_here))

    return stage


def resharded(size: int, out: Path) -> float:
    """A third of the samples of tars, eight megabytes of them for each of text."""
    from pipelines.execution.executors import map_here
    from pipelines.execution.progress import quiet
    from pipelines.images.reshard import pack
    from pipelines.kernels.uids import SUBSET

    folder, uids = tars(size * 8)
    chosen = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids[::3])
    out.mkdir(parents=True)
    np.save(out / "subset.npy", np.array(chosen, dtype=SUBSET))
    with quiet():
        return timed(
            lambda: pack(
                str(folder), str(out / "subset.npy"), out=str(out / "packed"), map_tasks=map_here
            )
        )


COUNT = {"token_count": {"tokenizer": "tiny-bpe.json"}}
SCORE = "clip_l14_similarity_score"
STAGES: dict[str, Stage] = {
    "extraction": extracted,
    "gopher_rules": curated(
        [
            {"gopher_repetition": {"words": "whitespace"}},
            "word_count",
            "mean_word_length",
            "stop_words",
        ]
    ),
    "select": curated([COUNT, {"select": {"by": "num_tokens", "fraction": 0.3}}]),
    "exact_dedup": curated(["exact_dedup"]),
    "minhash_dedup": curated(["minhash_dedup"]),
    "substring_dedup": curated(["substring_dedup"]),
    "ngram_bloom_dedup": curated(["ngram_bloom_dedup"]),
    "find_index": indexed,
    "packing": packed,
    "pairs_no_filter": pairs([]),
    "pairs_clip_score": pairs([{"select": {"by": SCORE, "fraction": 0.3, "missing": "drop"}}]),
    "resharder": resharded,
}


# ---- the page


def write_page(rows: Sequence[dict[str, Any]]) -> None:
    """The table, and a plot for each stage."""
    lines = [
        "# Growth",
        "",
        f"`benches/bench_growth.py`, {rows[0]['date']}, {rows[0]['machine']}, load "
        f"{min(r['load'] for r in rows)} to {max(r['load'] for r in rows)}: each stage on 1, 4 and "
        "16 times the input, a fresh process each. A slope of 1 is linear; fixed costs push it "
        "below. Sizes are megabytes of text, or thirty thousand pairs or eight megabytes of tars "
        "for each.",
        "",
        "| stage | MB | CPU-seconds | slope | peak memory, MB | |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for row in rows:
        cells = (
            row["work"],
            ", ".join(map(str, row["sizes"])),
            ", ".join(f"{value:.3g}" for value in row["seconds"]),
            f"**{row['ours']:.2f}**" if row["missed"] else f"{row['ours']:.2f}",
            ", ".join(f"{value:.0f}" for value in row["peak_mb"]),
            row["reason"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    folder = PAGE.parent / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        plot(row, folder / f"{row['work']}.svg")
        lines += ["", f"![CPU-seconds and memory of {row['work']}](growth/{row['work']}.svg)"]
    PAGE.write_text("\n".join(lines) + "\n")


def plot(row: dict[str, Any], path: Path) -> None:
    """CPU-seconds and peak memory over the size, both logarithmic, beside a linear line."""
    import matplotlib

    matplotlib.use("Agg")
    # Letters as text, not as shapes: a tenth of the bytes, and words that can be searched for.
    matplotlib.rcParams |= {"svg.hashsalt": "growth", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    sizes = row["sizes"]
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.4))
    for axis, key, title in zip(
        axes, ("seconds", "peak_mb"), ("CPU-seconds", "peak memory, MB"), strict=True
    ):
        axis.plot(sizes, row[key], marker="o", color="#0b5cad")
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_xlabel("MB", fontsize=8)
        axis.minorticks_off()
        axis.set_title(f"{row['work'].replace('_', ' ')}: {title}", fontsize=9)
        axis.grid(True, which="major", alpha=0.3)
    linear = [row["seconds"][0] * size / sizes[0] for size in sizes]
    axes[0].plot(sizes, linear, linestyle=":", color="#57606a", label="linear")
    axes[0].set_yscale("log")
    axes[0].set_yticks(linear, [f"{value:.2g}" for value in linear])
    axes[0].minorticks_off()
    axes[0].legend(fontsize=7)
    axes[1].set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
