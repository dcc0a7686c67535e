"""Commands that only DCLM has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands import Json, out, show_json, table
from pipelines.executors import executor
from pipelines.operators import PipelineError

app = typer.Typer()


@app.command("train-quality")
def train_quality(
    scale: Annotated[str, typer.Option(help="The scale whose pool and positives are used.")],
    workspace: Annotated[str, typer.Option(help="Folder of pools and assets.")] = "runs",
    labels: Annotated[
        list[Path] | None,
        typer.Option(help='Labelled documents {"text", "label"} (JSON lines) to test it on.'),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    json: Json = False,
) -> None:
    """Train the quality classifier of the tiny scale; the result is an asset with a record."""
    from dclm import quality

    if scale != "tiny":
        raise PipelineError(
            f"--scale {scale}: a classifier is trained here for the tiny scale only; at larger "
            "scales bring a model file with --assets"
        )
    record = quality.train_quality(workspace=workspace, map_tasks=executor(workers))
    tested = [quality.labelled_auc(path, workspace=workspace) for path in labels or []]
    if json:
        show_json({"record": record, "auc": tested})
        return
    out(
        f"{record.work.name}: {record.counts['positives']:,} positives, "
        f"{record.counts['negatives']:,} negatives (asset {record.id[:8]})"
    )
    if tested:
        rows = [(one.name, one.num_documents, one.classifier, one.length) for one in tested]
        out(table(rows, header=("labels", "documents", "AUC", "AUC of length alone")))
