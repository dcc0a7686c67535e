"""Commands of the stages that train, evaluate and submit models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leaderboard import rules
from leaderboard.benchmark import StageOptions, load_stages
from leaderboard.rounds.options import (
    CORES,
    RUNS,
    Gpus,
    Processes,
    RecipeFile,
    Scale,
    TrainProcesses,
    Workspace,
)
from leaderboard.rounds.show import absolute, show_record
from pipelines.console import Cluster, Json, out, show_json, table
from pipelines.errors import PipelineError, RuleError
from pipelines.execution.choose import executor
from pipelines.execution.process import process_of
from pipelines.execution.progress import say

if TYPE_CHECKING:
    from leaderboard.rounds.round import EvaluateTask
    from pipelines.records import ScoresRecord


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
    precision: Annotated[
        str, typer.Option(help="fp32, or bf16 where a benchmark's models have it.")
    ] = "fp32",
    exact: Annotated[
        bool, typer.Option("--exact", help="Every option whole and alone: slow, the oracle.")
    ] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens computed at once; default: as memory allows.")
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
    from evals.suite import load_suite
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
    if precision not in ("fp32", "bf16"):
        raise PipelineError(f"unknown precision {precision!r}; choose fp32 or bf16")
    task = stages.EvaluateTask(
        benchmark=benchmark,
        model=name,
        suite=str(suite),
        data=str(data),
        out=scores,
        precision="bf16" if precision == "bf16" else "fp32",
        exact=exact,
        batch_tokens=batch_tokens,
    )
    placement = launch.choose(cluster=cluster, gpus=gpus)
    if placement.on_gpus:
        say(placement.line)
    spread = placement.spread(map_tasks)
    evaluate = partial(stages.evaluate_one, map_tasks=spread, remote=spread is not map_tasks)
    if checkpoint == "all":
        parts = _checkpoint_tasks(task)
        records = {part.checkpoint or "final": evaluate(part) for part in parts}
        _show_curve(records, headline=load_suite(task.suite).headline, json=json)
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


def _show_curve(records: Mapping[str, ScoresRecord], *, headline: str, json: bool) -> None:
    """The headline at every checkpoint: a curve rather than a point."""
    rows = []
    for name, record in records.items():
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
        typer.Option(
            "--overlap",
            help="Look for the suite's items in the dataset: documents, or packed pairs.",
        ),
    ] = False,
    curve: Annotated[
        list[str] | None,
        typer.Option(help="What `evaluate --checkpoint all` wrote for a seed; may be repeated."),
    ] = None,
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
        raise RuleError("--overlap: this benchmark's suite has no items that a dataset could hold")
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
        curves=curve or [],
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
