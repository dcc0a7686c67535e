"""`evals perplexity`: a language model on documents of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from evals.document_perplexity import measure
from evals.loading import check_precision, open_model
from pipelines.console import Json, Workers, out, show_json, table

WINDOW = 2048  # tokens read at once; DCLM's sequence length


def perplexity_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A trained model's folder, a Hugging Face model, null:KIND, or BENCHMARK:FOLDER."
        ),
    ],
    dataset: Annotated[
        str, typer.Argument(help="A dataset of documents, or a folder or prefix of shards.")
    ],
    out_uri: Annotated[str, typer.Option("--out", help="Where the documents' losses go.")],
    window: Annotated[int, typer.Option(min=2, help="Tokens that are read at once.")] = WINDOW,
    exact: Annotated[
        bool, typer.Option("--exact", help="Every window alone: slow, the oracle.")
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; the GPU if there is one.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens computed at once; default: as memory allows.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a hub model brings along.")
    ] = False,
    workers: Workers = 1,
    cluster: Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs; default: all there are. 0: none.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure bits per byte on documents; run it again to continue where it stopped.

    Shards are spread over workers, GPUs or a cluster; each worker loads the weights once.
    """
    check_precision(precision)
    loaded, map_tasks = open_model(
        model,
        trust_remote_code=trust_remote_code,
        device=device,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
        workers=workers,
        cluster=cluster,
        gpus=gpus,
    )
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
