"""Small tables of pairs for the tests of curation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_tables(
    folder: Path, *, tables: int = 3, rows: int = 500, features: int = 8, **changes: Any
) -> Path:
    """Seeded tables with features; `changes` replaces columns of the first one."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(tables):
        uids = [f"{a:016x}{b:016x}" for a, b in rng.integers(0, 1 << 62, (rows, 2)).tolist()]
        uids[1] = uids[0]
        columns: dict[str, Any] = {
            "uid": uids,
            "text": [f"a photo of thing {n}" for n in range(rows)],
            "original_width": rng.integers(50, 900, rows),
            "original_height": rng.integers(50, 900, rows),
            "clip_l14_similarity_score": rng.random(rows),
        }
        if number == 0:
            columns |= changes
        pq.write_table(pa.table(columns), folder / f"{number:02d}.parquet")
        arrays = rng.standard_normal((rows, features)).astype(np.float16)
        np.savez(folder / f"{number:02d}.npz", l14_img=arrays)
    return folder


def uids_of(folder: Path) -> list[str]:
    tables = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
    return sorted(uid for table in tables for uid in table["uid"].to_pylist())


def write_captions(folder: Path, tables: list[list[str]], **columns: list[Any]) -> Path:
    """Tables of pairs with these captions; the uid of row n of table t is t and n in hex."""
    folder.mkdir()
    for number, captions in enumerate(tables):
        rows = range(len(captions))
        table = {
            "uid": [f"{number:016x}{row:016x}" for row in rows],
            "url": [f"http://images.example/{number}/{row}" for row in rows],
            "text": captions,
            **{name: values[number] for name, values in columns.items()},
        }
        pq.write_table(pa.table(table), folder / f"{number:02d}.parquet")
    return folder


def kept(out: Path) -> list[tuple[int, int]]:
    """Table and row of the pairs in a list of `write_captions`."""
    subset = np.load(out / "subset.npy")
    return [(int(high), int(low)) for high, low in subset.tolist()]
