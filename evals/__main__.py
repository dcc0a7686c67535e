"""The `evals` command: measure models, and read, compare and check what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from evals.aggregate import Version
from evals.catalogue import tasks_markdown
from evals.data_check import check_data
from evals.decontamination import items_table
from evals.fetch import fetch, fetch_tasks
from evals.images.synthetic import write_synthetic_images
from evals.items import Item
from evals.kinds import has_data, kind_of, read_data
from evals.options import ModelName, ModelOptions
from evals.overlap import overlap_with
from evals.perplexity_command import perplexity_command
from evals.pinning import make_pin, write_pins
from evals.reports import Run, compare, describe, open_run, questions, scores_text
from evals.result_formats import figures_of, result_format
from evals.run import run
from evals.suite import Suite, load_suite, suite_files
from evals.tasks import (
    OF_GENERATORS,
    EvalError,
    ImageTask,
    Task,
    is_secret,
    load_task,
    shots_of,
    task_names,
)
from evals.text.convert import convert
from evals.text.synthetic import write_synthetic
from pipelines.console import Json, out, program, show_json, table
from pipelines.errors import BAD_DATA
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.option_groups import grouped

app = typer.Typer(
    help="Measure models with suites of tasks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

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
    printed = None if format == "text" else result_format(format)
    loaded, map_tasks = options.open(model)
    record = run(loaded, suite=suite, data=data, out=out_uri, map_tasks=map_tasks)
    if printed is not None:
        show_json(printed.from_record(record, model=model))
    elif json:
        show_json(record)
    else:
        out(scores_text(record))


app.command("perplexity")(perplexity_command)


@app.command("show")
def show_command(
    folder: RunFolder,
    task: Annotated[str | None, typer.Argument(help="A task; without it, the scores.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what was answered wrong.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many questions.", min=1)] = 5,
    data: Annotated[Path | None, typer.Option(help="Where the data lies now.")] = None,
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


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="A folder with tasks' data.")],
    suite: Annotated[
        str | None,
        typer.Option(
            help="Suite by name, or a YAML file; default: every task whose data is there."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check a data folder before hours are spent: rows, checksums, duplicates, constant answers."""
    if not folder.is_dir():
        raise EvalError(f"there is no folder {folder}")
    tasks = _tasks_to_check(suite, folder)
    findings = [finding for task in tasks for finding in check_data(task, folder)]
    if json:
        show_json(findings)
    else:
        for finding in findings:
            message = finding.message.removeprefix(f"task {finding.task}: ")
            out(f"{finding.level:8} {finding.task}: {message}")
        broken = {finding.task for finding in findings if finding.level == "error"}
        of = f" of {suite}" if suite else " whose data is there"
        out(f"{len(tasks) - len(broken)} of {len(tasks)} tasks{of} can run")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(BAD_DATA)


def _tasks_to_check(suite: str | None, folder: Path) -> list[Task]:
    if suite is not None:
        return load_suite(suite).load_tasks()
    tasks = [task for name in task_names() if has_data(task := load_task(name), str(folder))]
    if not tasks:
        raise EvalError(f"{folder} has the data of no task; name a suite to see what it needs")
    return tasks


