"""Does curation win? Three datasets, three seeds, one table: the claim of a tiny scale.

Trains every baseline of the tiny scale of a benchmark with the first three allowed seeds, compares
the curated set with raw and with random_same_size by paired intervals, and writes the result into
docs/tiny-pool.md. Exits with 1 when the claim does not hold. For text, `--labels` names labelled
documents that the quality classifier is tested on.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leaderboard.board.ranking import Row, board, difference
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.workspace import Round, open_round
from leaderboard.submissions.submission import Entry
from pipelines.execution.choose import executor
from pipelines.records import now

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tiny-pool.md"
CURATED, OTHERS = "tiny_baseline", ("no_filter", "random_same_size")
SEEDS = 3
LABELS = "### The quality classifier and people's labels"


@dataclass(frozen=True)
class Claim:
    """What differs between the benchmarks."""

    heading: str
    metric: str
    unit: str
    items: str
    prepare: Callable[[Round], object]


def _train_quality(current: Round) -> object:
    from dclm.curation.quality import train_quality

    return train_quality(workspace=current.workspace, map_tasks=current.map_tasks)


def _train_scorer(current: Round) -> object:
    from datacomp.curation.tiny_clip import train_scorer

    return train_scorer(current)


CLAIMS = {
    "dclm": Claim(
        heading="## Does curation win?",
        metric="Bits per byte of held-out prose, lower is better.",
        unit="bits per byte",
        items="the held-out documents",
        prepare=_train_quality,
    ),
    "datacomp": Claim(
        heading="## Does curation of images win?",
        metric="Mean recall at 10 of held-out drawings and captions, both ways, higher is better.",
        unit="recall",
        items="the held-out images and captions",
        prepare=_train_scorer,
    ),
}


def play(benchmark: str, workspace: str, workers: int) -> dict[str, Entry]:
    """The three methods through the whole round."""
    map_tasks = executor(workers)
    current = open_round(benchmark, "tiny", workspace=workspace, map_tasks=map_tasks)
    CLAIMS[benchmark].prepare(current)
    seeds = list(current.recipe.seeds)[:SEEDS]
    arms = []
    for name in (*OTHERS, CURATED):
        curated = stages.curate(current, stages.find_pipeline(current, name))
        arms.append((curated, stages.pack(current, curated)))
    trained = training.train(current, arms, seeds=seeds, recipe=current.scale.recipe)
    stages.evaluate(current, trained)
    return {
        curated.method: stages.submit(current, curated, seeds=seeds, track="filtering")
        for curated, _ in arms
    }


def report(claim: Claim, entries: dict[str, Entry]) -> tuple[str, bool]:
    """The text for the page, and whether the claim holds."""
    rows: dict[str, Row] = {row.method: row for row in board(list(entries.values()))}
    lines = [
        claim.heading,
        "",
        f"Measured {now()[:10]} by `make soak`: {SEEDS} seeds, the same for every method. "
        f"{claim.metric}",
        "",
        f"| method | {rows[CURATED].dataset.unit} kept | {claim.unit} | standard error | seeds |",
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
        f"| {CURATED} against | better by ({claim.unit}) | paired 95% interval | |",
        "| --- | --- | --- | --- |",
    ]
    holds = True
    for name in OTHERS:
        gap = difference(entries[CURATED], entries[name])
        wins = gap.low > 0
        holds &= wins
        verdict = "off zero" if wins else "contains zero: no difference shown"
        lines.append(f"| {name} | {gap.value:.4f} | [{gap.low:.4f}, {gap.high:.4f}] | {verdict} |")
    lines += [
        "",
        f"The interval is paired over seeds and over {claim.items}; its width includes the "
        "variance of both, of the order of the data and of the draw of a sample, as far as the "
        "rule book has them.",
        "",
        "The claim holds: curated beats raw and beats a random part of the same size."
        if holds
        else "**The claim does not hold on this machine.**",
        "",
    ]
    return "\n".join(lines), holds


def labels_table(files: list[Path], workspace: str) -> str:
    """How well the quality classifier finds what people labelled good."""
    from dclm.curation.quality import model_file
    from pipelines.scoring.train import labelled_auc, read_labels

    model = model_file(workspace)
    auc = [labelled_auc(read_labels(path), model=model) for path in files]
    lines = [
        LABELS,
        "",
        "The quality classifier on documents that people labelled good or bad (area under the "
        "ROC curve), beside document length alone:",
        "",
        "| labels | documents | classifier | length alone |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {item.name} | {item.num_documents} | {item.classifier:.3f} | {item.length:.3f} |"
        for item in auc
    ]
    return "\n".join([*lines, ""])


def write(heading: str, text: str) -> None:
    """Put a section in the place of the one with its heading, or at the end.

    A section ends at the next heading of any level: what people wrote below one stays.
    """
    page = PAGE.read_text(encoding="utf-8")
    begin = page.find(f"\n{heading}\n")
    if begin < 0:
        PAGE.write_text(f"{page.rstrip()}\n\n{text}", encoding="utf-8")
        return
    end = re.search(r"\n##+ ", page[begin + 1 :])
    rest = "" if end is None else page[begin + 1 + end.start() :]
    PAGE.write_text(f"{page[: begin + 1]}{text.rstrip()}\n{rest}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", choices=sorted(CLAIMS), default="dclm")
    parser.add_argument("--workspace", default="build/soak")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--labels", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    started = time.monotonic()
    claim = CLAIMS[arguments.benchmark]
    entries = play(arguments.benchmark, arguments.workspace, arguments.workers)
    text, holds = report(claim, entries)
    write(claim.heading, text)
    if arguments.labels:
        labels = labels_table(arguments.labels, arguments.workspace)
        write(LABELS, labels)
        text += f"\n{labels}"
    sys.stdout.write(f"{text}\n{time.monotonic() - started:.0f} s; written to {PAGE.name}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
