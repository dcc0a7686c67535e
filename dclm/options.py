"""Options of stage commands that only this benchmark has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leaderboard.benchmark import StageOptions


class PackOptions(StageOptions):
    """How sequences are stored."""

    layout: Literal["npy", "open_lm"] = Field(
        "npy", description="Arrays, or the tars that open_lm reads."
    )
    mode: Literal["lossless", "reference"] = Field(
        "lossless",
        description="`reference` packs as DCLM's tokshuf does; it cannot be submitted.",
    )


class TrainOptions(StageOptions):
    """What a training run logs to, and what does not stop it."""

    wandb: str | None = Field(None, description="Project of Weights & Biases.")
    pass_spikes: bool = Field(
        False, description="Continue past jumps of the loss; the record counts them."
    )
