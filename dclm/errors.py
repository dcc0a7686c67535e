"""The errors of this benchmark that a person can act on, apart from what torch needs to load."""

from __future__ import annotations


class PoolError(ValueError):
    """A pool that cannot be had; the message says what to do."""


class PlanError(ValueError):
    """A training that cannot work as asked."""


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this training or cannot be read."""


class TrainingError(RuntimeError):
    """The training cannot go on: loss not finite, or a spike. The message names step and data."""


class Interrupted(RuntimeError):
    """SIGTERM came; a checkpoint was written and the same command continues from it."""
