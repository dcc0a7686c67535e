"""Run the stages of a round: curate, pack, train, evaluate, submit.

Each stage takes a folder with a record and leaves a folder with a record; next to each record is
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

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from evals.models import Precision
from evals.remote import remote_model, with_room
from evals.run import run as run_suite
from evals.suite import load_suite
from leaderboard import rules
from leaderboard.benchmark import INTERMEDIATE, StageOptions, desk, load_stages
from leaderboard.rounds.mirror import local_model
from leaderboard.rounds.training import Trained
from leaderboard.rounds.workspace import Curated, Round, is_done
from leaderboard.submissions.submission import Entry, Overlapping
from leaderboard.submissions.submission import submit as submit_scores
from pipelines import installed
from pipelines.assets.catalogue import Assets
from pipelines.engine.run import dataset_work, run
from pipelines.engine.run_folder import Result
from pipelines.errors import PipelineError, RuleError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import say, step
from pipelines.formats.pool import Pool
from pipelines.pipeline import Pipeline
from pipelines.records import (
    DatasetRecord,
    Frozen,
    PackedRecord,
    PoolRecord,
    ScoresRecord,
    parse_record,
)
from pipelines.reports import run_page
from pipelines.selection import HashSample
from pipelines.storage.chain import RECORD, read_chain, write_chain
from pipelines.storage.open import open_store

# ---- curate


def find_pipeline(current: Round, name: str, *, assets: Sequence[str] = ()) -> Pipeline:
    """A pipeline by file, or a baseline of the benchmark by name; `assets` are folders first."""
    pool_assets = current.stages.assets(current.scale.name, workspace=current.workspace)
    folders = (*(Path(folder) for folder in assets), *pool_assets.folders)
    return load_pipeline(current.benchmark.name, name, Assets(folders=folders))


def load_pipeline(benchmark: str, name: str, assets: Assets) -> Pipeline:
    """A pipeline by file, or a baseline by name. PipelineError lists the baselines there are."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return Pipeline.load(path, assets=assets)
    baselines = installed.folder(benchmark) / "baselines"
    if (baselines / f"{name}.yaml").is_file():
        return Pipeline.load(baselines / f"{name}.yaml", assets=assets)
    known = ", ".join(sorted(file.stem for file in baselines.glob("*.yaml")))
    raise PipelineError(f"there is no baseline {name!r}; give a .yaml file or one of: {known}")


def curate(
    current: Round,
    pipeline: Pipeline,
    *,
    quarantine: bool = False,
    max_failed_shards: int = 0,
    share: str | None = None,
    keep_work: bool = False,
    overwrite: bool = False,
) -> Curated:
    """Run a pipeline over the scale's pool; the options are those of `pipelines.engine.run.run`."""
    pool = current.open_pool()
    pipeline = sized(current, pipeline)
    form = current.benchmark.dataset_format
    work = dataset_work(pipeline, quarantine=quarantine, format=form)
    key = DatasetRecord.key_of(work=work, parents={"pool": pool.record.id})
    home = f"{current.home}/{pipeline.name}-{key[:8]}"
    result = run(
        pipeline,
        pool,
        out=f"{home}/dataset",
        map_tasks=current.map_tasks,
        quarantine=quarantine,
        format=form,
        max_failed_shards=max_failed_shards,
        share=share,
        keep_work=keep_work,
        overwrite=overwrite,
    )
    run_page.write(open_store(f"{home}/dataset"), result)
    _say_curated(pipeline.name, result)
    return Curated(method=pipeline.name, home=home, record=result.record)


def of_own_pool(
    benchmark: str, name: str, *, pool: str, workspace: str, assets: Sequence[str]
) -> tuple[Pipeline, Pool]:
    """A pipeline with its assets, and a pool that belongs to no scale."""
    folders = (*(Path(folder) for folder in assets), desk(workspace) / "assets")
    pipeline = load_pipeline(benchmark, name, Assets(folders=folders))
    return pipeline, load_stages(benchmark).open_tables(pool)


def curate_pool(
    benchmark: str,
    name: str,
    *,
    pool: str,
    out: str,
    workspace: str,
    assets: Sequence[str],
    map_tasks: MapTasks,
    quarantine: bool,
    max_failed_shards: int,
    overwrite: bool = False,
) -> Result:
    """Run a pipeline over a pool that belongs to no scale; returns the finished run."""
    pipeline, opened = of_own_pool(benchmark, name, pool=pool, workspace=workspace, assets=assets)
    result = run(
        pipeline,
        opened,
        out=out,
        map_tasks=map_tasks,
        quarantine=quarantine,
        format=rules.load_benchmark(benchmark).dataset_format,
        max_failed_shards=max_failed_shards,
        overwrite=overwrite,
    )
    run_page.write(open_store(out), result)
    return result


