"""DataComp's published results: Table 3 of the paper, and open_clip's table of models.

Gadre et al. 2023, "DataComp", Table 3 (baselines of the filtering track), as ImageNet and mean over
38 datasets; of these the averages and sizes were written down from memory of the paper, and
open_clip's own documentation has 0.030 where the table has 0.038 for `basic` at small scale.
Averages of open_clip's table are computed again and must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from datacomp.results import COLUMNS, aggregate_results, datacomp_tasks
from evals.tasks import ImageTask
from leaderboard.board.boards import Library
from leaderboard.published.literature import Ladder, Literature, Section, Source, imported
from leaderboard.published.rows import (
    POOL,
    accuracy,
    figure,
    published_row,
    read_table,
    task_value,
)
from leaderboard.submissions.results import Figure, Row
from pipelines.errors import DataError

SOURCE = "Gadre et al. 2023, Table 3"
SCALES = ("small", "medium", "large", "xlarge")


class DataCompLiterature(Literature):
    """The paper's baselines, and open_clip's models over 38 datasets."""

    sources: ClassVar[Sequence[Source]] = (
        Source(
            name="openclip",
            description="open_clip's table of 38 datasets (CSV); the average is computed again "
            "and must agree",
            official="https://raw.githubusercontent.com/mlfoundations/open_clip/main/docs/"
            "openclip_results.csv",
        ),
    )
    headline: ClassVar[str] = "average"

    def references(self) -> list[Row]:
        return _references()

    def read(self, source: str, uri: str) -> list[Row]:
        lines = read_table(uri)
        return [_openclip_row(line, f"{uri}, row {n}") for n, line in enumerate(lines, start=2)]

    def runs(self, library: Library) -> list[tuple[str, list[Row]]]:
        rows = [row for scale in SCALES for row in imported(library, "datacomp", scale)]
        rows += imported(library, "datacomp", "open", "models")
        return [("CLIP, all models of open_clip's table: other data, sizes and budgets", rows)]

    def ladder(self, path: Path, metrics: Sequence[str]) -> Ladder | None:
        return _ladder(path, metrics)

    def glossary(self) -> list[Section]:
        return [
            Section(
                title="Average",
                text="The plain mean over the 38 of 40 datasets that have a main metric.",
            )
        ]


# ---- printed figures

# method: (ImageNet, average of 38, size of the dataset in samples) by scale
REFERENCES: dict[str, dict[str, tuple[float, float, float]]] = {
    "no_filter": {
        "small": (0.025, 0.132, 12.8e6),
        "medium": (0.176, 0.258, 128e6),
        "large": (0.459, 0.437, 1.28e9),
        "xlarge": (0.723, 0.621, 12.8e9),
    },
    "basic": {
        "small": (0.038, 0.142, 3e6),
        "medium": (0.226, 0.285, 30e6),
        "large": (0.516, 0.458, 298e6),
    },
    "text": {
        "small": (0.046, 0.157, 3.2e6),
        "medium": (0.255, 0.307, 31e6),
        "large": (0.561, 0.466, 317e6),
    },
    "image": {
        "small": (0.043, 0.159, 3e6),
        "medium": (0.268, 0.312, 29e6),
        "large": (0.572, 0.476, 293e6),
    },
    "LAION-2B": {
        "small": (0.031, 0.133, 1.3e6),
        "medium": (0.230, 0.292, 13e6),
        "large": (0.553, 0.501, 130e6),
        "xlarge": (0.755, 0.636, 1.3e9),
    },
    "CLIP L/14 30%": {
        "small": (0.051, 0.173, 3.8e6),
        "medium": (0.273, 0.328, 38e6),
        "large": (0.578, 0.529, 384e6),
        "xlarge": (0.764, 0.650, 3.8e9),
    },
    "image ∩ CLIP L/14 30%": {
        "small": (0.039, 0.144, 1.4e6),
        "medium": (0.297, 0.328, 14e6),
        "large": (0.631, 0.537, 140e6),
        "xlarge": (0.792, 0.663, 1.4e9),
    },
}
SEEN = {
    "small": 12_800_000,
    "medium": 128_000_000,
    "large": 1_280_000_000,
    "xlarge": 12_800_000_000,
}


def _references() -> list[Row]:
    rows = []
    for method, scales in REFERENCES.items():
        for scale, (imagenet, average, size) in scales.items():
            rows.append(
                published_row(
                    kind="reference",
                    benchmark="datacomp",
                    scale=scale,
                    track="filtering",
                    pool="published",
                    suite="full",
                    suite_version="1",
                    method=method,
                    headline="average",
                    figures={"average": figure(average), "imagenet": figure(imagenet)},
                    unit="samples",
                    seen=SEEN[scale],
                    size=int(size),
                    params=None,
                    flops=None,
                    source=SOURCE,
                    from_memory=True,
                )
            )
    return rows


# ---- open_clip's table

AVERAGE = "Average perf. on 38 datasets"
ROUNDED = 1e-4  # the table has four digits after the point
PLAIN = ("acc1",)  # metrics that are a share of the questions
RUN = re.compile(
    r"(commonpool|datacomp)_(xl|l|m|s)(?:_(clip|laion|image|text|basic))?_s(\d+)(b|m)_"
)
DATACOMP_SCALES = {
    "s": ("small", "ViT-B-32"),
    "m": ("medium", "ViT-B-32"),
    "l": ("large", "ViT-B-16"),
    "xl": ("xlarge", "ViT-L-14"),
}
FILTERS = {
    "clip": "CLIP L/14 30%",
    "laion": "LAION-2B",
    "image": "image",
    "text": "text",
    "basic": "basic",
}
RENAMED = {"ImageNet 1k": "imagenet1k"}


def _openclip_row(line: Mapping[str, str], where: str) -> Row:
    model, pretrained = line.get("name") or "", line.get("pretrained") or ""
    tasks = _openclip_columns(line, where)
    main = {}
    for column, task in tasks.items():
        main[task.key] = accuracy(line[column], f"{where}, {column}")
    averages = aggregate_results(main)
    said = accuracy(line[AVERAGE], f"{where}, {AVERAGE}")
    if abs(averages["Average"] - said) > ROUNDED:
        raise DataError(
            f"{where}: {model} {pretrained} says an average of {said}, its 38 datasets average "
            f"{averages['Average']:.4f}"
        )
    figures = {
        COLUMNS[name]: Figure(values=(value,), item_error=None, higher_is_better=True)
        for name, value in averages.items()
    }
    run = RUN.match(pretrained)
    scale, track, method = "open", "models", f"{model} {pretrained}".strip()
    seen = _samples(pretrained)
    if run is not None and DATACOMP_SCALES[run[2]][1] == model:
        scale, track = DATACOMP_SCALES[run[2]][0], "filtering"
        method = _filter(run[1], run[3])
    forward = float(line["FLOPs (B)"]) * 1e9 if line.get("FLOPs (B)") else None
    return published_row(
        kind="imported",
        benchmark="datacomp",
        scale=scale,
        track=track,
        pool=POOL,
        suite="full",
        suite_version="1",
        method=method,
        headline="average",
        figures={"average": figures["average"], **figures},
        unit="samples",
        seen=seen,
        size=None,
        params=int(float(line["params (M)"]) * 1e6) if line.get("params (M)") else None,
        flops=3 * forward * seen if forward and seen else None,
        source=f"open_clip's results table, {model} {pretrained}",
        tasks=tuple(
            task_value(task, main[task.key], error=task.metric in PLAIN) for task in tasks.values()
        ),
        identity=f"{model} {pretrained}",
    )


def _ladder(path: Path, metrics: Sequence[str]) -> Ladder | None:
    """The runs of the paper's own recipes in open_clip's table, by scale; None: another table.

    A metric is an aggregate or a dataset by its key; `*` means all. DataError for another.
    """
    lines = read_table(str(path))
    if not lines or AVERAGE not in lines[0]:
        return None
    values: dict[str, dict[str, dict[str, float]]] = {}
    for number, line in enumerate(lines, start=2):
        row = _openclip_row(line, f"{path}, row {number}")
        if row.scale not in SCALES:
            continue
        scores = {name: figure_.value for name, figure_ in row.figures.items()}
        scores |= {task.task: task.value for task in row.tasks}
        unknown = [name for name in metrics if name != "*" and name not in scores]
        if unknown:
            raise DataError(f"{path} has no {unknown[0]!r}; it has {', '.join(sorted(scores))}")
        kept = scores if "*" in metrics else {n: scores[n] for n in {"average", *metrics}}
        for name, value in kept.items():
            values.setdefault(row.scale, {}).setdefault(name, {})[row.method] = value
    return Ladder(
        scales=tuple(scale for scale in SCALES if scale in values),
        costs={scale: float(SEEN[scale]) for scale in SCALES},
        values=values,
        headline="average",
    )


def _openclip_columns(line: Mapping[str, str], where: str) -> dict[str, ImageTask]:
    """The task of every column of scores; DataError for a column that is not one."""
    by_title = {_plain(task.title): task for task in datacomp_tasks().values() if task.ranks}
    tasks_of = {}
    for column in line:
        if column in ("name", "pretrained", "params (M)", "FLOPs (B)", AVERAGE) or not column:
            continue
        task = by_title.get(_plain(column))
        if task is None:
            raise DataError(f"{where}: column {column!r} is not a dataset of DataComp's 38")
        tasks_of[column] = task
    return tasks_of


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]", "", title.casefold())


def _filter(pool: str, name: str | None) -> str:
    if pool == "datacomp":
        return "image ∩ CLIP L/14 30%"
    return FILTERS[name] if name else "no_filter"


def _samples(pretrained: str) -> int | None:
    """Samples seen, from a name like `laion2b_s34b_b79k`."""
    match = re.search(r"_s([\d.]+)(b|m)_b\d+k", pretrained)
    if match is None:
        return None
    return int(float(match[1]) * (1e9 if match[2] == "b" else 1e6))
