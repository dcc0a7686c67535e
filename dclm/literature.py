"""DCLM's published results: the README's table, the model database, the records of `exp_data`.

Aggregates are never copied: they are computed again from the figures of single tasks, in both
versions. Published figures have no questions behind them; the error of an accuracy is then the
binomial one of its number of questions.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from dclm import model_database
from dclm.results import aggregate, dclm_tasks, read_dclm
from evals.aggregate import Version, baseline
from evals.suite import Suite, load_suite
from evals.tasks import EvalError, Task
from leaderboard.board.boards import Library
from leaderboard.board.intervals import kendall, kendall_interval
from leaderboard.published.literature import Ladder, Literature, Section, Source, imported
from leaderboard.published.rows import (
    POOL,
    accuracy,
    binomial,
    figure,
    published_row,
    read_table,
    task_value,
)
from leaderboard.submissions.results import Figure, Row
from pipelines.console import table
from pipelines.errors import DataError

VERSIONS: tuple[Version, Version] = ("v1", "v2")
SOURCE = "the README of the DCLM repository"
DCLM_SCALES = {
    (412, 8.2): "400m-1x",
    (1440, 28.8): "1b-1x",
    (6889, 137.8): "7b-1x",
    (6889, 275.6): "7b-2x",
}
"""Parameters in millions and tokens in billions, as the rule book's recipes have them."""
SIZES = {412: "400m", 1440: "1b", 6889: "7b"}


class DclmLiterature(Literature):
    """The README's table of 7B models, and 416 published evaluations."""

    sources: ClassVar[Sequence[Source]] = (
        Source(
            name="dclm",
            description="DCLM's model database (CSV), or a folder of exp_data; CORE and EXTENDED "
            "are computed in both versions",
            official="https://raw.githubusercontent.com/mlfoundations/dclm/main/assets/"
            "DCLM_model_database.csv",
        ),
    )
    headline: ClassVar[str] = "core_v2"

    def references(self) -> list[Row]:
        return [_reference(model) for model in REFERENCES]

    def read(self, source: str, uri: str) -> list[Row]:
        if Path(uri).is_dir():
            return list(_exp_data(Path(uri)))
        lines = read_table(uri)
        return [_dclm_row(line, f"{uri}, row {n}") for n, line in enumerate(lines, start=2)]

    def runs(self, library: Library) -> list[tuple[str, list[Row]]]:
        rows = [row for row in imported(library, "dclm", "1b-1x") if _has_core(row)]
        title = "DCLM at 1b-1x: one size and budget, other data (and a few other settings)"
        return [(title, rows)]

    def ladder(self, path: Path, metrics: Sequence[str]) -> Ladder | None:
        return model_database.ladder(path, metrics)

    def findings(self, library: Library, table: Path | None) -> list[str]:
        return [_versions(library), *([] if table is None else [_published(table)])]

    def glossary(self) -> list[Section]:
        return _glossary()


def _has_core(row: Row) -> bool:
    return "core_v2" in row.figures and len(row.tasks) >= 40


# ---- printed figures


class Model(NamedTuple):
    """A line of DCLM's table; scores in percent, tokens in units of 10^12."""

    method: str
    params: float
    tokens: float | None
    core_v1: float
    core_v2: float
    mmlu: float
    extended_v1: float
    extended_v2: float | None


REFERENCES = (
    Model("Llama2", 7e9, 2, 49.2, 47.5, 45.8, 34.1, 32.5),
    Model("DeepSeek", 7e9, 2, 50.7, 49.1, 48.5, 35.3, 33.7),
    # Its EXTENDED v2 is printed as 57.0, which is the value of the line below it: left out.
    Model("Mistral-0.3", 7e9, None, 57.0, 55.7, 62.7, 45.1, None),
    Model("Qwen-2", 7e9, None, 57.5, 56.5, 71.9, 50.5, 49.6),
    Model("Llama3", 8e9, 15, 57.6, 56.5, 66.2, 46.3, 45.2),
    Model("Gemma", 8e9, 6, 57.8, 56.8, 64.3, 44.6, 43.5),
    Model("Phi-3", 7e9, None, 61.0, 59.9, 69.9, 57.9, 57.0),
    Model("Falcon", 7e9, 1, 44.1, 41.6, 27.4, 25.1, 22.8),
    Model("OLMo-1.7", 7e9, 2.1, 47.0, 45.8, 54.0, 34.2, 33.0),
    Model("MAP-Neo", 7e9, 4.5, 50.2, 49.0, 57.1, 40.4, 39.2),
    Model("FineWeb-Edu", 7e9, 0.14, 38.7, 36.1, 26.3, 22.1, 19.7),
    Model("FineWeb-Edu", 7e9, 0.28, 41.9, 39.6, 37.3, 24.5, 22.4),
    Model("DCLM-Baseline", 7e9, 0.14, 44.1, 42.0, 38.3, 25.0, 23.0),
    Model("DCLM-Baseline", 7e9, 0.28, 48.9, 47.3, 50.8, 31.8, 30.3),
    Model("DCLM-Baseline", 7e9, 2.6, 57.1, 56.0, 63.7, 45.4, 44.3),
)
REFERENCE_SCALES = {0.14: "7b-1x", 0.28: "7b-2x"}


