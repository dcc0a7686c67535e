"""Options of stage commands that only this benchmark has."""

from __future__ import annotations

from pydantic import Field

from leaderboard.benchmark import StageOptions


class PackOptions(StageOptions):
    """Where the images are."""

    tars: str | None = Field(None, description="The pool's tars; default: the pool's own.")


class TrainOptions(StageOptions):
    """How fast a training run goes; what it trains stays the same."""

    max_batch: int | None = Field(
        None, ge=1, description="Samples that one GPU holds; the batch is computed in parts."
    )
    loader_workers: int | None = Field(
        None, ge=0, description="Loader processes of one GPU; default: the recipe's."
    )
    compile: bool | None = Field(
        None, description="Run the model through torch.compile; default: on GPUs."
    )
