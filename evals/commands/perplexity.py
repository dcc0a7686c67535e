"""`evals perplexity`: a language model on documents of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from evals.commands.options import ModelName, ModelOptions
from pipelines.console import Json, out, show_json, table
from pipelines.option_groups import grouped

WINDOW = 2048  # tokens read at once; DCLM's sequence length


app = typer.Typer()


@app.command("perplexity")
@grouped
def perplexity_command(
    *,
    model: ModelName,
    dataset: Annotated[
        str, typer.Argument(help="A dataset of documents, or a folder or prefix of shards.")
    ],
    out_uri: Annotated[str, typer.Option("--out", help="Where the documents' losses go.")],
    window: Annotated[int, typer.Option(min=2, help="Tokens that are read at once.")] = WINDOW,
    options: ModelOptions,
    json: Json = False,
) -> None:
    """Measure bits per byte on documents; run it again to continue where it stopped.

    Shards are spread over workers, GPUs or a cluster; each worker loads the weights once.
    """
    from evals.document_perplexity import measure

    loaded, map_tasks = options.open(model)
    measured = measure(loaded, dataset, out_uri, window=window, map_tasks=map_tasks)
    if json:
        show_json(measured)
        return
    error = "-" if measured.stderr is None else f"{measured.stderr:.4f}"
    rows = [
        ("bits per byte", f"{measured.bits_per_byte:.4f}"),
        ("standard error", error),
        ("perplexity of a token", f"{measured.perplexity:.3f}"),
        ("documents", f"{measured.num_documents:,}"),
        ("without text", f"{measured.num_empty:,}"),
        ("bytes", f"{measured.num_bytes:,}"),
        ("tokens", f"{measured.num_tokens:,}"),
    ]
    out(table(rows, header=("figure", "value")))
