"""The training stage of a round: every method with every seed, with one progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from leaderboard import rules
from leaderboard.benchmark import Progress, RecipeLike, load_stages
from leaderboard.rounds.checks_before import check_eval_data
from leaderboard.rounds.mirror import mirrored, working_folder
from leaderboard.rounds.workspace import Curated, Round, is_done
from pipelines.errors import RuleError, TrainingError
from pipelines.execution.process import process_of
from pipelines.execution.progress import Step as ProgressStep
from pipelines.execution.progress import say, short, step
from pipelines.records import JSON, Frozen
from pipelines.storage.chain import read_chain, write_chain
from pipelines.storage.open import open_store


class TrainTask(Frozen):
    """One training run."""

    benchmark: str
    recipe: str
    packed: str
    seed: int
    out: str
    num_threads: int = 1
    options: dict[str, JSON] = Field(default_factory=dict, description="the benchmark's own")


class Trained(Frozen):
    """A trained model in its place."""

    method: str
    home: str
    seed: int

    def model(self, current: Round) -> str:
        return f"{self.home}/model-{current.recipe_name}-{self.seed}"

    def scores(self, current: Round) -> str:
        suite = f"{current.scale.suite}-{current.scale.suite_version}"
        return f"{self.home}/scores-{current.recipe_name}-{self.seed}-{suite}"


def run_training(task: TrainTask, *, progress: Progress | None = None) -> str:
    """Train one model, or this process's part of it; returns its folder."""
    stages = load_stages(task.benchmark)
    with mirrored(task.out, rank=process_of()[0]) as folder:
        stages.train(
            task.packed,
            stages.recipe(task.recipe),
            seed=task.seed,
            out=folder,
            num_threads=task.num_threads,
            progress=progress,
            options=stages.train_options.model_validate(task.options),
        )
        if process_of()[0] == 0:
            write_chain(open_store(folder), read_chain(open_store(task.packed)))
    return task.out


def train_one(task: TrainTask, *, run: Callable[[TrainTask], str] = run_training) -> str:
    """Train one model with a bar, in this process or wherever `run` starts it."""
    if is_done(task.out):
        run_training(task)  # returns at once, or says that the folder holds other work
        say(f"{task.out}: trained before")
        return task.out
    with _training_bar(f"train seed {task.seed}", [task]):
        return run(task)


def train(
    current: Round,
    methods: Sequence[tuple[Curated, str]],
    *,
    seeds: Sequence[int],
    recipe: str,
    run: Callable[[TrainTask], str] | None = None,
    failures: dict[str, str] | None = None,
) -> list[Trained]:
    """Train every method with every seed. `methods` are (curated, packed folder).

    `run` trains one model at a time wherever it likes (`launch.trainer`); without it the models are
    trained side by side by the round's executor. With `failures` a training run that stops at its
    loss does not stop the others: its message is put there by method, and the method is left out.
    """
    check_seeds(current, seeds)
    check_eval_data(current.benchmark.name, current.scale.suite, current.eval_data, built=False)
    tasks, trained = [], []
    for seed in seeds:
        for curated, packed in methods:
            run_ = Trained(method=curated.method, home=curated.home, seed=seed)
            trained.append(run_)
            out = run_.model(current)
            if is_done(out):
                say(f"{curated.method}: seed {seed} trained before")
                continue
            tasks.append(
                TrainTask(
                    benchmark=current.benchmark.name,
                    recipe=recipe,
                    packed=packed,
                    seed=seed,
                    out=out,
                )
            )
    if tasks:
        names = ", ".join(dict.fromkeys(curated.method for curated, _ in methods))
        with _training_bar(f"train {names}", tasks):
            attempt = partial(_attempt, run=run or run_training) if failures is not None else None
            if run is None:
                errors = list(current.map_tasks(attempt or run_training, tasks))
            else:
                errors = [(attempt or run)(task) for task in tasks]
        if failures is None:
            return trained
        stopped = {task.out: text for task, text in zip(tasks, errors, strict=True) if text}
        failures |= {m.method: stopped[o] for m in trained if (o := m.model(current)) in stopped}
        return [run_ for run_ in trained if run_.method not in failures]
    return trained


def _attempt(task: TrainTask, *, run: Callable[[TrainTask], str]) -> str:
    """Train; the message of a training run that stopped at its loss, else nothing."""
    try:
        run(task)
    except TrainingError as error:
        return str(error)
    return ""


def check_seeds(current: Round, seeds: Sequence[int]) -> None:
    """RuleError for a seed that the recipe of a round does not allow."""
    check_seeds_of(current.recipe, seeds)


def check_seeds_of(recipe: RecipeLike, seeds: Sequence[int]) -> None:
    """RuleError for a seed that a recipe does not allow."""
    allowed = tuple(recipe.seeds)
    for seed in seeds:
        if seed not in allowed:
            raise RuleError(
                f"seed {seed} is not allowed at scale {recipe.scale}; allowed: "
                f"{', '.join(map(str, allowed))}"
            )


@contextmanager
def _training_bar(title: str, tasks: Sequence[TrainTask]) -> Iterator[None]:
    """A bar over the steps of all training runs, read from the metrics that they write."""
    stages = load_stages(tasks[0].benchmark)
    unit = rules.load_benchmark(tasks[0].benchmark).budget_unit
    recipe = stages.recipe(tasks[0].recipe)
    total = stages.num_steps(recipe) * len(tasks)
    folders = [Path(working_folder(task.out)) for task in tasks]
    stop = threading.Event()
    with step(title, total=total, unit="steps") as bar:
        watcher = threading.Thread(target=_watch, args=(bar, folders, unit, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
        rate = stages.budget(recipe) * len(tasks) / bar.seconds
        bar.at(total)
        bar.note(f"{len(tasks)} models, {short(rate)} {unit}/s")


def _watch(bar: ProgressStep, folders: Sequence[Path], unit: str, stop: threading.Event) -> None:
    """Follow the training runs until `stop`: steps done, losses and rates of those that run."""
    while not stop.wait(0.5):
        rows = [row for folder in folders if (row := _last_metrics(folder)) is not None]
        running = [row for row in rows if row.get("step", 0) > 0][-2:]
        losses = " ".join(f"{row['loss']:.3f}" for row in running)
        rate = sum(row.get(f"{unit}_per_second", 0.0) for row in running)
        scales = " ".join(f"{row['logit_scale']:.1f}" for row in running if "logit_scale" in row)
        extra = f"{short(rate)} {unit}/s loss {losses}" + (f" scale {scales}" if scales else "")
        bar.at(sum(row["step"] + 1 for row in rows), extra=extra)


def _last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line of a training run's metrics, or None before there is one."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):  # what follows the last newline is still being written
        if line.startswith(b"{") and line.endswith(b"}"):
            return orjson.loads(line)  # type: ignore[no-any-return]
    return None
