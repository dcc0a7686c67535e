"""Does curation win? Three datasets, three seeds, one table: the claim of the tiny scale.

Trains every baseline of the tiny scale with the first three allowed seeds, compares the curated
set with raw and with random_same_size by paired intervals, tests the quality classifier on labelled
documents when `--labels` names some, and writes the result into docs/tiny-pool.md. Exits with 1
when the claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from dclm.quality import LabelledAuc, labelled_auc, train_quality
from leaderboard import round as stages
from leaderboard.ranking import Row, board, difference
from leaderboard.submission import Entry
from pipelines.executors import executor
from pipelines.records import now

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tiny-pool.md"
HEADING = "## Does curation win?"
CURATED, OTHERS = "tiny_baseline", ("no_filter", "random_same_size")
SEEDS = 3


def play(workspace: str, workers: int) -> dict[str, Entry]:
    """The three methods through the whole round."""
    map_tasks = executor(workers)
    train_quality(workspace=workspace, map_tasks=map_tasks)
    current = stages.open_round("dclm", "tiny", workspace=workspace, map_tasks=map_tasks)
    seeds = list(current.recipe.seeds)[:SEEDS]
    arms = []
    for name in (*OTHERS, CURATED):
        curated = stages.curate(current, stages.find_pipeline(current, name))
        arms.append((curated, stages.pack(current, curated)))
    trained = stages.train(current, arms, seeds=seeds, recipe=current.scale.recipe)
    stages.evaluate(current, trained)
    return {
        curated.method: stages.submit(current, curated, seeds=seeds, track="filtering")
        for curated, _ in arms
    }


def report(entries: dict[str, Entry], auc: list[LabelledAuc]) -> tuple[str, bool]:
    """The text for the page, and whether the claim holds."""
    rows: dict[str, Row] = {row.method: row for row in board(list(entries.values()))}
    lines = [
        HEADING,
        "",
        f"Measured {now()[:10]} by `make soak`: {SEEDS} seeds, the same for every method. Bits per "
        "byte of held-out prose, lower is better.",
        "",
        "| method | tokens kept | bits per byte | standard error | seeds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in (CURATED, *OTHERS):
        row = rows[name]
        seeds = ", ".join(f"{seed.value:.4f}" for seed in row.seeds)
        lines.append(
            f"| {name} | {row.dataset.size:,} | {row.headline.value:.4f} | "
            f"{row.headline.stderr:.4f} | {seeds} |"
        )
    lines += [
        "",
        f"| {CURATED} against | better by (bits per byte) | paired 95% interval | |",
        "| --- | --- | --- | --- |",
    ]
    holds = True
    for name in OTHERS:
        gap = difference(entries[CURATED], entries[name])
        wins = gap.low > 0
        holds &= wins
        verdict = "off zero" if wins else "holds zero: no difference shown"
        lines.append(f"| {name} | {gap.value:.4f} | [{gap.low:.4f}, {gap.high:.4f}] | {verdict} |")
    lines += [
        "",
        "The interval is paired over seeds and over the held-out documents; its width holds the "
        "variance of both.",
        "",
        "The claim holds: curated beats raw and beats a random part of the same size."
        if holds
        else "**The claim does not hold on this machine.**",
        "",
    ]
    if auc:
        lines += [
            "The quality classifier on documents that people labelled good or bad (area under the "
            "ROC curve), beside document length alone:",
            "",
            "| labels | documents | classifier | length alone |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {one.name} | {one.num_documents} | {one.classifier:.3f} | {one.length:.3f} |"
            for one in auc
        ]
        lines.append("")
    return "\n".join(lines), holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", default="build/soak")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--labels", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    started = time.monotonic()
    entries = play(arguments.workspace, arguments.workers)
    auc = [labelled_auc(path, workspace=arguments.workspace) for path in arguments.labels]
    text, holds = report(entries, auc)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page[: page.index(HEADING)] + text, encoding="utf-8")
    sys.stdout.write(f"{text}\n{time.monotonic() - started:.0f} s; written to {PAGE.name}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
