"""`dclm mix`, `mix-swarm` and `mix-fit`: mixtures by hand, by temperature, by regression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
import yaml

from leaderboard.rounds.options import CORES, Processes, Resources, Scale
from pipelines.console import Cluster, Json, out, show_json, table
from pipelines.execution.choose import executor
from pipelines.option_groups import grouped

if TYPE_CHECKING:
    from dclm.curation.swarm import BestMix, Swarm
    from pipelines.formats.mixture import Mixture

app = typer.Typer()

Config = Annotated[Path, typer.Argument(help="A mixture's YAML file.")]
Form = Literal["log_linear", "quadratic"]


@app.command("mix")
def mix_command(
    config: Config,
    out_uri: Annotated[str, typer.Option("--out", help="Where the manifest goes.")],
    name: Annotated[
        str | None, typer.Option(help="The dataset's name; default: the file's.")
    ] = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Mix datasets by repeat factors, shares or temperature; no text is copied.

    Sources may be the values of a column, which are counted first.
    """
    from pipelines.formats import mix
    from pipelines.formats.mixture import load_mixture

    record = mix.mix(
        load_mixture(config),
        name=name or config.stem,
        out=out_uri,
        map_tasks=executor(workers, cluster=cluster),
    )
    if json:
        show_json(record)
        return
    rows = [
        (source["name"], source["repeat"], source["record"]) for source in mix.plan_rows(record)
    ]
    out(table(rows, header=("source", "repeat", "dataset")))
    shown = f"{record.counts['rows_out']:,} rows, {record.counts['file_bytes']:,} bytes of files"
    out(f"\ndataset {record.id}: about {shown}, in {out_uri}")


@app.command("mix-swarm")
@grouped
def swarm_command(
    *,
    config: Config,
    scale: Scale,
    file: Annotated[Path, typer.Option("--out", help="The CSV file of proxy runs to write.")],
    proxies: Annotated[int, typer.Option(min=2, help="Mixtures to train.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the drawn shares.")] = 0,
    resources: Resources,
    json: Json = False,
) -> None:
    """Train a small model on each of many mixtures, for `mix-fit`. Run again to resume.

    The first is the mixture of the file; half of the others are drawn around it, half over all
    shares that its bounds on repetition allow.
    """
    from dclm.curation import swarm
    from pipelines.formats.mix_shares import count_sources, units_of
    from pipelines.formats.mixture import load_mixture

    current = resources.open_round("dclm", scale)
    placement = resources.launch(current)
    mixture = load_mixture(config)
    counted = count_sources(mixture, map_tasks=current.map_tasks)
    made = swarm.run_swarm(
        current,
        mixture,
        counted,
        units_of(mixture, counted),
        name=config.stem,
        num_runs=proxies,
        seed=seed,
        out=file,
        where_to_train=placement,
    )
    if json:
        show_json(made)
    else:
        out(_swarm_text(made, file))


def _swarm_text(made: Swarm, file: Path) -> str:
    order = sorted(range(len(made.losses)), key=lambda number: made.losses[number])
    rows = [
        (number, *(f"{share:.3f}" for share in made.shares[number]), f"{made.losses[number]:.4f}")
        for number in order[:5]
    ]
    head = table(rows, header=("proxy", *made.names, made.metric))
    return f"{head}\n\nthe best {len(rows)} of {len(made.losses)}; all are in {file}"


@app.command("mix-fit")
def fit_command(
    config: Config,
    runs: Annotated[Path, typer.Option(help="The CSV file that `mix-swarm` wrote, or your own.")],
    file: Annotated[Path, typer.Option("--out", help="The mixture's YAML file to write.")],
    form: Annotated[Form | None, typer.Option(help="Default: what predicts left-out runs.")] = None,
    metric: Annotated[str | None, typer.Option(help="Column to minimize; default: last.")] = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Fit losses of proxy runs to their shares; write the mixture of the least predicted loss."""
    from dclm.curation import swarm
    from pipelines.formats.mix_shares import count_sources, units_of
    from pipelines.formats.mixture import load_mixture

    mixture = load_mixture(config)
    units = units_of(mixture, count_sources(mixture, map_tasks=executor(workers, cluster=cluster)))
    best, made = swarm.fit_swarm(mixture, units, runs, metric=metric, form=form)
    file.write_text(_yaml(best), encoding="utf-8")
    if json:
        show_json(made)
    else:
        out(_fit_text(made, file))


def _yaml(mixture: Mixture) -> str:
    values = mixture.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _fit_text(made: BestMix, file: Path) -> str:
    total = sum(made.tokens)
    rows = [
        (name, f"{tokens:,.0f}", f"{tokens / total:.3f}", f"{share:.3f}", f"{repeat:.2f}")
        for name, tokens, share, repeat in zip(
            made.names, made.tokens, made.shares, made.repeats, strict=True
        )
    ]
    fit = made.fit
    return "\n".join(
        [
            table(rows, header=("source", "tokens", "of all", "share", "repeat")),
            "",
            f"{fit.form} fit of {fit.num_runs} runs; left-out runs are predicted with an error of "
            f"{fit.left_out_error:.4g} (rank correlation {fit.left_out_rank:.2f})",
            f"predicted {made.predicted:.4f}; measured: best {made.best_measured:.4f}, the mixture "
            f"itself {made.first_measured:.4f}",
            f"the mixture is in {file}",
        ]
    )
