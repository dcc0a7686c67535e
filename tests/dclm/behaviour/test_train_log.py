"""TensorBoard files hold what metrics.jsonl holds, also after a training run was continued."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dclm.training.train import train
from leaderboard.rounds.train_log import read_metrics


class StoppedError(RuntimeError):
    pass


def test_tensorboard_files_hold_every_step_once(packed_words, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe, packed = packed_words

    def stop(done: int, total: int, loss: float, speed: float) -> None:
        if done == 23:
            raise StoppedError

    named = {"recipe": recipe, "seed": 0, "out": str(tmp_path), "checkpoint_every": 10}
    with pytest.raises(StoppedError):
        train(str(packed), progress=stop, **named)
    train(str(packed), **named)  # resumes from step 20: steps 20 to 22 are written again
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = reader.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.step for row in rows] == list(range(40))
    names = {"loss", "cross_entropy", "grad_norm", "learning_rate", "tokens_per_second"}
    assert set(board.Tags()["scalars"]) == names
    for name in ("loss", "learning_rate"):
        actual = {event.step: event.value for event in board.Scalars(name)}
        assert len(board.Scalars(name)) == 40
        assert actual == pytest.approx({row.step: getattr(row, name) for row in rows}, rel=1e-6)
