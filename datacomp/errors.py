"""The errors of this benchmark that a person can act on, apart from what torch needs to load."""

from __future__ import annotations


class PoolError(ValueError):
    """A pool that cannot be had; the message says what to do."""


class SubsetError(ValueError):
    """A file that is no list of uids, or not a sorted one."""


class PackError(ValueError):
    """A packing that cannot be done; the message says what to change."""


class BatchError(ValueError):
    """GPUs among which the batch of a recipe cannot be dealt out."""


class PlanError(ValueError):
    """A training that cannot work as asked."""


class TrainError(RuntimeError):
    """A training that cannot start or did not end; the message says what to do."""