def _reference(model: Model) -> Row:
    published = {
        "core_v2": model.core_v2,
        "core_v1": model.core_v1,
        "mmlu": model.mmlu,
        "extended_v2": model.extended_v2,
        "extended_v1": model.extended_v1,
    }
    figures = {name: figure(value / 100) for name, value in published.items() if value is not None}
    tokens = None if model.tokens is None else model.tokens * 1e12
    scale = REFERENCE_SCALES.get(model.tokens or 0, "7b-open")
    size = None if tokens is None or scale != "7b-open" else tokens
    return published_row(
        kind="reference",
        benchmark="dclm",
        scale=scale,
        track="filtering" if scale != "7b-open" else "models",
        pool="published",
        suite="extended",
        suite_version="2",
        method=model.method,
        headline="core_v2",
        figures=figures,
        unit="tokens",
        seen=None if tokens is None else int(tokens),
        size=None if size is None else int(size),
        params=int(model.params),
        flops=None if tokens is None else 6 * model.params * tokens,
        source=SOURCE,
    )


# ---- imports


def _dclm_row(line: Mapping[str, str], where: str) -> Row:
    for name in ("Dataset", "model", "params", "tokens"):
        if not line.get(name):
            raise DataError(f"{where}: column {name!r} is empty or missing")
    icl = {}
    for name in dclm_tasks():
        if text := line.get(name):
            icl[name] = accuracy(text, f"{where}, {name}")
    if not icl:
        raise DataError(f"{where}: none of DCLM's tasks has a score")
    return dclm_published(
        method=line["Dataset"],
        icl=icl,
        params=int(float(line["params"])),
        tokens=int(float(line["tokens"])),
        size=None,
        date=(line.get("creation_date") or "")[:10].replace("_", "-"),
        identity=line.get("Model JSON") or line["model"],
        source=f"DCLM's model database, model {line['model']}",
    )


def dclm_published(
    *,
    method: str,
    icl: Mapping[str, float],
    params: int | None,
    tokens: int | None,
    size: int | None,
    date: str,
    identity: str,
    source: str,
) -> Row:
    """A row from DCLM's accuracies: CORE and EXTENDED of both versions, where complete."""
    figures: dict[str, Figure] = {}
    for version in ("v2", "v1"):
        figures |= _dclm_figures(icl, version)
    if "mmlu_fewshot" in icl:
        figures["mmlu"] = _mean_figure([(icl["mmlu_fewshot"], "mmlu_fewshot")], None)
    scale, track = _dclm_place(params, tokens)
    tasks = dclm_tasks()
    headline = next(name for name in ("core_v2", "mean_centered_v2") if name in figures)
    return published_row(
        kind="imported",
        benchmark="dclm",
        scale=scale,
        track=track,
        pool=POOL,
        suite="extended",
        suite_version="2",
        method=method,
        headline=headline,
        figures=figures,
        unit="tokens",
        seen=tokens,
        size=size,
        params=params,
        flops=6.0 * params * tokens if params and tokens else None,
        source=source,
        tasks=tuple(task_value(tasks[name], value) for name, value in icl.items() if name in tasks),
        date=date,
        identity=identity,
    )