@app.command("pin")
def pin_command(
    tasks: Annotated[list[str], typer.Argument(help="Tasks by name.")],
    data: Data,
    write: Annotated[
        bool, typer.Option("--write", help="Add them to the pins of this checkout.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what identifies the data of tasks: the hash of the rows, their number, the answers."""
    made = [(name, make_pin(load_task(name), data)) for name in tasks]
    if write:
        write_pins(made)
    if json:
        show_json(dict(made))
        return
    for name, pin in made:
        out(f"{name}: {{identity: {pin.identity}, rows: {pin.rows}, truth: {pin.truth}}}")


@app.command("suites")
def suites(json: Json = False) -> None:
    """List the suites of all installed benchmarks."""
    loaded = {name: load_suite(path) for name, path in suite_files().items()}
    rows = [
        (name, suite.version, len(suite.tasks), suite.headline) for name, suite in loaded.items()
    ]
    if json:
        show_json({name: suite.model_dump(mode="json") for name, suite in loaded.items()})
    else:
        out(table(rows, header=("suite", "version", "tasks", "headline")))


@app.command("tasks")
def tasks_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/tasks.md.")] = False,
    json: Json = False,
) -> None:
    """List all tasks."""
    tasks = [load_task(name) for name in task_names()]
    if json:
        show_json(tasks)
    elif markdown:
        out(tasks_markdown().rstrip())
    else:
        rows = [
            (t.name, t.kind, shots_of(t), t.rows, t.random_baseline.v2, t.category) for t in tasks
        ]
        out(table(rows, header=("task", "kind", "shots", "rows", "baseline", "category")))


@app.command("items")
def items_command(
    suite: Annotated[str, typer.Argument(help="Suite by name, or a YAML file.")],
    data: Data,
    file: Annotated[Path, typer.Option("--out", help="The parquet file to write.")],
    json: Json = False,
) -> None:
    """Write a suite's questions as a table of texts, for a decontamination step."""
    loaded = load_suite(suite)
    items = items_table(loaded, data)
    pq.write_table(items, file, compression="zstd")
    left_out = [task.name for task in loaded.load_tasks() if is_secret(task)]
    if json:
        show_json({"file": str(file), "num_items": items.num_rows, "left_out": left_out})
        return
    out(f"{items.num_rows:,} items in {file}")
    if left_out:
        say(f"left out, because their texts must not be written: {', '.join(left_out)}")


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
    cluster: Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")] = None,
    matches: Annotated[
        Path | None,
        typer.Option(
            help="Write which documents hold which items, with the passages (JSON lines)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Count which items of a suite occur in a dataset, and score a model without them."""
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


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="HellaSwag as .txt.bz2 or MMLU as .tar.xz.")],
    folder: Annotated[Path, typer.Option("--out", help="The data folder.")],
    json: Json = False,
) -> None:
    """Bring HellaSwag or MMLU into the layout of a data folder; the result is unverified."""
    path = convert(source, folder)
    if json:
        show_json({"file": str(path)})
    else:
        out(f"wrote {path}; scores on it are marked unverified")


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="A task, or a suite: all of its tasks.")],
    folder: Annotated[Path, typer.Option("--out", help="The data folder.")],
    revision: Annotated[
        str | None, typer.Option(help="Of one task: revision of the hub's dataset.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetch the data of tasks from the Hugging Face hub, where they have a home.

    The texts are the hub's, not the reference's bytes: scores on them are unverified. Tasks
    without a home there are listed with what to do by hand.
    """
    if name in task_names():
        path = fetch(load_task(name), folder, revision=revision)
        if json:
            show_json({"file": str(path)})
        else:
            out(f"wrote {path}; scores on it are marked unverified")
        return
    fetched = fetch_tasks(load_suite(name).load_tasks(), folder)
    if json:
        show_json(fetched._asdict())
        return
    for path in fetched.written:
        out(f"wrote {path}; scores on it are marked unverified")
    out(f"{len(fetched.there)} tasks were there; {len(fetched.by_hand)} need a hand:")
    for task, source in fetched.by_hand.items():
        out(f"  {task}: {source}")


@app.command("synthetic")
def synthetic_command(
    suite: Annotated[str, typer.Argument(help="Suite by name, or a YAML file.")],
    folder: Annotated[Path, typer.Option("--out", help="The data folder.")],
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    images: Annotated[
        int,
        typer.Option(
            "--images", "--pictures", min=1, help="Images of a dataset, for tasks over images."
        ),
    ] = 64,
    json: Json = False,
) -> None:
    """Write made-up data of the right form for the tasks of a suite whose data is not there."""
    tasks = load_suite(suite).load_tasks()
    over = [task for task in tasks if isinstance(task, ImageTask)]
    written = write_synthetic([task for task in tasks if task not in over], folder, seed=seed)
    written += write_synthetic_images(over, folder, seed=seed, images=images)
    if json:
        show_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            out(f"wrote {path}: made up, only for trying things out")


@app.command("names")
def names_command(
    folder: Annotated[Path, typer.Argument(help="A folder with datasets of images.")],
    task: Annotated[list[str], typer.Option(help="The task; may be repeated.")],
    json: Json = False,
) -> None:
    """Write class names and templates that datasets lack, from installed packages."""
    from evals.images.class_names import write_names

    written = []
    for name in task:
        loaded = load_task(name)
        if not isinstance(loaded, ImageTask):
            raise EvalError(f"task {name} is over text; only image tasks have class names")
        written += write_names(loaded, folder)
    if json:
        show_json({"files": [str(path) for path in written]})
        return
    for path in written:
        out(f"wrote {path}")


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
