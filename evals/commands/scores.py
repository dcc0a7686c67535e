"""Commands that measure models, and read, compare and aggregate what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evals.commands.options import ModelName, ModelOptions
from pipelines.console import Cluster, Json, out, show_json, table
from pipelines.option_groups import grouped

if TYPE_CHECKING:
    from evals.aggregate import Version
    from evals.items import Item
    from evals.reports import Run
    from evals.suite import Suite
    from evals.tasks import Task


app = typer.Typer()

SuiteName = Annotated[str, typer.Option("--suite", help="Suite by name, or a YAML file.")]
Data = Annotated[Path, typer.Option("--data", help="Folder with the tasks' data.")]
RunFolder = Annotated[str, typer.Argument(help="Folder of a finished evaluation.")]


@app.command("run")
@grouped
def run_command(
    *,
    model: ModelName,
    suite: SuiteName,
    data: Data,
    out_uri: Annotated[str, typer.Option("--out", help="Where the evaluation's folder goes.")],
    options: ModelOptions,
    format: Annotated[
        str,
        typer.Option(
            help="What to print: text, or the name of a benchmark whose own format to print."
        ),
    ] = "text",
    json: Json = False,
) -> None:
    """Measure a model; run it again to continue where it stopped.

    Questions are spread over all GPUs of this machine, or of the cluster; each worker loads the
    weights once.
    """
    from evals.reports import scores_text
    from evals.result_formats import result_format
    from evals.run import run

    printed = None if format == "text" else result_format(format)
    loaded, map_tasks = options.open(model)
    record = run(loaded, suite=suite, data=data, out=out_uri, map_tasks=map_tasks)
    if printed is not None:
        show_json(printed.from_record(record, model=model))
    elif json:
        show_json(record)
    else:
        out(scores_text(record))


@app.command("show")
def show_command(
    folder: RunFolder,
    task: Annotated[str | None, typer.Argument(help="A task; without it, the scores.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what was answered wrong.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many questions.", min=1)] = 5,
    data: Annotated[Path | None, typer.Option(help="Where the data is now.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json, to show the prompt with its shots.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Tasks over images: write confusion and worst mistakes as HTML."),
    ] = None,
    json: Json = False,
) -> None:
    """Read scores, or single questions with what the model said."""
    from evals.kinds import kind_of, read_data
    from evals.reports import describe, open_run, questions, scores_text
    from evals.tasks import OF_GENERATORS, ImageTask, load_task

    finished = open_run(folder)
    if page is not None:
        _write_page(finished, task, page, data=data, limit=limit)
        return
    if task is None:
        if json:
            show_json(finished.record)
        else:
            out(scores_text(finished.record))
        return
    definition = load_task(task)
    if isinstance(definition, OF_GENERATORS) and not json:
        log = finished.log(task)
        metrics = kind_of(definition).metrics(definition, log) or {}
        rows = [(name, f"{value:.4g}") for name, value in metrics.items() if value is not None]
        out(table([*rows, ("rows", str(len(log)))], header=("figure", "value")))
        out("the first rows, as the log has them: --json")
        return
    entries = [
        e for _, e in zip(range(limit), questions(finished, task, wrong=wrong), strict=False)
    ]
    if json or isinstance(definition, ImageTask):
        show_json(entries)
        return
    where = data or Path(finished.record.made_by.locations["data"])
    items = {item.row: item for item in read_data(definition, where).items}
    for entry in entries:
        item = items[entry["row"]]
        text = _prompt(entry, tokenizer) if tokenizer else _text(definition, item)
        out(describe(entry, definition, text, _options(item)))
        out("-" * 80)
    if not entries:
        out("no such questions")


def _write_page(
    finished: Run, task: str | None, page: Path, *, data: Path | None, limit: int
) -> None:
    from evals.images.report import image_page
    from evals.tasks import EvalError

    if task is None:
        raise EvalError("--page shows one task: name it after the folder")
    where = data or finished.record.made_by.locations["data"]
    page.parent.mkdir(parents=True, exist_ok=True)
    text = image_page(finished, task, data=str(where), limit=max(limit, 24))
    page.write_text(text, encoding="utf-8")
    out(str(page))


def _text(task: Task, item: Item) -> str:
    return item.context if not item.contexts else f"... {item.answer}"


def _options(item: Item) -> tuple[str, ...]:
    return item.options or item.contexts or (item.answer, *item.aliases)


def _prompt(entry: dict[str, Any], tokenizer: Path) -> str:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    contexts = entry.get("contexts") or []
    return "\n\n".join(reader.decode(ids, skip_special_tokens=False) for ids in contexts)


@app.command("compare")
def compare_command(
    first: RunFolder,
    second: Annotated[str, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Second minus first over the same questions, with intervals, and the answers that flipped."""
    from evals.reports import compare, open_run

    differences = compare(open_run(first), open_run(second))
    if json:
        show_json(differences)
        return
    rows = [
        (d.task, d.first, d.second, d.difference, d.low, d.high, len(d.lost), len(d.gained))
        for d in differences
    ]
    header = ("task", "first", "second", "difference", "low", "high", "lost", "gained")
    out(table(rows, header=header))
    out("\nlow and high: the middle 95% of 1,000 paired resamples of the questions")


