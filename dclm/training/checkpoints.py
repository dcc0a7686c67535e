"""Checkpoints of a running training: model, optimizer, step and random state, or nothing.

A checkpoint is a folder `checkpoints/step-00001234` that appears by a rename when all of it is on
disk; the one before is removed after that. It is written concurrently with training (a copy of the
state is taken at once), by every process its own part, and can be read by another number of
processes.
"""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from pipelines.errors import CheckpointError
from pipelines.storage.base import StorageError

STEP = "step-"


class Checkpoints:
    """The checkpoints below one training's folder. `key` is the key of the model being trained."""

    def __init__(self, folder: Path, *, key: str) -> None:
        self.folder = folder
        self.key = key
        self._writing: tuple[int, Future[Any]] | None = None
        # Its own group: the thread that writes must not mix its messages with those of training.
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, None when there is none.

        CheckpointError when it is of another recipe, seed or dataset.
        """
        steps = sorted(int(path.name.removeprefix(STEP)) for path in self.folder.glob(f"{STEP}*"))
        if not steps:
            return None
        path = self._path(steps[-1]) / "training.json"
        try:
            key = orjson.loads(path.read_bytes())["key"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); remove {path.parent} to continue from an "
                "earlier step"
            ) from None
        if key != self.key:
            raise CheckpointError(
                f"{path.parent} is of another training (other recipe, seed or packed data: key "
                f"{key}, this one is {self.key}); choose an empty --out"
            )
        return steps[-1]

    def load(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Put the state of this checkpoint into the model, the optimizer and torch's generator."""
        state = _state(model, optimizer)
        try:
            alone = not dist.is_initialized()
            state_dict_loader.load(state, checkpoint_id=str(self._path(step)), no_dist=alone)
        except (CheckpointException, Exception) as error:
            raise CheckpointError(
                f"{self._path(step)} is damaged ({_cause(error)}); remove it and run the same "
                "command again: it starts from the checkpoint before, or from the beginning"
            ) from error
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
        torch.set_rng_state(state["rng"])

    def save(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Start writing a checkpoint after `step` steps; waits only for the one before."""
        self.finish()
        part = self._part(step)
        if _is_first():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        _barrier()
        alone = not dist.is_initialized()
        writing = state_dict_saver.async_save(
            _state(model, optimizer),
            checkpoint_id=str(part),
            process_group=self._group,
            no_dist=alone,
        )
        assert isinstance(writing, Future)
        self._writing = (step, writing)

    def finish(self) -> None:
        """Wait for the checkpoint being written, make it visible, remove older ones.

        StorageError when it could not be written; the one before is then still there.
        """
        if self._writing is None:
            return
        step, writing = self._writing
        self._writing = None
        try:
            writing.result()
        except (CheckpointException, Exception) as error:
            shutil.rmtree(self._part(step), ignore_errors=True)
            raise StorageError(
                errno.EIO,
                f"cannot write the checkpoint of step {step} below {self.folder} "
                f"({_cause(error)}); free space, then run the same command again: it continues "
                "from the checkpoint before",
            ) from error
        _barrier()
        if _is_first():
            part = self._part(step)
            (part / "training.json").write_bytes(orjson.dumps({"key": self.key, "step": step}))
            part.rename(self._path(step))
            for path in self.folder.iterdir():
                if path != self._path(step):
                    shutil.rmtree(path)
        _barrier()

    def remove(self) -> None:
        """Remove all checkpoints, when the training run is finished."""
        if _is_first():
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_space(self, num_params: int, *, num_kept: int = 0) -> None:
        """StorageError now rather than hours later.

        Two checkpoints of 12 bytes a parameter, and `num_kept` copies of the weights of 4.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = (24 + 4 * num_kept) * num_params, shutil.disk_usage(self.folder).free
        if free < needed:
            raise StorageError(
                errno.ENOSPC,
                f"{self.folder} has {free / 1e9:.1f} GB free, but its checkpoints need "
                f"{needed / 1e9:.1f} GB; free space or choose another --out",
            )

    def _path(self, step: int) -> Path:
        return self.folder / f"{STEP}{step:08d}"

    def _part(self, step: int) -> Path:
        return self.folder / f".part-{step:08d}"


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "rng": torch.get_rng_state(),
    }


def _cause(error: BaseException) -> str:
    """What the first process that failed said; torch's own exception is a page of traces."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__} {error}".strip()


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
