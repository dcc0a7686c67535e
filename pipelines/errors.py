"""The exception tree: every error that a person can act on, with the exit code of a command.

    PlatformError
    ├── UsageError (exit code 2)      the request cannot be met as asked; change the request
    │   ├── PipelineError
    │   ├── AssetError                  pipelines.assets.catalogue
    │   ├── PoolError, PackError, PlanError, BatchError
    │   ├── EvalError                   evals.tasks
    │   └── UnknownName                 (also a RuleError)
    ├── DataError (exit code 3)       data or a record is not what it should be; change the data
    │   ├── ShardError                  pipelines.formats.shards
    │   │   └── TarError                pipelines.formats.tars
    │   ├── RecordError                 pipelines.records
    │   ├── SubsetError, CheckpointError
    │   ├── StoreError                  leaderboard.database.connection
    │   └── RuleError
    │       ├── BundleError             leaderboard.submissions.faults
    │       └── ServiceError            leaderboard.rounds.client
    └── FailedError (exit code 1)     the work was sound and did not end; what is finished is kept
        ├── OperatorFailed              pipelines.engine.row_steps
        ├── RunFailed                   pipelines.engine.run_folder
        ├── ShardsFailed                pipelines.execution.monitor
        ├── WorkerLost                  pipelines.execution.executors
        ├── StorageError                pipelines.storage.base (also an OSError)
        ├── DeterminismError            pipelines.storage.base
        ├── TokenizerError              pipelines.text.bpe
        ├── ModelError                  evals.models
        └── TrainingError, Interrupted

Usage and data errors are ValueErrors as well, failures are RuntimeErrors: a caller who knows only
Python's own classes can handle them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import ClassVar

FAILED, USAGE, BAD_DATA = 1, 2, 3


class PlatformError(Exception):
    """The root: an error whose text is for a person. `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = FAILED


class UsageError(PlatformError, ValueError):
    """A request that cannot be met as asked; the message says what to ask instead."""

    exit_code = USAGE


class PipelineError(UsageError):
    """A pipeline that cannot be built; the message names the step and what to do."""


class DataError(PlatformError, ValueError):
    """Data that is missing, malformed or not what it claims to be; the message says which."""

    exit_code = BAD_DATA


class FailedError(PlatformError, RuntimeError):
    """Work that stopped before its end; what was finished is kept."""

    exit_code = FAILED


class PoolError(UsageError):
    """A pool that cannot be fetched, built or opened; the message says what to do."""


class PackError(UsageError):
    """A dataset that cannot be packed as asked; the message says what to change."""


class PlanError(UsageError):
    """A training run that cannot work as asked."""


class BatchError(UsageError):
    """The recipe's batch size does not divide over this many GPUs."""


class SubsetError(DataError):
    """A file that is not a list of uids, or not a sorted one."""


class CheckpointError(DataError):
    """A checkpoint that does not belong to this training run or cannot be read."""


class RuleError(DataError):
    """A broken rule: the message says which, what was found and what was expected."""


class UnknownName(RuleError, UsageError):
    """A benchmark, scale or track that the rules do not know."""

    exit_code = USAGE


class TrainingError(FailedError):
    """A training run that cannot start or continue; the message names the step and the data."""


class Interrupted(FailedError):
    """SIGTERM arrived; a checkpoint was written and the same command resumes from it."""


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
