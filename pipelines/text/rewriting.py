"""Texts written anew only where they change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.schema import STRING


def rewritten(
    texts: pa.Array, rows: npt.NDArray[np.bool_], function: Callable[[str], str | None]
) -> pa.Array:
    """The texts with `function` applied to these rows; the same array when that changes none."""
    places = np.flatnonzero(rows)
    if not len(places):
        return texts
    before = texts.take(pa.array(places)).to_pylist()
    after = [function(text) for text in before]
    changed = np.array([a != b for a, b in zip(before, after, strict=True)], dtype=bool)
    if not changed.any():
        return texts
    mask = np.zeros(len(texts), dtype=bool)
    mask[places[changed]] = True
    new = pa.array([text for text, c in zip(after, changed, strict=True) if c], type=STRING)
    return pc.replace_with_mask(texts, pa.array(mask), new)


def nulled(texts: pa.Array, rows: npt.NDArray[np.bool_]) -> pa.Array:
    """The texts with null in these rows; the same array when there are none."""
    if not rows.any():
        return texts
    return pc.if_else(pa.array(rows), pa.scalar(None, STRING), texts)
