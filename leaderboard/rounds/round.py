"""The road that a submission must have come: curate, pack, train, evaluate, submit.

Each stage takes a folder with a record and leaves a folder with a record; beside each record lies
`chain.json`, its ancestors. A stage whose record is already there is skipped and says so. Folders
are named by the keys of what is in them, so another pipeline, recipe or pool never mixes with what
was made before:

    <workspace>/pools/<benchmark>-<scale>/
    <workspace>/<benchmark>-<scale>/<method>-<dataset key>/dataset/
                                                         /packed-<recipe>/
                                                         /model-<recipe>-<seed>/
                                                         /scores-<recipe>-<seed>-<suite version>/
    <workspace>/submissions/<id>/
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from evals.run import run as run_suite
from evals.suite import load_suite
from leaderboard import rules
from leaderboard.rules import Benchmark, Scale
from leaderboard.submissions.submission import Entry
from leaderboard.submissions.submission import submit as submit_scores
from pipelines.engine.run import Result, dataset_work, run
from pipelines.errors import RuleError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import Step as ProgressStep
from pipelines.execution.progress import say, short, step
from pipelines.operators import PipelineError
from pipelines.pipeline import Pipeline
from pipelines.records import (
    DatasetRecord,
    Frozen,
    PackedRecord,
    digest,
)
from pipelines.reports import run_page
from pipelines.selection import HashSample
from pipelines.storage.base import open_store
from pipelines.storage.chain import RECORD, read_chain, write_chain


@dataclass(frozen=True)
class Round:
    """One scale of one benchmark, worked in one workspace."""

    benchmark: Benchmark
    scale: Scale
    workspace: str
    map_tasks: MapTasks
    recipe: Any  # the benchmark's own Recipe
    official: bool  # whether the recipe is the rule book's

    @property
    def package(self) -> Any:
        return rules.load_package(self.benchmark.name)

    @property
    def home(self) -> str:
        return f"{self.workspace}/{self.benchmark.name}-{self.scale.name}"

    @property
    def recipe_name(self) -> str:
        """`recipe`, or for an experimental one `recipe-<hash>`."""
        if self.official:
            return "recipe"
        return f"recipe-{digest(self.recipe.model_dump(mode='json'))[:8]}"


def open_round(
    benchmark: str, scale: str, *, workspace: str, map_tasks: MapTasks, recipe: str | None = None
) -> Round:
    """Read the rules and the recipe of a scale. RuleError for an unknown one."""
    book = rules.load_benchmark(benchmark)
    rung = book.scale(scale)
    package = rules.load_package(benchmark)
    chosen = package.recipe(recipe or rung.recipe)
    return Round(book, rung, workspace.rstrip("/"), map_tasks, chosen, recipe is None)


# ---- curate


class Curated(Frozen):
    """A curated dataset in its place."""

    method: str
    home: str
    record: DatasetRecord

    @property
    def dataset(self) -> str:
        return f"{self.home}/dataset"


def find_pipeline(current: Round, name: str) -> Pipeline:
    """A pipeline by file, or a baseline of the benchmark by name."""
    assets = current.package.assets(current.scale.name, workspace=current.workspace)
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return Pipeline.load(path, assets=assets)
    baselines = rules.folder(current.benchmark.name) / "baselines"
    if (baselines / f"{name}.yaml").is_file():
        return Pipeline.load(baselines / f"{name}.yaml", assets=assets)
    known = ", ".join(sorted(file.stem for file in baselines.glob("*.yaml")))
    raise PipelineError(f"there is no baseline {name!r}; give a .yaml file or one of: {known}")


def curate(current: Round, pipeline: Pipeline, *, quarantine: bool = False) -> Curated:
    """Run a pipeline over the scale's pool."""
    pool = current.package.open_pool(
        current.scale.name, workspace=current.workspace, map_tasks=current.map_tasks
    )
    pipeline = sized(current, pipeline)
    form = current.benchmark.dataset_format
    work = dataset_work(pipeline, quarantine=quarantine, format=form)
    key = DatasetRecord.key_of(work=work, parents={"pool": pool.record.id})
    home = f"{current.home}/{pipeline.name}-{key[:8]}"
    curate_pool = getattr(current.package, "curate", run)
    result: Result = curate_pool(
        pipeline,
        pool,
        out=f"{home}/dataset",
        map_tasks=current.map_tasks,
        quarantine=quarantine,
    )
    run_page.write(open_store(f"{home}/dataset"), result)
    _say_curated(pipeline.name, result)
    return Curated(method=pipeline.name, home=home, record=result.record)


