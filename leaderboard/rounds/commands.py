"""The stages of a round as commands, for any benchmark: `dclm run`, `dclm curate`, ...

A benchmark's `__main__` calls `command_line(name)`. Each stage is a function here, bound to the
benchmark's name and to its model of further options; a benchmark adds commands of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leaderboard import rules
from leaderboard.benchmark import StageOptions, desk, load_stages
from leaderboard.rounds.options import (
    CORES,
    RUNS,
    Cluster,
    Gpus,
    Processes,
    Quarantine,
    RecipeFile,
    Scale,
    TrainProcesses,
    Workspace,
    bind,
)
from pipelines.console import AssetFolders, Json, out, show_json, table
from pipelines.errors import RuleError, TrainingError
from pipelines.execution.choose import executor
from pipelines.execution.process import process_of
from pipelines.execution.progress import say
from pipelines.formats.pool import Pool
from pipelines.operators import PipelineError

if TYPE_CHECKING:
    from leaderboard.board.ranking import Row
    from leaderboard.rounds.round import EvaluateTask
    from pipelines.engine.run import Result
    from pipelines.records import ScoresRecord


def command_line(name: str) -> typer.Typer:
    """The command line of a benchmark."""
    book = rules.load_benchmark(name)
    app = typer.Typer(
        name=name,
        help=f"{book.title}: curate, pack, train, evaluate, submit.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    stages = load_stages(name)
    options = {"pack": stages.pack_options, "train": stages.train_options}
    own = stages.commands().registered_commands
    replaced = {command.name for command in own}
    for stage, function in STAGES.items():
        if stage not in replaced:
            app.command(stage)(bind(function, benchmark=name, options=options.get(stage)))
    app.registered_commands += own
    return app


def show_pool(opened: Pool, *, json: bool) -> None:
    """Print what a pool holds, and which of its sources are not the pinned ones."""
    if json:
        show_json(opened.record)
        return
    counts = opened.record.counts
    shown = ", ".join(f"{key} {value:,}" for key, value in counts.items())
    out(f"pool {opened.record.id} in {opened.uri}: {shown}")
    for source in opened.record.work.sources:
        if source.status != "pinned":
            say(f"source {source.name} is {source.status}: this is another pool than others'")


def run_command(
    *,
    benchmark: str,
    scale: Scale,
    pipeline: Annotated[
        list[str], typer.Option(help="A .yaml file or a baseline; may be repeated.")
    ],
    repeat: Annotated[int, typer.Option(min=1, help="Train this many of the seeds.")] = 1,
    resample: Annotated[
        int, typer.Option(min=1, help="Draw the sample of a sampled pipeline so many times.")
    ] = 1,
    workspace: Workspace = RUNS,
    track: Annotated[str, typer.Option(help="What you touched.")] = "filtering",
    method: Annotated[
        str | None, typer.Option(help="Name on the board; default: the pipeline's.")
    ] = None,
    team: Annotated[str, typer.Option(help="Your team's name on the board.")] = "",
    workers: Processes = CORES,
    cluster: Cluster = None,
    gpus: Gpus = None,
    processes: TrainProcesses = None,
    recipe: RecipeFile = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder or URI of evaluation data, or `hub`; default: the workspace's."),
    ] = None,
    quarantine: Quarantine = False,
    json: Json = False,
) -> None:
    """A whole round: curate, pack, train, evaluate, submit. Run again to resume.

    Training and evaluation use all GPUs of this machine, or of the cluster, and say so first.
    """
    from evals.suite import load_suite
    from leaderboard.rounds import launch, training
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.deciding import power_before
    from leaderboard.rounds.notebook import Notebook, noted
    from leaderboard.rounds.workspace import open_round
    from leaderboard.submissions.chain import seeds_of

    current = open_round(
        benchmark,
        scale,
        workspace=workspace,
        map_tasks=executor(workers, cluster=cluster),
        recipe=recipe,
        data=data,
    )
    seeds = list(current.recipe.seeds)[:repeat]
    if len(seeds) < repeat:
        raise RuleError(f"--repeat {repeat}: scale {scale} allows {len(seeds)} seeds")
    current.benchmark.track(track)  # before hours are spent
    if method is not None and (len(pipeline) > 1 or resample > 1):
        raise RuleError("--method names one pipeline; leave it out with several")
    placement = launch.choose(cluster=cluster, gpus=gpus, processes=processes)
    placement = launch.prepare(placement, current.stages, current.recipe, fixed=gpus is not None)
    run = None if placement.side_by_side else launch.trainer(placement, training.run_training)
    arms = []
    baselines = []
    for path in pipeline:
        for drawn in stages.draws_of(stages.find_pipeline(current, path), resample):
            curated = stages.curate(current, drawn, quarantine=quarantine)
            arms.append((curated, stages.pack(current, curated)))
            baselines.append(path in rules.baselines(benchmark))
    power = power_before(benchmark, scale, seeds=repeat)
    if power is not None:
        say(power.line)
    book = Notebook(workspace, benchmark, scale)
    starts = [
        book.start(arm.method, arm.record, tuple(seeds), baseline=baseline)
        for (arm, _), baseline in zip(arms, baselines, strict=True)
    ]
    failures: dict[str, str] = {}
    with noted(book, starts):
        trained = training.train(
            current,
            arms,
            seeds=seeds,
            recipe=recipe or current.scale.recipe,
            run=run,
            failures=failures,
        )
        stages.evaluate(current, trained, spread=placement.spread(current.map_tasks))
    if not current.official:
        say("trained under an experimental recipe: evaluated, but not submitted")
        return
    entries = []
    headline = load_suite(stages.suite_name(current)).headline
    for (curated, _), start in zip(arms, starts, strict=True):
        if curated.method in failures:
            line = start.model_dump(exclude={"at", "benchmark", "scale", "state", "text"})
            book.write("failed", **line, text=failures[curated.method][:2000])
            continue
        tries = None if start.baseline else book.tries()
        entry = stages.submit(
            current, curated, seeds=seeds, track=track, method=method, team=team, tries=tries
        )
        entries.append(entry)
        score = next(iter(seeds_of(entry.record).values())).results
        values = {"metric": headline, "value": score.aggregates[headline].value}
        known = start.model_dump(exclude={"at", "benchmark", "scale", "state", "metric", "value"})
        book.write("scored", **(known | values))
    if entries:
        _show_board(desk(workspace) / "submissions", json=json, only=[e.record.id for e in entries])
    if failures:
        stopped = "; ".join(f"{name}: {text}" for name, text in failures.items())
        raise TrainingError(f"{len(failures)} of {len(arms)} methods were not trained: {stopped}")


def pool_command(
    *,
    benchmark: str,
    scale: Scale,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    json: Json = False,
) -> None:
    """Open the pool of a scale, or build it where it is built from packages."""
    stages = load_stages(benchmark)
    show_pool(stages.open_pool(scale, workspace=workspace, map_tasks=executor(workers)), json=json)


def curate_command(
    *,
    benchmark: str,
    config: Annotated[str | None, typer.Argument(help="A .yaml file or a baseline.")] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="The same as the argument, as `run` has it.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Curate the pool of this scale, into the workspace.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Or: folder or prefix of another pool, with --out.")
    ] = None,
    out_uri: Annotated[
        str | None, typer.Option("--out", help="With --pool: where the dataset goes.")
    ] = None,
    workspace: Workspace = RUNS,
    assets: AssetFolders = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Quarantine = False,
    max_failed_shards: Annotated[
        int, typer.Option(min=0, help="Shards that may fail while the others are done.")
    ] = 0,
    json: Json = False,
) -> None:
    """Run a pipeline over the pool of a scale, or over a pool of your own."""
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round
    from pipelines.engine.run import finished
    from pipelines.storage.open import open_store

    name = config or pipeline
    if name is None or (config and pipeline):
        raise PipelineError("name one pipeline: a .yaml file or a baseline")
    if (scale is None) == (pool is None):
        raise PipelineError("name one pool: either --scale, or --pool with --out")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        current = open_round(benchmark, scale, workspace=workspace, map_tasks=map_tasks)
        chosen = stages.find_pipeline(current, name, assets=assets or ())
        curated = stages.curate(
            current, chosen, quarantine=quarantine, max_failed_shards=max_failed_shards
        )
        _show_dataset(curated.dataset, finished(open_store(curated.dataset)), json=json)
        return
    if out_uri is None:
        raise PipelineError("--pool needs --out: where the dataset goes")
    result = stages.curate_pool(
        benchmark,
        name,
        pool=str(pool),
        out=out_uri,
        workspace=workspace,
        assets=assets or (),
        map_tasks=map_tasks,
        quarantine=quarantine,
        max_failed_shards=max_failed_shards,
    )
    if result.skipped:
        say(f"{out_uri}: this run is already done")
    _show_dataset(out_uri, result, json=json)


def _show_dataset(folder: str, result: Result, *, json: bool) -> None:
    from pipelines.reports.funnel import funnel_text

    if json:
        show_json({"folder": folder, "record": result.record, "summary": result.summary})
        return
    out(funnel_text(result.summary))
    counts = result.record.counts
    files = [file.name for file in result.record.outputs]
    where = f"{folder}/{files[0]}" if len(files) == 1 else folder
    out(
        f"\ndataset {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} rows, "
        f"in {where}"
    )


def register_command(
    *,
    benchmark: str,
    input: Annotated[str, typer.Option(help="Folder or prefix of parquet or JSON lines.")],
    dataset: Annotated[str, typer.Option("--out", help="Where the dataset goes.")],
    method: Annotated[str, typer.Option("--name", help="The dataset's name.")],
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Quarantine = False,
    text_field: Annotated[
        str | None, typer.Option(help="The field that holds the text, if it is not `text`.")
    ] = None,
    json: Json = False,
) -> None:
    """Bring data that was curated elsewhere; it is checked and recorded as external."""
    from pipelines.engine.run import run as run_pipeline
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.from_steps([], name=method)
    result = run_pipeline(
        pipeline if text_field is None else pipeline.with_text_from(text_field),
        open_pool(input),
        out=dataset,
        map_tasks=executor(workers, cluster=cluster),
        quarantine=quarantine,
        external=True,
    )
    if json:
        show_json(result.record)
    else:
        rows = result.record.counts["rows_out"]
        out(f"dataset {result.record.id} (external): {rows:,} rows in {dataset}")
        for step in result.summary.stats.steps:
            for reason, number in step.reasons.items():
                out(f"{number:,} rows left out: {reason}")


def pack_command(
    *,
    benchmark: str,
    scale: Scale,
    dataset: Annotated[str, typer.Option(help="A dataset's folder.")],
    packed: Annotated[str, typer.Option("--out", help="Where the packed data goes.")],
    options: StageOptions | None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Turn a dataset into the training data of a scale's recipe."""
    from leaderboard.rounds.workspace import open_round
    from pipelines.storage.chain import read_chain, write_chain
    from pipelines.storage.open import open_store

    map_tasks = executor(workers, cluster=cluster)
    current = open_round(benchmark, scale, workspace="", map_tasks=map_tasks, recipe=recipe)
    current.stages.pack(dataset, current.recipe, out=packed, map_tasks=map_tasks, options=options)
    write_chain(open_store(packed), read_chain(open_store(dataset)))
    show_record(packed, json=json)


