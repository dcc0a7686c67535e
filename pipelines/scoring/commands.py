"""Commands that train classifiers and keep scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.console import (
    AssetFolders,
    Cluster,
    Json,
    MaxFailedShards,
    Overwrite,
    Workers,
    out,
    show_json,
    table,
)

if TYPE_CHECKING:
    from pipelines.pipeline import Pipeline
    from pipelines.records import AssetRecord
    from pipelines.scoring.evaluation import Evaluation
    from pipelines.scoring.train import LabelledAuc

Labels = Annotated[
    list[Path] | None,
    typer.Option(help='Labelled documents {"text", "label"} (JSON lines) to test it on.'),
]


def train_classifier(
    positives: Annotated[
        list[str],
        typer.Option(help="Good documents: a folder, prefix or file; URI or NAME=URI; repeatable."),
    ],
    negatives: Annotated[list[str], typer.Option(help="Other documents, as a pool's; likewise.")],
    model: Annotated[Path, typer.Option("--out", help="The model's file, as assets/mine.bin.")],
    documents: Annotated[
        int, typer.Option(min=2, help="Most documents of each label, sampled by hash.")
    ] = 200_000,
    balance: Annotated[
        Literal["equal", "as_is"], typer.Option(help="As many of both labels, or all there are.")
    ] = "equal",
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the documents kept for testing.")
    ] = 0.1,
    qualify_positives: Annotated[
        Path | None, typer.Option(help="A pipeline that positives must pass before the sample.")
    ] = None,
    qualify_negatives: Annotated[
        Path | None, typer.Option(help="The same of negatives, as English only.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="The field that is the text; it replaces a field `text`.")
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="Size of the word vectors.")] = 100,
    word_ngrams: Annotated[int, typer.Option(min=1, help="Longest run of words.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the documents.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="At the start; it falls to 0.")] = 0.1,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer words are left out.")] = 1,
    buckets: Annotated[int, typer.Option(min=1, help="Hash buckets of runs.")] = 2_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples and of fastText.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="More than one cannot be repeated byte for byte.")
    ] = 1,
    licence: Annotated[
        str, typer.Option(help="The model's licence, for its record.")
    ] = "derived from the documents it was trained on",
    labels: Labels = None,
    assets: AssetFolders = None,
    work: Annotated[
        str | None, typer.Option(help="Where samples are drawn; default: beside the model.")
    ] = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Train a fastText quality classifier from documents of any size; an asset with a record.

    The defaults are DCLM's.
    """
    from pipelines.execution.choose import executor
    from pipelines.scoring.samples import Documents, open_sources
    from pipelines.scoring.train import TrainingOptions, labelled_auc, read_labels, train
    from pipelines.text.quality import ClassifierRecipe

    labelled = [read_labels(path) for path in labels or []]  # before anything is spent
    recipe = ClassifierRecipe(
        dim=dim,
        word_ngrams=word_ngrams,
        epochs=epochs,
        learning_rate=learning_rate,
        min_count=min_count,
        buckets=buckets,
        seed=seed,
    )
    record = train(
        Documents(
            open_sources(positives, what="--positives"),
            take=documents,
            qualify=_qualify(qualify_positives, text_field, assets),
        ),
        Documents(
            open_sources(negatives, what="--negatives"),
            take=documents,
            qualify=_qualify(qualify_negatives, text_field, assets),
        ),
        out=model,
        options=TrainingOptions(
            recipe=recipe, balance=balance, held_out=held_out, seed=seed, threads=threads
        ),
        map_tasks=executor(workers, cluster=cluster),
        work=work,
        licence=licence,
    )
    tested = [labelled_auc(documents, model=model) for documents in labelled]
    show_classifier(record, tested, json=json)


def score(
    config: Annotated[Path, typer.Argument(help="A pipeline's YAML file: steps that add columns.")],
    input: Annotated[str, typer.Option(help="Pool: a folder or s3:// prefix of shards.")],
    out_uri: Annotated[str, typer.Option("--out", help="Where the folder of scores goes.")],
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Keep this column; default: all new ones.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="The field that is the text; it replaces a field `text`.")
    ] = None,
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set bad rows aside instead of stopping.")
    ] = False,
    max_failed_shards: MaxFailedShards = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compute columns of a pool's documents once; pipelines read them from the folder."""
    from pipelines.execution.choose import executor
    from pipelines.formats.pool import open_pool
    from pipelines.scoring.columns import score as score_pool

    result = score_pool(
        _qualify(config, text_field, assets),
        open_pool(input),
        out=out_uri,
        columns=columns,
        map_tasks=executor(workers, cluster=cluster),
        quarantine=quarantine,
        max_failed_shards=max_failed_shards,
        overwrite=overwrite,
    )
    if json:
        show_json(result.record)
        return
    counts = result.record.counts
    num_bytes = sum(file.num_bytes for file in result.record.outputs)
    out(
        f"scores {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} rows, "
        f"{num_bytes:,} bytes, in {out_uri}"
    )


def _qualify(config: Path | None, text_field: str | None, folders: list[str] | None) -> Pipeline:
    """The steps that documents must pass, behind one that makes another field the text."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.pipeline import Pipeline

    files = asset_files(folders)
    pipeline = Pipeline("all", (), assets=files)
    if config is not None:
        pipeline = Pipeline.load(config, assets=files)
    return pipeline if text_field is None else pipeline.with_text_from(text_field)


def show_classifier(record: AssetRecord, tested: list[LabelledAuc], *, json: bool) -> None:
    """Print what was trained on what, and how it does on documents it has not seen."""
    from pipelines.scoring.train import MIN_TESTED, evaluation_of

    if json:
        show_json({"record": record, "auc": tested})
        return
    out(
        f"{record.work.name}: {record.counts['positives']:,} positives, "
        f"{record.counts['negatives']:,} negatives (asset {record.id[:8]})"
    )
    evaluation = evaluation_of(record)
    if evaluation is not None:
        out("\n" + evaluation_text(evaluation))
    else:
        out(f"not tested: fewer than {MIN_TESTED} documents of a label were held out")
    if tested:
        rows = [
            (classifier.name, classifier.num_documents, classifier.classifier, classifier.length)
            for classifier in tested
        ]
        header = ("labels", "documents", "AUC", "AUC of length alone")
        out(("\n" if evaluation is not None else "") + table(rows, header=header))


def evaluation_text(evaluation: Evaluation) -> str:
    """An evaluation as tables: calibration with a histogram per source, and what cuts keep."""
    names = list(evaluation.histograms)
    width = 1 / len(evaluation.calibration)
    bins = [
        (
            f"{row.low:.1f} to {row.low + width:.1f}",
            row.mean_score,
            row.positive_fraction,
            *(evaluation.histograms[name][number] for name in names),
        )
        for number, row in enumerate(evaluation.calibration)
    ]
    cuts = [(f"{c.negatives_kept:.0%}", c.threshold, c.positives_kept) for c in evaluation.cuts]
    header = ("negatives kept", "threshold", "positives kept")
    length = ""
    if evaluation.auc_of_length is not None:
        length = f" (of length alone {evaluation.auc_of_length:.4f})"
    return (
        f"held out: {evaluation.positives:,} positives, {evaluation.negatives:,} negatives; "
        f"AUC {evaluation.auc:.4f}{length}, "
        f"calibration error {evaluation.calibration_error:.4f}\n\n"
        + table(bins, header=("score", "mean", "positive", *names))
        + "\n\n"
        + table(cuts, header=header)
    )