def _dclm_figures(icl: Mapping[str, float], version: Version) -> dict[str, Figure]:
    """CORE and EXTENDED where they are complete, else the mean over the tasks there are."""
    aggregates = aggregate(icl, version)
    tasks = dclm_tasks()
    aggregates_of: dict[str, tuple[float | None, list[Task]]] = {
        f"core_{version}": (aggregates.core, [t for t in tasks.values() if "core" in t.groups]),
        f"extended_{version}": (aggregates.extended, list(tasks.values())),
    }
    figures = {}
    for name, (value, members) in aggregates_of.items():
        if value is not None:
            error = _centered_error([(icl[t.name], t) for t in members], version)
            figures[name] = Figure(values=(value,), item_error=error, higher_is_better=True)
    if not figures:
        there = [(icl[name], tasks[name]) for name in icl if name in tasks]
        figures[f"mean_centered_{version}"] = Figure(
            values=(aggregates.centered_mean,),
            item_error=_centered_error(there, version),
            higher_is_better=True,
        )
    return figures


def _centered_error(scores: Sequence[tuple[float, Task]], version: Version) -> float:
    """The standard error of a mean of centered accuracies, questions of tasks independent."""
    parts = [
        value * (1 - value) / (task.rows or 1) / (1 - baseline(task, version)) ** 2
        for value, task in scores
    ]
    return math.sqrt(sum(parts)) / len(parts)


def _mean_figure(scores: Sequence[tuple[float, str]], error: float | None) -> Figure:
    values = [value for value, _ in scores]
    if error is None and len(scores) == 1:
        task = dclm_tasks()[scores[0][1]]
        error = binomial(values[0], task.rows)
    return Figure(values=(sum(values) / len(values),), item_error=error, higher_is_better=True)


def _dclm_place(params: int | None, tokens: int | None) -> tuple[str, str]:
    """The scale and track of a run; those that fit no scale are kept apart, as `models`."""
    if not params or not tokens:
        return "open", "models"
    millions, billions = round(params / 1e6), round(tokens / 1e9, 1)
    scale = DCLM_SCALES.get((millions, billions))
    if scale is not None:
        return scale, "filtering"
    return f"{SIZES[millions]}-open" if millions in SIZES else "open", "models"


def _exp_data(folder: Path) -> Iterator[Row]:
    """The reference's records: evals, with the models and datasets that they name by uuid."""
    evals = sorted((folder / "evals").glob("*.json"))
    if not evals:
        raise DataError(f"{folder} has no evals/*.json; name the folder exp_data")
    models = _by_uuid(folder / "models")
    datasets = _by_uuid(folder / "datasets")
    for path in evals:
        try:
            results = read_dclm(path.read_bytes(), source=str(path))
        except EvalError as error:
            raise DataError(str(error)) from None
        model = models.get(results.model_uuid or "", {})
        dataset = datasets.get(str(model.get("dataset_uuid", "")), {})
        given_settings = model.get("hyperparameters")
        settings: Mapping[str, object] = given_settings if isinstance(given_settings, dict) else {}
        date = orjson.loads(path.read_bytes()).get("creation_date") or ""
        name = str(dataset.get("name") or model.get("dataset_name") or results.model)
        linked = "model and dataset" if dataset else "model" if model else "nothing else"
        yield dclm_published(
            method=name,
            icl=results.icl,
            params=_whole(settings.get("params")),
            tokens=_whole(settings.get("tokens")),
            size=_whole(dataset.get("num_tokens")),
            date=date[:10].replace("_", "-"),
            identity=results.uuid,
            source=f"DCLM's exp_data, evaluation {results.uuid}, which names {linked}",
        )


def _by_uuid(folder: Path) -> dict[str, Mapping[str, object]]:
    by_uuid = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            value = orjson.loads(path.read_bytes())
            by_uuid[value["uuid"]] = value
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a record with a uuid: {error}") from None
    return by_uuid


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


# ---- findings


def _versions(library: Library) -> str:
    rows = []
    moved = []
    for scale in ("400m-1x", "1b-1x", "7b-1x", "7b-2x"):
        runs = [
            row
            for row in imported(library, "dclm", scale)
            if {"core_v1", "core_v2"} <= set(row.figures)
        ]
        if len(runs) < 3:
            continue
        first_scores = [row.figures["core_v1"].value for row in runs]
        two = [row.figures["core_v2"].value for row in runs]
        low, high = kendall_interval(first_scores, two)
        places = _places(first_scores), _places(two)
        apart = [abs(a - b) for a, b in zip(*places, strict=True)]
        pairs = list(combinations(range(len(runs)), 2))
        turned = sum((first_scores[i] - first_scores[j]) * (two[i] - two[j]) < 0 for i, j in pairs)
        rows.append(
            (
                scale,
                len(runs),
                f"{kendall(first_scores, two):.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{100 * turned / len(pairs):.1f}%",
                max(apart),
                f"{np.mean(np.array(first_scores) - np.array(two)):.4f}",
            )
        )
        best = [min(range(len(runs)), key=lambda i: order[i]) for order in places]
        if best[0] != best[1]:
            moved.append(
                f"At {scale} the best run changes: {runs[best[0]].method} under version 1, "
                f"{runs[best[1]].method} under version 2."
            )
    header = ("scale", "runs", "tau", "95% interval", "pairs turned", "largest move", "v1 - v2")
    return f"""## How far do CORE v1 and v2 reorder runs?

Both computed from the same answers. `pairs turned` is the part of all pairs of runs whose order is
another; `largest move` in places.

```
{table(rows, header=header)}
```

{" ".join(moved) or "The best run is the same in both versions at every scale."}
"""


