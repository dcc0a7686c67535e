"""Stop a training run at a step, as a crash would."""

from __future__ import annotations


class StoppedError(RuntimeError):
    pass


def stop_at(step: int):
    def progress(done: int, total: int, loss: float, speed: float) -> None:
        if done == step:
            raise StoppedError

    return progress
