"""Scores from the features in a pool's tables, by a small trained network (a head)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.image_text.clusters import features_of
from pipelines.operators import AssetFolder, Modifier

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A ReLU network over the concatenated features of a pair, each scaled to length 1.

    `weights` have shapes (outputs, inputs), `biases` (outputs,); the last layer has one output.
    """

    features: tuple[str, ...]
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def scores(self, inputs: Floats) -> npt.NDArray[np.float64]:
        """The probability of the positive label, (rows,), from the result of `joined`.

        In 64 bits and rounded to nine decimals, because the order in which BLAS sums depends on the
        number of rows.
        """
        values = inputs.astype(np.float64)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (np.maximum(values, 0) if number else values) @ weight.T.astype(np.float64)
            values += bias
        return np.round(1 / (1 + np.exp(-np.clip(values[:, 0], -700, 700))), 9)


class FeatureScore(Modifier, name="feature_score"):
    """Add the probability that a pair is good, by a head over the pool's features.

    `datacomp train-head` trains one. A pair with NaN or infinity in its features gets null.
    """

    model: str = Field(description="asset: a head written by `train-head`")
    features: tuple[str, ...] = Field(
        ("l14_img", "l14_txt"), min_length=1, description="the features that it was trained on"
    )
    column: str = Field("score", description="column to write")
    _head: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return self.features

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model,)

    def load(self, assets: AssetFolder) -> None:
        self._head = read_head(assets.path(self.model))
        if self._head.features != self.features:
            raise ValueError(
                f"{self.model} was trained on {', '.join(self._head.features)}; "
                f"this step reads {', '.join(self.features)}: set its `features`"
            )

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        inputs = joined([features_of(batch.column(name), name) for name in self.features])
        dim = self._head.weights[0].shape[1]
        if inputs.shape[1] != dim and len(inputs):
            raise ValueError(
                f"{self.model} reads {dim} numbers per pair; the features have {inputs.shape[1]}"
            )
        good = np.isfinite(inputs).all(axis=1)
        scores = np.zeros(len(inputs))
        if good.any():
            scores[good] = self._head.scores(inputs[good])
        return {self.column: pa.array(scores, mask=~good)}


def joined(features: Sequence[Floats]) -> Floats:
    """Features of the same pairs, each scaled to length 1, concatenated: (rows, sum of dims).

    A row of zeros stays zero.
    """
    parts = []
    for part in features:
        length = np.linalg.norm(part, axis=1, keepdims=True)
        parts.append(part / np.where(length > 0, length, 1))
    return np.concatenate(parts, axis=1)


def head_bytes(head: Head) -> bytes:
    """The head as the bytes of an .npz file."""
    file = io.BytesIO()
    layers = {
        f"{name}{number}": array
        for name, arrays in (("weight", head.weights), ("bias", head.biases))
        for number, array in enumerate(arrays)
    }
    arrays: dict[str, Any] = {"features": np.array(head.features), **layers}
    np.savez(file, **arrays)
    return file.getvalue()


def read_head(path: Path) -> Head:
    """The head in a file. ValueError for another file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = sum(name.startswith("weight") for name in arrays.files)
            head = Head(
                tuple(arrays["features"].tolist()),
                tuple(arrays[f"weight{n}"] for n in range(count)),
                tuple(arrays[f"bias{n}"] for n in range(count)),
            )
    except (ValueError, KeyError, EOFError, OSError, TypeError) as error:
        raise ValueError(f"{path} is not a head written by `train-head`: {error}") from None
    if not head.weights or head.weights[-1].shape[0] != 1:
        raise ValueError(
            f"{path} is not a head written by `train-head`: its last layer must have one output"
        )
    return head
