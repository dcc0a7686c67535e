"""Shares by temperature and under bounds."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.mixing.shares import by_temperature, capped, most_shares, on_capped_simplex


def test_temperature_moves_shares_from_their_sizes_to_equal_ones() -> None:
    tokens = np.array([16.0, 4.0, 0.0])
    assert by_temperature(tokens, 1).tolist() == pytest.approx([0.8, 0.2, 0])
    assert by_temperature(tokens, 2).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert by_temperature(tokens, 1e9).tolist() == pytest.approx([0.5, 0.5, 0])


def test_the_excess_of_a_capped_source_goes_to_the_others_in_proportion() -> None:
    most = most_shares(np.array([10.0, 100.0, 100.0]), 100, 2)
    assert most.tolist() == [0.2, 1, 1]
    assert capped(np.array([0.6, 0.3, 0.1]), most).tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_a_source_that_passes_its_bound_only_later_is_capped_too() -> None:
    out = capped(np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.5, 1]))
    assert out.tolist() == pytest.approx([0.2, 0.5, 0.3])


def test_too_few_tokens_are_an_error() -> None:
    with pytest.raises(DataError, match="give 50% of the tokens"):
        capped(np.array([0.5, 0.5, 0]), np.array([0.2, 0.3, 1]))


def test_the_nearest_shares_within_bounds() -> None:
    most = np.array([1.0, 0.25, 1.0])
    assert on_capped_simplex(np.array([0.2, 0.2, 0.6]), most).tolist() == pytest.approx(
        [0.2, 0.2, 0.6]
    )
    # what is above its bound is cut, and the rest is moved by the same amount
    assert on_capped_simplex(np.array([0.2, 0.6, 0.2]), most).tolist() == pytest.approx(
        [0.375, 0.25, 0.375]
    )
