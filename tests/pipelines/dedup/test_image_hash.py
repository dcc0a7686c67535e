"""Near images by their hashes: against a search over all pairs, at the border, without a hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline


def left(folder: Path, hashes: list[float | None], max_distance: int) -> list[int]:
    """Which rows stay."""
    (folder / "in").mkdir()
    texts = [f"caption {n}" for n in range(len(hashes))]
    table = pa.table(
        {"text": texts, "phash": pa.array(hashes, pa.float64()), "n": [*range(len(texts))]}
    )
    pq.write_table(table, folder / "in" / "0.parquet")
    steps = [{"image_hash_dedup": {"max_distance": max_distance}}]
    run(Pipeline.from_steps(steps), open_pool(str(folder / "in")), out=str(folder / "out"))
    [file] = (folder / "out" / "data").iterdir()
    return pq.read_table(file)["n"].to_pylist()


def flipped(hash_: int, *bits: int) -> float:
    for bit in bits:
        hash_ ^= 1 << bit
    return float(hash_)


def test_at_the_distance_they_are_one_and_beyond_it_two(tmp_path: Path) -> None:
    base = 0x123456789ABC
    hashes = [float(base), flipped(base, 0, 20, 47), flipped(base, 1, 2, 3, 40), None, None]
    assert left(tmp_path, hashes, 3) == [0, 2, 3, 4]


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    """200 images, each with a copy of up to 3 bits apart: recall and precision of 1."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 1 << 48, 200).tolist()
    copies = [
        flipped(image, *rng.choice(48, rng.integers(0, 4), replace=False).tolist())
        for image in images
    ]
    assert left(tmp_path, [*map(float, images), *copies], 3) == list(range(200))


def test_what_is_no_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="holds no hashes of 48 bits"):
        left(tmp_path, [0.25, 0.5], 3)