def _say_curated(method: str, result: Result) -> None:
    counts = result.record.counts
    note = "already done: " if result.skipped else ""
    say(
        f"{method}: {note}kept {counts['rows_out']:,} of {counts['rows_in']:,} rows "
        f"(dataset {result.record.id[:8]})"
    )


def sized(current: Round, pipeline: Pipeline) -> Pipeline:
    """Give every hash_sample that waits for another pipeline's size that size."""
    for one in pipeline.steps:
        operator = one.operator
        if isinstance(operator, HashSample) and operator.pending():
            assert operator.same_size_as is not None
            other = curate(current, find_pipeline(current, operator.same_size_as))
            unit = "rows_out" if operator.of == "rows" else operator.of
            if unit not in other.record.counts:
                raise PipelineError(
                    f"{pipeline.name}: the dataset of {operator.same_size_as!r} does not count "
                    f"{unit!r}; it counts {', '.join(other.record.counts)}"
                )
            given = operator.model_copy(update={"total": other.record.counts[unit]})
            pipeline = pipeline.replace(one.number, given)
    return pipeline


# ---- pack


def pack(current: Round, curated: Curated) -> str:
    """Pack a dataset for the recipe; returns the folder."""
    return pack_folder(
        current, curated.dataset, f"{curated.home}/packed-{current.recipe_name}", curated.method
    )


def pack_folder(current: Round, dataset: str, out: str, method: str) -> str:
    """Pack the dataset in one folder into another."""
    if not _there(out):
        record: PackedRecord = current.package.pack(
            dataset, current.recipe, out=out, map_tasks=current.map_tasks
        )
        write_chain(open_store(out), read_chain(open_store(dataset)))
        size = record.counts.get(current.benchmark.size_count, 0)
        unit = current.benchmark.size_unit
        say(f"{method}: packed {size:,} {unit} (packed {record.id[:8]})")
    else:
        say(f"{method}: packed before")
    return out


# ---- train


class TrainTask(Frozen):
    """One training run."""

    benchmark: str
    recipe: str
    packed: str
    seed: int
    out: str
    num_threads: int = 1


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


def run_training(task: TrainTask, **options: Any) -> str:
    """Train one model (in a worker); returns its folder. `options` are the benchmark's own."""
    package = rules.load_package(task.benchmark)
    recipe = package.recipe(task.recipe)
    package.train(
        task.packed,
        recipe,
        seed=task.seed,
        out=task.out,
        num_threads=task.num_threads,
        **options,
    )
    write_chain(open_store(task.out), read_chain(open_store(task.packed)))
    return task.out


def train_one(task: TrainTask, *, run: Callable[[TrainTask], str] = run_training) -> str:
    """Train one model with a bar, in this process or wherever `run` starts it."""
    if _there(task.out):
        run_training(task)  # returns at once, or says that the folder holds other work
        say(f"{task.out}: trained before")
        return task.out
    with _training_bar(f"train seed {task.seed}", [task]):
        return run(task)


def train(
    current: Round, methods: Sequence[tuple[Curated, str]], *, seeds: Sequence[int], recipe: str
) -> list[Trained]:
    """Train every method with every seed, side by side. `methods` are (curated, packed folder)."""
    check_seeds(current, seeds)
    tasks, trained = [], []
    for seed in seeds:
        for curated, packed in methods:
            one = Trained(method=curated.method, home=curated.home, seed=seed)
            trained.append(one)
            out = one.model(current)
            if _there(out):
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
            current.map_tasks(run_training, tasks)
    return trained


def check_seeds(current: Round, seeds: Sequence[int]) -> None:
    """RuleError for a seed that the recipe of a round does not allow."""
    check_seeds_of(current.recipe, seeds)