def _say_curated(method: str, result: Result) -> None:
    counts = result.record.counts
    note = "already done: " if result.skipped else ""
    say(
        f"{method}: {note}kept {counts['rows_out']:,} of {counts['rows_in']:,} rows "
        f"(dataset {result.record.id[:8]})"
    )


def sized(current: Round, pipeline: Pipeline) -> Pipeline:
    """Give every hash_sample that waits for another pipeline's size that size."""
    for pipeline_step in pipeline.steps:
        operator = pipeline_step.operator
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
            pipeline = pipeline.replace(pipeline_step.number, given)
    return pipeline


def draws_of(pipeline: Pipeline, number: int) -> list[Pipeline]:
    """A sampled pipeline with the next seeds of its sample, each under a name of its own.

    The first is the pipeline as it is. PipelineError for one that draws no sample.
    """
    samples = [step_ for step_ in pipeline.steps if isinstance(step_.operator, HashSample)]
    if number == 1:
        return [pipeline]
    if not samples:
        raise PipelineError(
            f"{pipeline.name} draws no sample (no hash_sample step): leave out --resample, or vary "
            "its seeds with --repeat"
        )
    drawn = [pipeline]
    for extra in range(1, number):
        other = pipeline
        for sample in samples:
            operator = sample.operator
            assert isinstance(operator, HashSample)
            seeded = operator.model_copy(update={"seed": operator.seed + extra})
            other = other.replace(sample.number, seeded)
        drawn.append(replace(other, name=f"{pipeline.name}-draw{extra + 1}"))
    return drawn


# ---- pack


def pack(current: Round, curated: Curated) -> str:
    """Pack a dataset for the recipe; returns the folder."""
    return pack_folder(
        current, curated.dataset, f"{curated.home}/packed-{current.recipe_name}", curated.method
    )


def pack_folder(
    current: Round, dataset: str, out: str, method: str, *, options: StageOptions | None = None
) -> str:
    """Pack the dataset in one folder into another."""
    if not is_done(out):
        record = current.stages.pack(
            dataset, current.recipe, out=out, map_tasks=current.map_tasks, options=options
        )
        write_chain(open_store(out), read_chain(open_store(dataset)))
        size = record.counts.get(current.benchmark.size_count, 0)
        unit = current.benchmark.size_unit
        say(f"{method}: packed {size:,} {unit} (packed {record.id[:8]})")
    else:
        say(f"{method}: packed before")
    return out


def check_price(current: Round, track: str, packed: str) -> None:
    """RuleError when the track has a budget for the data and a packed dataset is beyond it."""
    rule = current.benchmark.track(track).price
    if rule is None:
        return
    chain = read_chain(open_store(packed))
    pool, record = chain[0], chain[-1]
    assert isinstance(pool, PoolRecord)
    assert isinstance(record, PackedRecord)
    too_dear = rule.fault(record, pool)
    if too_dear:
        raise RuleError(f"track {track}: {too_dear}; leave rows out, or name another track")


# ---- evaluate


Loading: TypeAlias = tuple[str, str, str | None, Precision, bool, int | None]


class EvaluateTask(Frozen):
    """One model measured by one suite."""

    benchmark: str
    model: str
    suite: str
    data: str
    out: str
    checkpoint: str | None = None  # weights on the way in place of the final ones
    precision: Precision = "fp32"
    exact: bool = False
    batch_tokens: int | None = None

    @property
    def how(self) -> Loading:
        """What `load_model` is called with."""
        named = (self.checkpoint, self.precision, self.exact, self.batch_tokens)
        return (self.benchmark, self.model, *named)


def run_evaluation(task: EvaluateTask) -> str:
    """Evaluate one model (in a worker); returns the folder of its scores."""
    evaluate_one(task)
    return task.out


