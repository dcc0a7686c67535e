"""Options of the commands that ask a model questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.console import Cluster, Workers

if TYPE_CHECKING:
    from pipelines.execution.executors import MapTasks

ModelName = Annotated[
    str,
    typer.Argument(
        help="A trained model's folder, a Hugging Face model, null:KIND, or BENCHMARK:FOLDER."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded, and the processes, GPUs or machines that ask it."""

    exact: Annotated[
        bool,
        typer.Option("--exact", help="Every option or window whole and alone: slow, the oracle."),
    ] = False
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32"
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the GPU if there is one.")] = None
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens computed at once; default: as memory allows.")
    ] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a hub model brings along.")
    ] = False
    workers: Workers = 1
    cluster: Cluster = None
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs; default: all there are. 0: none.")
    ] = None

    def open(self, model: str) -> tuple[Any, MapTasks]:
        """The model, and the executor that asks it. EvalError for a precision that is unknown."""
        from evals.loading import check_precision, open_model

        check_precision(self.precision)
        return open_model(
            model,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
            precision=self.precision,
            exact=self.exact,
            batch_tokens=self.batch_tokens,
            workers=self.workers,
            cluster=self.cluster,
            gpus=self.gpus,
        )