def check_seeds_of(recipe: Any, seeds: Sequence[int]) -> None:
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
    """A bar over the steps of all trainings, read from the metrics that they write."""
    package = rules.load_package(tasks[0].benchmark)
    unit = rules.load_benchmark(tasks[0].benchmark).budget_unit
    recipe = package.recipe(tasks[0].recipe)
    total = package.num_steps(recipe) * len(tasks)
    folders = [Path(task.out) for task in tasks]
    stop = threading.Event()
    with step(title, total=total, unit="steps") as bar:
        watcher = threading.Thread(target=_watch, args=(bar, folders, unit, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
        rate = package.budget(recipe) * len(tasks) / bar.seconds
        bar.at(total)
        bar.note(f"{len(tasks)} models, {short(rate)} {unit}/s")


def _watch(bar: ProgressStep, folders: Sequence[Path], unit: str, stop: threading.Event) -> None:
    """Follow the trainings until `stop`: steps done, losses and rates of those that run."""
    while not stop.wait(0.5):
        rows = [row for folder in folders if (row := _last_metrics(folder)) is not None]
        running = [row for row in rows if row.get("step", 0) > 0][-2:]
        losses = " ".join(f"{row['loss']:.3f}" for row in running)
        rate = sum(row.get(f"{unit}_per_second", 0.0) for row in running)
        scales = " ".join(f"{row['logit_scale']:.1f}" for row in running if "logit_scale" in row)
        extra = f"{short(rate)} {unit}/s loss {losses}" + (f" scale {scales}" if scales else "")
        bar.at(sum(row["step"] + 1 for row in rows), extra=extra)


def _last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line of a training's metrics, or None before there is one."""
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


# ---- evaluate


class EvaluateTask(Frozen):
    """One model measured by one suite."""

    benchmark: str
    model: str
    suite: str
    data: str
    out: str


def run_evaluation(task: EvaluateTask) -> str:
    """Evaluate one model (in a worker); returns the folder of its scores."""
    package = rules.load_package(task.benchmark)
    run_suite(package.load(task.model), suite=task.suite, data=task.data, out=task.out)
    write_chain(open_store(task.out), read_chain(open_store(task.model)))
    return task.out


def suite_name(current: Round) -> str:
    """The file of the suite that ranks at this scale. RuleError when it has another version."""
    path = rules.folder(current.benchmark.name) / "suites" / f"{current.scale.suite}.yaml"
    suite = load_suite(path)
    if suite.version != current.scale.suite_version:
        raise RuleError(
            f"the rules of {current.benchmark.name} {current.scale.name} ask for suite "
            f"{suite.name} version {current.scale.suite_version}, installed is {suite.version}"
        )
    return str(path)


def evaluate(current: Round, trained: Sequence[Trained]) -> list[str]:
    """Measure every model with the scale's suite; returns the folders of the scores."""
    suite = suite_name(current)
    data = current.package.eval_data(current.scale.name, workspace=current.workspace)
    tasks = []
    for one in trained:
        if _there(one.scores(current)):
            say(f"{one.method}: seed {one.seed} evaluated before")
            continue
        tasks.append(
            EvaluateTask(
                benchmark=current.benchmark.name,
                model=one.model(current),
                suite=suite,
                data=data,
                out=one.scores(current),
            )
        )
    if tasks:
        with step("evaluate", total=len(tasks), unit="models") as bar:
            current.map_tasks(run_evaluation, tasks, on_result=lambda *_: bar.advance())
    return [one.scores(current) for one in trained]


def submit(
    current: Round,
    curated: Curated,
    *,
    seeds: Sequence[int],
    track: str,
    method: str | None = None,
    team: str = "",
    folder: str = "submissions",
) -> Entry:
    """Submit a method with its seeds into a folder of the workspace."""
    trained = [Trained(method=curated.method, home=curated.home, seed=seed) for seed in seeds]
    return submit_scores(
        current.benchmark,
        scale=current.scale.name,
        track=track,
        method=method or curated.method,
        scores=[one.scores(current) for one in trained],
        out=Path(current.workspace) / folder,
        team=team,
    )


def _there(folder: str) -> bool:
    """Whether a stage's folder is finished, with its ancestors beside it."""
    store = open_store(folder)
    return store.exists(RECORD) and store.exists("chain.json")
