"""The stages of a round as commands, for any benchmark: `dclm run`, `dclm curate`, ...

A benchmark's `__main__` calls `command_line(name)`; what only that benchmark has (its
`commands()`) stands beside the stages, or, under the name of a stage, in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leaderboard import rules
from pipelines.console import Json, out, show_json, table
from pipelines.errors import RuleError
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.formats.pool import Pool
from pipelines.operators import PipelineError

if TYPE_CHECKING:
    from leaderboard.board.ranking import Row
    from leaderboard.rounds.training import TrainTask


Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]
Workspace = Annotated[str, typer.Option(help="Folder of pools, datasets, models and submissions.")]
Processes = Annotated[
    int, typer.Option("--workers", min=1, help="Processes on this machine; default: its cores.")
]
Cluster = Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")]
RecipeFile = Annotated[
    str | None,
    typer.Option("--recipe", help="An experimental recipe file: its results cannot be submitted."),
]
Quarantine = Annotated[
    bool, typer.Option("--quarantine", help="Set bad rows aside instead of stopping.")
]
RUNS = "runs"
CORES = os.cpu_count() or 1


def command_line(name: str) -> typer.Typer:
    """The command line of a benchmark."""
    book = rules.load_benchmark(name)
    app = typer.Typer(
        name=name,
        help=f"{book.title}: curate, pack, train, evaluate, submit.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    _add_stages(app, name)
    own = rules.load_package(name).commands().registered_commands
    by_name = {command.name: command for command in [*app.registered_commands, *own]}
    app.registered_commands = list(by_name.values())
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


def _add_stages(app: typer.Typer, name: str) -> None:
    @app.command("run")
    def run(
        scale: Scale,
        pipeline: Annotated[
            list[str], typer.Option(help="A .yaml file or a baseline; may be repeated.")
        ],
        repeat: Annotated[int, typer.Option(min=1, help="Train this many of the seeds.")] = 1,
        workspace: Workspace = RUNS,
        track: Annotated[str, typer.Option(help="What you touched.")] = "filtering",
        method: Annotated[
            str | None, typer.Option(help="Name on the board; default: the pipeline's.")
        ] = None,
        team: Annotated[str, typer.Option(help="Your team's name on the board.")] = "",
        workers: Processes = CORES,
        cluster: Cluster = None,
        recipe: RecipeFile = None,
        quarantine: Quarantine = False,
        json: Json = False,
    ) -> None:
        """A whole round: curate, pack, train, evaluate, submit. Run again to go on."""
        from evals.suite import load_suite
        from leaderboard.rounds import round as stages
        from leaderboard.rounds import training
        from leaderboard.rounds.notebook import Notebook, noted
        from leaderboard.rounds.workspace import open_round
        from leaderboard.submissions.chain import seeds_of

        current = open_round(
            name,
            scale,
            workspace=workspace,
            map_tasks=executor(workers, cluster=cluster),
            recipe=recipe,
        )
        seeds = list(current.recipe.seeds)[:repeat]
        if len(seeds) < repeat:
            raise RuleError(f"--repeat {repeat}: scale {scale} allows {len(seeds)} seeds")
        arms = []
        for one in pipeline:
            curated = stages.curate(
                current, stages.find_pipeline(current, one), quarantine=quarantine
            )
            arms.append((curated, stages.pack(current, curated)))
        book = Notebook(workspace, name, scale)
        starts = [book.start(one.method, one.record, tuple(seeds)) for one, _ in arms]
        with noted(book, starts):
            trained = training.train(
                current, arms, seeds=seeds, recipe=recipe or current.scale.recipe
            )
            stages.evaluate(current, trained)
        if not current.official:
            say("trained under an experimental recipe: evaluated, but not submitted")
            return
        if method is not None and len(arms) > 1:
            raise RuleError("--method names one pipeline; leave it out with several")
        entries = []
        for (curated, _), start in zip(arms, starts, strict=True):
            tries = None if start.baseline else book.tries()
            entry = stages.submit(
                current, curated, seeds=seeds, track=track, method=method, team=team, tries=tries
            )
            entries.append(entry)
            score = next(iter(seeds_of(entry.record).values())).results
            headline = load_suite(stages.suite_name(current)).headline
            values = {"metric": headline, "value": score.aggregates[headline].value}
            told = start.model_dump(
                exclude={"at", "benchmark", "scale", "state", "metric", "value"}
            )
            book.write("scored", **(told | values))
        _show_board(Path(workspace) / "submissions", json=json, only=[e.record.id for e in entries])

    @app.command("curate")
    def curate(
        scale: Scale,
        pipeline: Annotated[str, typer.Option(help="A .yaml file or a baseline.")],
        workspace: Workspace = RUNS,
        workers: Processes = CORES,
        cluster: Cluster = None,
        quarantine: Quarantine = False,
        json: Json = False,
    ) -> None:
        """Run a pipeline over the pool of a scale."""
        from leaderboard.rounds import round as stages
        from leaderboard.rounds.workspace import open_round
        from pipelines.engine.run import read_summary
        from pipelines.reports.funnel import funnel_text

        current = open_round(
            name, scale, workspace=workspace, map_tasks=executor(workers, cluster=cluster)
        )
        curated = stages.curate(
            current, stages.find_pipeline(current, pipeline), quarantine=quarantine
        )
        summary = read_summary(curated.dataset)
        if json:
            show_json({"folder": curated.dataset, "record": curated.record, "summary": summary})
            return
        out(funnel_text(summary))
        out(f"\ndataset {curated.record.id} in {curated.dataset}")

    @app.command("register")
    def register(
        input: Annotated[str, typer.Option(help="Folder or prefix of parquet or JSON lines.")],
        dataset: Annotated[str, typer.Option("--out", help="Where the dataset goes.")],
        method: Annotated[str, typer.Option("--name", help="The dataset's name.")],
        workers: Processes = CORES,
        cluster: Cluster = None,
        quarantine: Quarantine = False,
        json: Json = False,
    ) -> None:
        """Bring data that was curated elsewhere; it is checked and recorded as external."""
        from pipelines.engine.run import run as run_pipeline
        from pipelines.formats.pool import open_pool
        from pipelines.pipeline import Pipeline

        result = run_pipeline(
            Pipeline.from_steps([], name=method),
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

    @app.command("evaluate")
    def evaluate(
        scale: Scale,
        model: Annotated[str, typer.Option(help="A trained model's folder.")],
        scores: Annotated[str, typer.Option("--out", help="Where the scores go.")],
        data: Annotated[
            str | None, typer.Option(help="Folder of evaluation data; default: the pool's.")
        ] = None,
        suite: Annotated[
            str | None, typer.Option(help="Another suite than the scale's; it cannot rank.")
        ] = None,
        workspace: Workspace = RUNS,
        json: Json = False,
    ) -> None:
        """Measure a model with the suite of a scale."""
        from leaderboard.rounds import round as stages
        from leaderboard.rounds.workspace import open_round

        current = open_round(name, scale, workspace=workspace, map_tasks=executor(1))
        task = stages.EvaluateTask(
            benchmark=name,
            model=model,
            suite=suite or stages.suite_name(current),
            data=data or current.package.eval_data(scale, workspace=workspace),
            out=scores,
        )
        stages.run_evaluation(task)
        show_record(scores, json=json)

    @app.command("submit")
    def submit(
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
            int | None,
            typer.Option(min=1, help="Datasets you tried for this one; `notebook` counts them."),
        ] = None,
        to: Annotated[
            str | None,
            typer.Option(help="A service to send it to; the token is in LEADERBOARD_TOKEN."),
        ] = None,
        json: Json = False,
    ) -> None:
        """Check the whole chain behind scores and write a bundle to submit.

        The bundle (a zip beside the submission's folder) holds records, scores and questions, and
        is checked by the rules that the service applies. Making it again changes nothing.
        """
        from leaderboard.submissions.bundle import Place
        from leaderboard.submissions.submission import pack as pack_bundle
        from leaderboard.submissions.submission import places
        from leaderboard.submissions.submission import submit as submit_entry

        entry = submit_entry(
            rules.load_benchmark(name),
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
            tries=tries,
        )
        bundle = pack_bundle(entry)
        if json:
            show_json(entry.record)
        else:
            out(f"submission {entry.record.id} in {entry.folder}: all rules hold")
            out(f"bundle {bundle} ({bundle.stat().st_size:,} bytes)")
        if to is not None:
            from leaderboard.rounds.client import send

            told = send(bundle, to)
            out(f"{to.rstrip('/')}{told['page']}: {told['state'].replace('_', ' ')}")
            for fault in told["faults"]:
                out(f"  {fault['file']}: {fault['field']}: found {fault['found']}")

    @app.command("publish")
    def publish(
        dataset: Annotated[str, typer.Argument(help="A dataset's folder.")],
        to: Annotated[str, typer.Option(help="A folder, s3://BUCKET/PREFIX or hf://OWNER/NAME.")],
        url: Annotated[str, typer.Option(help="A write-up.")] = "",
    ) -> None:
        """Put a dataset where others can build on it, with its card, record and licences."""
        from leaderboard.rounds.publish import publish as publish_dataset

        out(publish_dataset(dataset, to, benchmark=name, url=url))

    @app.command("ablate")
    def ablate(
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
        json: Json = False,
    ) -> None:
        """Play the round without each step in turn: what is a step worth?"""
        from leaderboard.rounds import ablate as ablation
        from leaderboard.rounds import round as stages
        from leaderboard.rounds.workspace import open_round

        if drop_each == bool(drop):
            raise RuleError("say which steps: either --drop-each, or --drop N")
        current = open_round(
            name, scale, workspace=workspace, map_tasks=executor(workers, cluster=cluster)
        )
        whole = stages.find_pipeline(current, pipeline)
        found = ablation.ablate(
            current,
            whole,
            steps=ablation.chosen_steps(whole, drop),
            seeds=list(current.recipe.seeds)[:repeat],
        )
        if json:
            show_json(found)
        else:
            out(ablation.ablation_text(found))

    del (
        run,
        curate,
        register,
        evaluate,
        submit,
        publish,
        ablate,
    )  # typer holds them


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
    header, cells = board_table(rows)
    out(table(cells, header=header))
    for sentence in verdicts(rows):
        out(f"\n{sentence}")


def verdicts(rows: Sequence[Row]) -> list[str]:
    """For each group of rows that may be compared, who is ahead, and whether to believe it."""
    from leaderboard.board.describe import verdict

    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.benchmark, row.scale, row.track, row.pool_id, row.suite_version)
        groups.setdefault(key, []).append(row)
    return [verdict(group) for group in groups.values()]


def absolute(place: str) -> str:
    """A path that means the same in another process; URIs stay as they are."""
    return place if "://" in place else str(Path(place).absolute())


def train_where(
    task: TrainTask,
    run: Callable[..., str],
    *,
    cluster: str | None,
    gpus: int | None,
    processes: int | None,
    rank: int,
    progress: Callable[..., None] | None,
) -> bool:
    """Train one model on a Ray cluster or in this process; whether this process is to tell of it.

    `rank` is this process's place among those that torchrun or Slurm started: only the first has a
    bar, or the lines of `progress`. PipelineError for options that do not go together.
    """
    from leaderboard.rounds import training

    if cluster is not None:
        if (gpus is None) == (processes is None):
            raise PipelineError("--cluster needs either --gpus N or --processes N")
        training.train_one(
            task,
            run=partial(
                _train_together,
                run=run,
                address=cluster,
                num_processes=gpus or processes or 1,
                use_gpu=gpus is not None,
            ),
        )
    elif gpus or processes:
        raise PipelineError("--gpus and --processes are for --cluster; on one machine use torchrun")
    elif rank > 0:
        run(task)
        return False
    else:
        training.train_one(task, run=partial(run, progress=progress))
    return True


def _train_together(
    task: TrainTask,
    *,
    run: Callable[..., str],
    address: str,
    num_processes: int,
    use_gpu: bool,
) -> str:
    """Train one model in several processes of a Ray cluster."""
    from pipelines.execution.ray_train import run_together

    run_together(
        run,
        task,
        address=address,
        num_processes=num_processes,
        use_gpu=use_gpu,
        num_cpus=task.num_threads,
        folder=task.out,
    )
    return task.out


__all__ = [
    "CORES",
    "Cluster",
    "Processes",
    "RecipeFile",
    "absolute",
    "command_line",
    "show_record",
    "train_where",
]
