"""The field's published results as rows: DCLM's evaluations, open_clip's table.

Aggregates are never copied: they are computed again from the figures of single tasks, in every
version of the suite. Published figures have no questions behind them; the error of an accuracy is
then the binomial one of its number of questions; where the metric is no plain accuracy, unknown.
"""

from __future__ import annotations

import csv
import io
import math
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import orjson

from evals.aggregate import Version, aggregate, baseline, dclm_tasks
from evals.images.datacomp_json import COLUMNS, aggregate_results, datacomp_tasks
from evals.tasks import EvalError, Task
from evals.text.dclm_json import read_dclm
from leaderboard.published.references import published_row
from leaderboard.submissions.results import Figure, Row, TaskValue
from pipelines.errors import DataError

OFFICIAL = {
    "dclm": "https://raw.githubusercontent.com/mlfoundations/dclm/main/assets/"
    "DCLM_model_database.csv",
    "openclip": "https://raw.githubusercontent.com/mlfoundations/open_clip/main/docs/"
    "openclip_results.csv",
}
MAX_BYTES = 64 << 20
POOL = "published"
DCLM_SCALES = {
    (412, 8.2): "400m-1x",
    (1440, 28.8): "1b-1x",
    (6889, 137.8): "7b-1x",
    (6889, 275.6): "7b-2x",
}
"""Parameters in millions and tokens in billions, as the rule book's recipes have them."""
SIZES = {412: "400m", 1440: "1b", 6889: "7b"}


def read_history(what: Literal["dclm", "openclip"], source: str) -> list[Row]:
    """The rows of a file, a folder, an address, or of `official`.

    DataError names the line that cannot be read, or whose own average does not agree with the one
    that is computed again.
    """
    if source == "official":
        source = OFFICIAL[what]
    if what == "dclm" and Path(source).is_dir():
        return list(_exp_data(Path(source)))
    lines = _table(source)
    if what == "dclm":
        return [_dclm_row(line, f"{source}, row {n}") for n, line in enumerate(lines, start=2)]
    return [_openclip_row(line, f"{source}, row {n}") for n, line in enumerate(lines, start=2)]


def _table(source: str) -> list[dict[str, str]]:
    if source.startswith(("https://", "http://")):
        with urllib.request.urlopen(source, timeout=60) as answer:
            data = answer.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{source} is longer than {MAX_BYTES:,} bytes; get it by hand")
    elif Path(source).is_file():
        data = Path(source).read_bytes()
    else:
        raise FileNotFoundError(f"there is no {source}; name a file, an address, or `official`")
    try:
        lines = list(csv.DictReader(io.StringIO(data.decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} is no CSV file: {error}") from None
    if not lines:
        raise DataError(f"{source} has no rows")
    return lines


# ---- DCLM


def _dclm_row(line: Mapping[str, str], where: str) -> Row:
    for name in ("Dataset", "model", "params", "tokens"):
        if not line.get(name):
            raise DataError(f"{where}: column {name!r} is empty or missing")
    icl = {}
    for name in dclm_tasks():
        if text := line.get(name):
            icl[name] = _accuracy(text, f"{where}, {name}")
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


def _accuracy(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {text!r} is no number") from None
    if not 0 <= value <= 1:
        raise DataError(f"{where}: {value} is no accuracy")
    return value


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
        tasks=tuple(
            _task_value(tasks[name], value) for name, value in icl.items() if name in tasks
        ),
        date=date,
        identity=identity,
    )


def _dclm_figures(icl: Mapping[str, float], version: Version) -> dict[str, Figure]:
    """CORE and EXTENDED where they are complete, else the mean over the tasks there are."""
    found = aggregate(icl, version)
    tasks = dclm_tasks()
    told: dict[str, tuple[float | None, list[Task]]] = {
        f"core_{version}": (found.core, [t for t in tasks.values() if "core" in t.groups]),
        f"extended_{version}": (found.extended, list(tasks.values())),
    }
    figures = {}
    for name, (value, members) in told.items():
        if value is not None:
            error = _centered_error([(icl[t.name], t) for t in members], version)
            figures[name] = Figure(values=(value,), item_error=error, higher_is_better=True)
    if not figures:
        there = [(icl[name], tasks[name]) for name in icl if name in tasks]
        figures[f"mean_centered_{version}"] = Figure(
            values=(found.centered_mean,),
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
        error = _binomial(values[0], task.rows)
    return Figure(values=(sum(values) / len(values),), item_error=error, higher_is_better=True)


def _binomial(value: float, rows: int | None) -> float | None:
    return math.sqrt(value * (1 - value) / rows) if rows else None


def _task_value(task: Task, value: float, *, error: bool = True) -> TaskValue:
    return TaskValue(
        task=task.name,
        category=task.category,
        metric=task.metric,
        value=value,
        stderr=_binomial(value, task.rows) if error else None,
        num_items=task.rows,
        higher_is_better=task.higher_is_better,
        random_baseline=task.random_baseline.v2,
    )


def _dclm_place(params: int | None, tokens: int | None) -> tuple[str, str]:
    """The scale and track of a run; those that fit no scale stand apart, as `models`."""
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
            one = read_dclm(path.read_bytes(), source=str(path))
        except EvalError as error:
            raise DataError(str(error)) from None
        model = models.get(one.model_uuid or "", {})
        dataset = datasets.get(str(model.get("dataset_uuid", "")), {})
        told = model.get("hyperparameters")
        settings: Mapping[str, object] = told if isinstance(told, dict) else {}
        date = orjson.loads(path.read_bytes()).get("creation_date") or ""
        name = str(dataset.get("name") or model.get("dataset_name") or one.model)
        linked = "model and dataset" if dataset else "model" if model else "nothing else"
        yield dclm_published(
            method=name,
            icl=one.icl,
            params=_whole(settings.get("params")),
            tokens=_whole(settings.get("tokens")),
            size=_whole(dataset.get("num_tokens")),
            date=date[:10].replace("_", "-"),
            identity=one.uuid,
            source=f"DCLM's exp_data, evaluation {one.uuid}, which names {linked}",
        )


def _by_uuid(folder: Path) -> dict[str, Mapping[str, object]]:
    found = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            value = orjson.loads(path.read_bytes())
            found[value["uuid"]] = value
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no record with a uuid: {error}") from None
    return found


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


# ---- open_clip

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
        main[task.key] = _accuracy(line[column], f"{where}, {column}")
    found = aggregate_results(main)
    told = _accuracy(line[AVERAGE], f"{where}, {AVERAGE}")
    if abs(found["Average"] - told) > ROUNDED:
        raise DataError(
            f"{where}: {model} {pretrained} says an average of {told}, its 38 datasets average "
            f"{found['Average']:.4f}"
        )
    figures = {
        COLUMNS[name]: Figure(values=(value,), item_error=None, higher_is_better=True)
        for name, value in found.items()
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
            _task_value(task, main[task.key], error=task.metric in PLAIN) for task in tasks.values()
        ),
        identity=f"{model} {pretrained}",
    )


def _openclip_columns(line: Mapping[str, str], where: str) -> dict[str, Task]:
    """The task of every column of scores; DataError for a column that is none."""
    by_title = {_plain(task.title): task for task in datacomp_tasks().values() if task.ranks}
    found = {}
    for column in line:
        if column in ("name", "pretrained", "params (M)", "FLOPs (B)", AVERAGE) or not column:
            continue
        task = by_title.get(_plain(column))
        if task is None:
            raise DataError(f"{where}: column {column!r} is no dataset of DataComp's 38")
        found[column] = task
    return found


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
