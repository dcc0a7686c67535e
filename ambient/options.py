"""Options of stage commands that only this benchmark has."""

from __future__ import annotations

from pydantic import Field

from leaderboard.benchmark import StageOptions


class TrainOptions(StageOptions):
    """Options for the speed of a training run; they do not change its result."""

    max_batch: int | None = Field(
        None, ge=1, description="Images that one GPU holds; the batch is computed in pieces."
    )
