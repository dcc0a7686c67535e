"""Logs of a training run: metrics.jsonl, TensorBoard files and a plot of the loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from pipelines.records import Frozen

log = logging.getLogger(__name__)


class Step(Frozen):
    """One row of metrics.jsonl. `tokens_per_second` is over all devices, since the row before."""

    step: int
    loss: float
    cross_entropy: float
    grad_norm: float
    learning_rate: float
    tokens_per_second: float


class Metrics:
    """Rows of `metrics.jsonl` in a folder, cut back to `first_step` when a training run continues.

    `wandb` is a project of Weights & Biases; `run_id` names the training run there.
    """

    def __init__(
        self, folder: Path, *, first_step: int, run_id: str, wandb: str | None = None
    ) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row.step < first_step]
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(_line(row) for row in kept))
        part.replace(self.path)
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close
        self._board = _tensorboard(folder / "tensorboard", first_step)
        self._wandb = _wandb(wandb, folder, run_id)

    def write(self, rows: Sequence[Step]) -> None:
        self._file.write(b"".join(_line(row) for row in rows))
        self._file.flush()
        for row in rows:
            values = row.model_dump(exclude={"step"})
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, row.step)
            if self._wandb is not None:
                self._wandb.log(values, step=row.step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path) -> list[Step]:
    """All whole rows; a last line that a killed process cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [Step.model_validate(orjson.loads(line)) for line in lines]


def _line(row: Step) -> bytes:
    return orjson.dumps(row.model_dump()) + b"\n"


def _tensorboard(folder: Path, first_step: int) -> Any:
    """A writer of TensorBoard files, None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step)


def _wandb(project: str | None, folder: Path, run_id: str) -> Any:
    if project is None:
        return None
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(
            "wandb is not installed; run pip install wandb, or leave out --wandb"
        ) from None
    return wandb.init(project=project, dir=str(folder), id=run_id, name=folder.name, resume="allow")


def draw_loss(rows: Sequence[Step], *, tokens_per_step: int, title: str, path: Path) -> None:
    """A PNG of cross-entropy over tokens, every step and a running mean over 2% of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tokens = [(row.step + 1) * tokens_per_step for row in rows]
    losses = [row.cross_entropy for row in rows]
    window = max(1, len(rows) // 50)
    smooth = [
        sum(losses[max(0, end - window) : end]) / min(window, end)
        for end in range(1, len(losses) + 1)
    ]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(tokens, losses, linewidth=0.5, alpha=0.4, label="each step")
    axes.plot(tokens, smooth, linewidth=1.5, label=f"mean of {window} steps")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("cross-entropy (nats per token)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_suffix(".part")
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
    part.replace(path)