@app.command("overlap")
def overlap_command(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A dataset of documents, a packed one of pairs, or a folder of shards."
        ),
    ],
    suite: Annotated[str, typer.Argument(help="Suite by name, or a YAML file.")],
    data: Data,
    run_folder: Annotated[
        str | None, typer.Option("--run", help="An evaluation, for the scores without the found.")
    ] = None,
    ngram: Annotated[int, typer.Option(help="Words that must match in a row.", min=4)] = 13,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes shards.")] = 1,
    cluster: Cluster = None,
    matches: Annotated[
        Path | None,
        typer.Option(
            help="Write which documents hold which items, with the passages (JSON lines)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Count which items of a suite occur in a dataset, and score a model without them."""
    from evals.overlap import overlap_with
    from evals.reports import open_run
    from evals.suite import load_suite
    from pipelines.execution.choose import executor
    from pipelines.execution.progress import say

    loaded = load_suite(suite)
    finished = open_run(run_folder) if run_folder else None
    if finished is not None:
        _same_suite(finished, loaded)
    overlap = overlap_with(
        dataset, suite, data, ngram=ngram, map_tasks=executor(workers, cluster=cluster)
    )
    overlaps = overlap.report(finished)
    if matches is not None:
        with matches.open("w", encoding="utf-8") as file:
            file.writelines(match.model_dump_json() + "\n" for match in overlap.matches)
        say(f"{len(overlap.matches):,} matches in {matches}")
    if json:
        show_json(overlaps)
        return
    rows = [
        (
            o.task,
            o.num_items,
            o.num_too_short,
            o.num_found,
            o.mean_overlap,
            o.score,
            o.score_without,
        )
        for o in overlaps
    ]
    out(
        table(
            rows,
            header=("task", "items", "too short", "found", "overlap", "score", "score without"),
        )
    )


def _same_suite(finished: Run, suite: Suite) -> None:
    from evals.tasks import EvalError

    work = finished.record.work
    if (work.suite, work.suite_version) != (suite.name, suite.version):
        raise EvalError(
            f"the run is of suite {work.suite} {work.suite_version}, not {suite.name} "
            f"{suite.version}"
        )


@app.command("aggregate")
def aggregate_command(
    file: Annotated[
        Path, typer.Argument(help="An evaluation file, as DCLM's repository has them.")
    ],
    version: Annotated[str, typer.Option(help="Random baselines: v1 or v2.")] = "v2",
    format: Annotated[
        str | None, typer.Option(help="The file's format; default: the one that can read it.")
    ] = None,
    json: Json = False,
) -> None:
    """Compute the means of an evaluation file again; of DCLM's, CORE and EXTENDED among them."""
    from evals.result_formats import figures_of
    from evals.tasks import EvalError

    if version not in ("v1", "v2"):
        raise EvalError(f"unknown version {version!r}; choose v1 or v2")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise EvalError(f"there is no file {file}") from None
    baselines: Version = "v1" if version == "v1" else "v2"
    named = figures_of(data, source=str(file), version=baselines, format=format)
    if json:
        show_json(named)
        return
    for name, value in named.items():
        values = value if isinstance(value, dict) else {name: value}
        for key, figure in values.items():
            out(f"{key:40} {figure:.6f}" if isinstance(figure, float) else f"{key:40} {figure}")