def evaluate_one(
    task: EvaluateTask, *, map_tasks: MapTasks | None = None, remote: bool = False
) -> ScoresRecord:
    """Evaluate one model, its tasks spread over workers where there are any.

    `remote`: only workers load the weights, each once; this process may have no GPU for them.
    """
    model: Any
    if map_tasks is not None:
        map_tasks = with_room(map_tasks, task.model)
    if remote and map_tasks is not None:
        model = remote_model(load_model, task.how, map_tasks=map_tasks)
    else:
        model = load_model(*task.how)
    with step("evaluate", unit="") as bar:
        record = run_suite(
            model, suite=task.suite, data=task.data, out=task.out, map_tasks=map_tasks
        )
        bar.note(f"{record.counts['questions']:,} questions")
    source = open_store(task.model) if is_folder(task.model) else None
    if source is not None and source.exists(RECORD) and task.checkpoint is None:
        write_chain(open_store(task.out), read_chain(source))
    return record


def load_model(
    benchmark: str,
    model: str,
    checkpoint: str | None,
    precision: Precision,
    exact: bool,
    batch_tokens: int | None,
) -> Any:
    """A model in a worker: on the GPU that is the worker's own, where it has one."""
    return load_stages(benchmark).load(
        local_model(model),
        checkpoint=checkpoint,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )


def checkpoints_of(model: str) -> list[str]:
    """The names of a trained model's weights on the way, in order. RecordError without a record."""
    store = open_store(model)
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    folder = f"{INTERMEDIATE}/"
    names = sorted(file.name for file in record.outputs if file.name.startswith(folder))
    return [name.removeprefix(folder).removesuffix(".safetensors") for name in names]


def is_folder(model: str) -> bool:
    """Whether a model is a folder or a prefix of a bucket, rather than a public model's name."""
    return "://" in model or Path(model).is_dir()


def suite_name(current: Round) -> str:
    """The file of the suite that ranks at this scale. RuleError when it has another version."""
    path = installed.folder(current.benchmark.name) / "suites" / f"{current.scale.suite}.yaml"
    suite = load_suite(path)
    if suite.version != current.scale.suite_version:
        raise RuleError(
            f"the rules of {current.benchmark.name} {current.scale.name} ask for suite "
            f"{suite.name} version {current.scale.suite_version}, installed is {suite.version}"
        )
    return str(path)


def evaluate(
    current: Round, trained: Sequence[Trained], *, spread: MapTasks | None = None
) -> list[str]:
    """Measure every model with the scale's suite; returns the folders of the scores.

    Models are measured side by side, a task each. An executor in `spread` that is not the round's
    own has the GPUs: then one model after another is spread over it.
    """
    suite = suite_name(current)
    tasks = []
    for trained_run in trained:
        if is_done(trained_run.scores(current)):
            say(f"{trained_run.method}: seed {trained_run.seed} evaluated before")
            continue
        tasks.append(
            EvaluateTask(
                benchmark=current.benchmark.name,
                model=trained_run.model(current),
                suite=suite,
                data=current.eval_data,
                out=trained_run.scores(current),
            )
        )
    if tasks:
        with step("evaluate", total=len(tasks), unit="models") as bar:
            if spread is None or spread is current.map_tasks:
                placed = with_room(current.map_tasks, *(task.model for task in tasks))
                placed(run_evaluation, tasks, on_result=lambda *_: bar.advance())
            else:
                for task in tasks:
                    evaluate_one(task, map_tasks=spread, remote=True)
                    bar.advance()
    return [trained_run.scores(current) for trained_run in trained]


def submit(
    current: Round,
    curated: Curated,
    *,
    seeds: Sequence[int],
    track: str,
    method: str | None = None,
    team: str = "",
    folder: str = "submissions",
    tries: int | None = None,
    curves: Sequence[str] = (),
) -> Entry:
    """Submit a method with its seeds into a folder of the workspace.

    A dataset of documents or pairs is looked through for the suite's items on the way. `curves` are
    folders of scores of checkpoints.
    """
    trained = [Trained(method=curated.method, home=curated.home, seed=seed) for seed in seeds]
    return submit_scores(
        current.benchmark,
        scale=current.scale.name,
        track=track,
        method=method or curated.method,
        scores=[trained_run.scores(current) for trained_run in trained],
        out=desk(current.workspace) / folder,
        team=team,
        tries=tries,
        overlap=overlapping(current),
        curves=curves,
        map_tasks=current.map_tasks,
    )


def overlapping(current: Round) -> Overlapping | None:
    """What a scale's datasets are looked through for; None where the suite has no items."""
    if current.benchmark.modality == "image":
        return None
    return Overlapping(suite=suite_name(current), data=current.eval_data)