def _places(values: Sequence[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda i: -values[i])
    places = [0] * len(values)
    for rank_, i in enumerate(order, start=1):
        places[i] = rank_
    return places


def published_core_baselines(
    published: Sequence[float], scores: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, float]:
    """The random baselines behind published values of CORE, by least squares.

    CORE is linear in the accuracies, with slope 1 / (1 - baseline) / n for each of n tasks.
    """
    names = list(scores)
    matrix = np.column_stack([*(scores[name] for name in names), np.ones(len(published))])
    slopes = np.linalg.lstsq(matrix, np.asarray(published), rcond=None)[0][:-1] * len(names)
    return {name: float(1 - 1 / slope) for name, slope in zip(names, slopes, strict=True)}


def _published(path: Path) -> str:
    """Which baselines the model database's own column `Core` was made with."""
    tasks = {name: task for name, task in dclm_tasks().items() if "core" in task.groups}
    agree, theirs, scores = 0, [], []
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            icl = {name: float(line[name]) for name in tasks if line.get(name)}
            if not line.get("Core") or len(icl) < len(tasks):
                continue
            core = aggregate(icl, "v1").core
            if core is not None and abs(core - float(line["Core"])) < 1e-6:
                agree += 1
            else:
                theirs.append(float(line["Core"]))
                scores.append([icl[name] for name in tasks])
    if len(theirs) <= 2 * len(tasks):
        return ""
    table_of = np.array(scores)
    solved = published_core_baselines(
        theirs, {name: table_of[:, column] for column, name in enumerate(tasks)}
    )
    other = []
    for name, value in solved.items():
        v1, v2 = (baseline(tasks[name], version) for version in VERSIONS)
        if abs(value - v1) > 1e-4:
            other.append((name, f"{value:.4f}", f"{v1:g}", f"{v2:g}"))
    unlike = len(theirs)
    total = agree + unlike
    return f"""## A third version of CORE in the published table

The model database has a column `Core` of its own. Of {total} values {agree} are CORE
v1; the other {unlike} are neither v1 nor v2. CORE is linear in the accuracies, so the baselines
behind them can be solved for: they differ from v1 in {len(other)} tasks.

```
{table(other, header=("task", "solved baseline", "version 1", "version 2"))}
```

Ranking by that column mixes two scores. The board computes both versions from the tasks instead.
"""


# ---- what the scores mean


def _glossary() -> list[Section]:
    core, extended = load_suite("dclm/core"), load_suite("dclm/extended")
    tasks = {task.name: task for task in [*core.load_tasks(), *extended.load_tasks()]}
    changed = [
        task for task in tasks.values() if task.random_baseline.v1 != task.random_baseline.v2
    ]
    return [
        Section(
            title="CORE",
            text=f"The mean centered accuracy over {_members(core, 'core')} tasks that tell "
            "models apart with little noise.",
        ),
        Section(
            title="EXTENDED",
            text=f"The mean centered accuracy over {_members(extended, 'extended')} tasks.",
        ),
        Section(
            title="Version 1 and version 2",
            text="In September 2025 DCLM corrected what guessing scores on the tasks below. "
            "The answers are the same; the aggregates are not, so a score always carries its "
            "version, and the board shows the same entries under either.",
            header=("task", "guessing, version 1", "guessing, version 2", "in CORE"),
            rows=tuple(
                (
                    task.name,
                    f"{task.random_baseline.v1:g}",
                    f"{task.random_baseline.v2:g}",
                    "yes" if "core" in task.groups else "no",
                )
                for task in changed
            ),
        ),
    ]


def _members(suite: Suite, group: str) -> int:
    return sum(group in task.groups for task in suite.load_tasks())
