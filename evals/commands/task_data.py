"""Commands about tasks: list them, and get, check, pin or make up their data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.console import Json, out, show_json, table
from pipelines.errors import BAD_DATA, DataError

if TYPE_CHECKING:
    from evals.tasks import Task


app = typer.Typer()

Data = Annotated[Path, typer.Option("--data", help="Folder with the tasks' data.")]


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
    from evals.data_check import check_data
    from evals.tasks import EvalError

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
    from evals.kinds import has_data
    from evals.suite import load_suite
    from evals.tasks import EvalError, load_task, task_names

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
    from evals.pinning import make_pin, write_pins
    from evals.tasks import load_task

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
    from evals.suite import load_suite, suite_files

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
    from evals.catalogue import tasks_markdown
    from evals.tasks import load_task, shots_of, task_names

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
    import pyarrow.parquet as pq

    from evals.decontamination import items_table
    from evals.suite import load_suite
    from evals.tasks import is_secret
    from pipelines.execution.progress import say

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


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="HellaSwag as .txt.bz2 or MMLU as .tar.xz.")],
    folder: Annotated[Path, typer.Option("--out", help="The data folder.")],
    json: Json = False,
) -> None:
    """Bring HellaSwag or MMLU into the layout of a data folder; the result is unverified."""
    from evals.text.convert import convert

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
    without a home there are listed with what to do by hand; one that cannot be fetched stops no
    other, and run again only what is missing is fetched.
    """
    from evals.fetch import fetch, fetch_tasks
    from evals.suite import load_suite
    from evals.tasks import load_task, task_names

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
        raise typer.Exit(BAD_DATA if fetched.failed else 0)
    for path in fetched.written:
        out(f"wrote {path}; scores on it are marked unverified")
    out(f"{len(fetched.there)} tasks were there; {len(fetched.by_hand)} need a hand:")
    for task, source in fetched.by_hand.items():
        out(f"  {task}: {source}")
    if fetched.failed:
        causes = "\n".join(f"  {task}: {cause}" for task, cause in fetched.failed.items())
        raise DataError(f"{len(fetched.failed)} tasks could not be fetched:\n{causes}")


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
    from evals.images.synthetic import write_synthetic_images
    from evals.suite import load_suite
    from evals.tasks import ImageTask
    from evals.text.synthetic import write_synthetic

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
    from evals.tasks import EvalError, ImageTask, load_task

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
