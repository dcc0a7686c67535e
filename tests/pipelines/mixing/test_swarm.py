"""Proxy mixtures: within their bounds, the first the prior, and read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.mixing.swarm import draw, read_runs, write_runs

PRIOR = np.array([0.7, 0.2, 0.1])
MOST = np.array([1.0, 0.5, 0.15])


def test_all_mixtures_keep_to_the_bounds_and_the_first_is_the_prior() -> None:
    shares = draw(PRIOR, MOST, 40, seed=1)
    assert shares[0].tolist() == pytest.approx(PRIOR)
    assert np.allclose(shares.sum(axis=1), 1)
    assert (shares <= MOST + 1e-9).all()
    assert shares[:, 0].min() < 0.45  # far from the prior, too
    assert np.array_equal(shares, draw(PRIOR, MOST, 40, seed=1))
    assert not np.array_equal(shares, draw(PRIOR, MOST, 40, seed=2))


def test_a_file_of_runs_is_read_as_it_was_written(tmp_path: Path) -> None:
    shares = draw(PRIOR, MOST, 3, seed=1)
    losses = np.array([3.1, 3.0, 2.9])
    write_runs(tmp_path / "r.csv", ["a", "b/x, y", "c"], shares, "loss", losses)
    runs = read_runs(tmp_path / "r.csv", ["a", "b/x, y", "c"], None)
    assert np.allclose(runs.shares, shares, atol=1e-8)
    assert runs.losses.tolist() == losses.tolist()
    with pytest.raises(DataError, match="no column 'd'"):
        read_runs(tmp_path / "r.csv", ["a", "d"], None)


def test_a_loss_that_is_no_number_is_named(tmp_path: Path) -> None:
    write_runs(tmp_path / "r.csv", ["a"], np.ones((1, 1)), "loss", np.array([np.nan]))
    with pytest.raises(DataError, match="loss holds a value that is no number"):
        read_runs(tmp_path / "r.csv", ["a"], None)
