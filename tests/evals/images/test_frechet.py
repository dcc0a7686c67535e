"""Frechet distance and nearest neighbours by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evals.images.frechet import frechet, mlp_features, moments, nearest


def test_distance_of_two_gaussians_by_hand() -> None:
    """Diagonal covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    first = (np.array([0.0, 0.0]), np.diag([4.0, 1.0]))
    second = (np.array([3.0, 4.0]), np.diag([1.0, 9.0]))
    assert frechet(first, second) == pytest.approx(25 + 1 + 4)
    assert frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_moments_are_those_of_numpy() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3))
    mean, covariance = moments(rows)
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(covariance, np.cov(rows.T))


def test_features_are_the_last_hidden_layer() -> None:
    layers = {"weight0": np.array([[1.0], [-1.0]]), "bias0": np.array([0.5])}
    rows = np.array([[1.0, 0.0], [0.0, 3.0]]).reshape(2, 1, 1, 2)
    np.testing.assert_allclose(mlp_features(layers, rows), [[1.5], [0.0]])


def test_nearest_over_blocks_and_without_the_image_itself() -> None:
    rows = np.array([[0.0], [1.0], [5.0]])
    blocks = [np.array([[4.0]]), np.array([[0.5], [9.0]])]
    np.testing.assert_allclose(nearest(rows, blocks), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(nearest(rows, [rows], skip_self=True), [1.0, 1.0, 4.0])