def train_command(
    *,
    benchmark: str,
    scale: Scale,
    packed: Annotated[
        str, typer.Option("--packed", "--data", help="A folder or prefix of packed data.")
    ],
    model: Annotated[str, typer.Option("--out", help="Where the model goes.")],
    options: StageOptions | None,
    seed: Annotated[int | None, typer.Option(help="One of the recipe's seeds.")] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Processor threads of one process; other sums round apart.")
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(help="Train with Ray: `local` or an address; all nodes must see --out."),
    ] = None,
    gpus: Gpus = None,
    processes: TrainProcesses = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Train one model under the frozen recipe of a scale; run again to resume after a stop.

    It uses all GPUs of this machine, or of the cluster, and says so first. Started by torchrun or
    srun, a process takes its part.
    """
    from leaderboard.rounds import launch, training

    stages = load_stages(benchmark)
    chosen = stages.recipe(recipe or rules.load_benchmark(benchmark).scale(scale).recipe)
    first = chosen.seeds[0] if seed is None else seed
    training.check_seeds_of(chosen, [first])
    task = training.TrainTask(
        benchmark=benchmark,
        recipe=absolute(recipe) if recipe else rules.load_benchmark(benchmark).scale(scale).recipe,
        packed=absolute(packed),
        seed=first,
        out=absolute(model),
        num_threads=threads,
        options={} if options is None else options.model_dump(mode="json"),
    )
    placement = launch.choose(cluster=cluster, gpus=gpus, processes=processes)
    placement = launch.prepare(placement, stages, chosen, fixed=gpus is not None)
    if process_of()[0] > 0:
        training.run_training(task)
        return
    run: Callable[[training.TrainTask], str] = training.run_training
    if placement.how in ("here", "group"):
        run = partial(training.run_training, progress=stages.progress(chosen))
    training.train_one(task, run=launch.trainer(placement, run))
    show_record(model, json=json)


def evaluate_command(
    *,
    benchmark: str,
    model: Annotated[
        str | None, typer.Argument(help="A trained model's folder, or a public model by name.")
    ] = None,
    model_option: Annotated[
        str | None, typer.Option("--model", help="The same as the argument.")
    ] = None,
    scores: Annotated[str, typer.Option("--out", help="Where the scores go.")],
    scale: Annotated[
        str | None, typer.Option(help="Use this scale's suite, and its evaluation data.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder or URI of evaluation data, or `hub`.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Another suite by name, or a .yaml file; it cannot rank."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Weights on the way, as step-00001234; `all`: every one, and the final."),
    ] = None,
    workspace: Workspace = RUNS,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes without GPUs; each takes tasks.")
    ] = 1,
    cluster: Cluster = None,
    gpus: Gpus = None,
    json: Json = False,
) -> None:
    """Measure a model with the suite of a scale; run again to do only what is missing."""
    from evals.reports import scores_text
    from leaderboard.rounds import launch
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round

    name = model or model_option
    if name is None or (model and model_option):
        raise PipelineError("name one model: a folder, or a public model by name")
    if scale is None and (suite is None or data is None):
        raise PipelineError("give --scale, or --suite with --data")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        current = open_round(benchmark, scale, workspace=workspace, map_tasks=map_tasks)
        suite = suite or stages.suite_name(current)
        data = data or load_stages(benchmark).eval_data(scale, workspace=workspace)
    task = stages.EvaluateTask(
        benchmark=benchmark, model=name, suite=str(suite), data=str(data), out=scores
    )
    placement = launch.choose(cluster=cluster, gpus=gpus)
    if placement.on_gpus:
        say(placement.line)
    spread = placement.spread(map_tasks)
    evaluate = partial(stages.evaluate_one, map_tasks=spread, remote=spread is not map_tasks)
    if checkpoint == "all":
        _show_curve(name, [evaluate(part) for part in _checkpoint_tasks(task)], json=json)
        return
    record = evaluate(task.model_copy(update={"checkpoint": checkpoint}))
    if json:
        show_json(record)
    else:
        out(scores_text(record))


def _checkpoint_tasks(task: EvaluateTask) -> list[EvaluateTask]:
    """An evaluation of every checkpoint of a model and of its final weights, in folders below."""
    from leaderboard.rounds.round import checkpoints_of

    names: list[str | None] = [*checkpoints_of(task.model), None]
    return [
        task.model_copy(update={"checkpoint": name, "out": f"{task.out}/{name or 'final'}"})
        for name in names
    ]


def _show_curve(model: str, records: Sequence[ScoresRecord], *, json: bool) -> None:
    """The headline at every checkpoint: a curve rather than a point."""
    from evals.suite import load_suite
    from leaderboard.rounds.round import checkpoints_of

    work = records[0].work
    headline = load_suite(f"{work.benchmark}/{work.suite}").headline
    rows = []
    for name, record in zip([*checkpoints_of(model), "final"], records, strict=True):
        score = record.results.aggregates[headline]
        rows.append({"checkpoint": name, headline: score.value, "stderr": score.stderr})
    if json:
        show_json(rows)
        return
    cells = [
        (
            row["checkpoint"],
            f"{row[headline]:.4f}",
            "-" if row["stderr"] is None else f"{row['stderr']:.4f}",
        )
        for row in rows
    ]
    out(table(cells, header=("checkpoint", headline, "standard error")))


def submit_command(
    *,
    benchmark: str,
    scale: Scale,
    scores: Annotated[list[str], typer.Option(help="A folder of scores; one per seed.")],
    method: Annotated[str, typer.Option(help="Name on the board.")],
    submissions: Annotated[str, typer.Option("--out", help="Folder of submissions.")],
    track: Annotated[str, typer.Option(help="What you touched.")] = "filtering",
    team: Annotated[str, typer.Option(help="Your team's name.")] = "",
    url: Annotated[str, typer.Option(help="A write-up.")] = "",
    dataset_at: Annotated[
        str, typer.Option(help="Where others find the dataset (https, s3, hf, gs).")
    ] = "",
    checkpoint_at: Annotated[
        list[str] | None, typer.Option(help="SEED=ADDRESS of a checkpoint; may be repeated.")
    ] = None,
    uids: Annotated[
        str | None, typer.Option(help="The dataset's list of uids, where it is one (.npy).")
    ] = None,
    tries: Annotated[
        str | None,
        typer.Option(help="Datasets you tried for this one, or `auto`: as the notebook counts."),
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option("--overlap", help="Look for the suite's items in the dataset's documents."),
    ] = False,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    to: Annotated[
        str | None,
        typer.Option(help="A service to send it to; the token is in LEADERBOARD_TOKEN."),
    ] = None,
    json: Json = False,
) -> None:
    """Check the whole chain behind scores and write a bundle to submit.

    The bundle (a zip next to the submission's folder) holds records, scores and questions, and
    is checked by the rules that the service applies. Making it again changes nothing.
    """
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round
    from leaderboard.submissions.bundle import Place
    from leaderboard.submissions.submission import pack as pack_bundle
    from leaderboard.submissions.submission import places
    from leaderboard.submissions.submission import submit as submit_entry

    map_tasks = executor(workers)
    current = open_round(benchmark, scale, workspace=workspace, map_tasks=map_tasks)
    if overlap and stages.overlapping(current) is None:
        raise RuleError("--overlap looks through documents; this benchmark's datasets have none")
    entry = submit_entry(
        rules.load_benchmark(benchmark),
        scale=scale,
        track=track,
        method=method,
        scores=scores,
        out=Path(submissions),
        team=team,
        url=url,
        dataset=Place(location=dataset_at),
        checkpoints=places(checkpoint_at or []),
        uids=uids,
        tries=number_of_tries(tries, workspace, benchmark, scale),
        overlap=stages.overlapping(current) if overlap else None,
        map_tasks=map_tasks,
    )
    bundle = pack_bundle(entry)
    if json:
        show_json(entry.record)
    else:
        out(f"submission {entry.record.id} in {entry.folder}: all rules hold")
        out(f"bundle {bundle} ({bundle.stat().st_size:,} bytes)")
    if to is not None:
        from leaderboard.rounds.client import send

        status = send(bundle, to)
        out(f"{to.rstrip('/')}{status['page']}: {status['state'].replace('_', ' ')}")
        for fault in status["faults"]:
            out(f"  {fault['file']}: {fault['field']}: found {fault['found']}")


def number_of_tries(tries: str | None, workspace: str, benchmark: str, scale: str) -> int | None:
    """The tries behind a submission: as said, or with `auto` as the workspace's notebook counts.

    RuleError for another text, and for `auto` where the notebook has no try.
    """
    from leaderboard.rounds.notebook import Notebook

    if tries is None:
        return None
    if tries == "auto":
        number = Notebook(workspace, benchmark, scale).tries()
        if not number:
            raise RuleError(
                f"--tries auto: the notebook of {workspace} has no try of {benchmark} {scale}; "
                "name the --workspace of the runs, or give a number"
            )
        return number
    if not tries.isdigit() or not int(tries):
        raise RuleError(f"--tries {tries}: expected a number from 1, or auto")
    return int(tries)


def publish_command(
    *,
    benchmark: str,
    dataset: Annotated[str, typer.Argument(help="A dataset's folder.")],
    to: Annotated[str, typer.Option(help="A folder, s3://BUCKET/PREFIX or hf://OWNER/NAME.")],
    url: Annotated[str, typer.Option(help="A write-up.")] = "",
) -> None:
    """Put a dataset where others can build on it, with its card, record and licences."""
    from leaderboard.rounds.publish import publish as publish_dataset

    out(publish_dataset(dataset, to, benchmark=benchmark, url=url))


def ablate_command(
    *,
    benchmark: str,
    pipeline: Annotated[str, typer.Argument(help="A .yaml file or a baseline.")],
    scale: Scale,
    drop_each: Annotated[
        bool, typer.Option("--drop-each", help="Take out every step in turn.")
    ] = False,
    drop: Annotated[
        list[int] | None, typer.Option(help="Take out this step (from 1); may be repeated.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Train this many of the seeds.")] = 1,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    cluster: Cluster = None,
    gpus: Gpus = None,
    json: Json = False,
) -> None:
    """Play the round without each step in turn: what is a step worth?"""
    from leaderboard.rounds import ablate as ablation
    from leaderboard.rounds import launch
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round

    if drop_each == bool(drop):
        raise RuleError("say which steps: either --drop-each, or --drop N")
    current = open_round(
        benchmark, scale, workspace=workspace, map_tasks=executor(workers, cluster=cluster)
    )
    whole = stages.find_pipeline(current, pipeline)
    placement = launch.choose(cluster=cluster, gpus=gpus)
    placement = launch.prepare(placement, current.stages, current.recipe, fixed=gpus is not None)
    ablation_ = ablation.ablate(
        current,
        whole,
        where_to_train=placement,
        steps=ablation.chosen_steps(whole, drop),
        seeds=list(current.recipe.seeds)[:repeat],
    )
    if json:
        show_json(ablation_)
    else:
        out(ablation.ablation_text(ablation_))


def baselines_command(
    *,
    benchmark: str,
    name: Annotated[
        str | None, typer.Argument(help="Print this baseline's YAML, to start from.")
    ] = None,
    json: Json = False,
) -> None:
    """List the reference pipelines, or print one."""
    from pipelines import installed

    folder = installed.folder(benchmark) / "baselines"
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name is not None:
        if name not in files:
            raise PipelineError(f"there is no baseline {name!r}; there are: {', '.join(files)}")
        out(files[name].read_text(encoding="utf-8").rstrip())
        return
    rows = [(stem, _described(path)) for stem, path in files.items()]
    if json:
        show_json([{"name": stem, "description": text} for stem, text in rows])
    else:
        out(table(rows, header=("baseline", "what it does")))


def _described(path: Path) -> str:
    """The description in a pipeline's file, on one line."""
    import yaml

    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    return " ".join(str(spec.get("description", "")).split())


STAGES: dict[str, Callable[..., None]] = {
    "run": run_command,
    "pool": pool_command,
    "curate": curate_command,
    "register": register_command,
    "pack": pack_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "submit": submit_command,
    "publish": publish_command,
    "ablate": ablate_command,
    "baselines": baselines_command,
}
"""Every stage by its command's name; a benchmark's own command of a name takes its place."""


def show_record(folder: str, *, json: bool) -> None:
    """Print the record that a stage left in a folder."""
    from pipelines.storage.chain import read_chain
    from pipelines.storage.open import open_store

    record = read_chain(open_store(folder))[-1]
    if json:
        show_json(record)
        return
    counts = ", ".join(f"{key} {value:,}" for key, value in record.counts.items())
    out(f"{record.kind} {record.id} in {folder}: {counts}")


def _show_board(submissions: Path, *, json: bool, only: list[str] | None = None) -> None:
    from leaderboard.board.describe import verdict
    from leaderboard.board.formats import board_table
    from leaderboard.board.ranking import board
    from leaderboard.submissions.submission import read_entries

    rows = board(read_entries(submissions))
    if only is not None:
        keys = {(r.scale, r.track, r.pool_id) for r in rows if r.submission_id in only}
        rows = [row for row in rows if (row.scale, row.track, row.pool_id) in keys]
    if json:
        show_json(rows)
        return
    groups = comparable(rows)
    for number, group in enumerate(groups):
        if len(groups) > 1:
            first = group[0]
            heading = f"{first.benchmark} at {first.scale}, {first.track} track"
            out(f"{chr(10) * bool(number)}{heading}, pool {first.pool_id[:8]}")
        header, cells = board_table(group)
        out(table(cells, header=header))
        out(f"\n{verdict(group)}")


def comparable(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups that may be compared, in the order of their first rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.benchmark, row.scale, row.track, row.pool_id, row.suite_version)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def absolute(address: str) -> str:
    """A path that means the same in another process; URIs stay as they are."""
    return address if "://" in address else str(Path(address).absolute())
