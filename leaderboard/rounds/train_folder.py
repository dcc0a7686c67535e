"""The folder of a training run: claimed by its key, metrics by step, weights written whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pipelines.records import File, RecordError, sha256_file
from pipelines.storage.local import LocalStore

if TYPE_CHECKING:
    from torch import Tensor


def claim(marker: Path, key: str) -> None:
    """Write the key of a training run into its folder. RecordError when another has it."""
    if marker.is_file() and orjson.loads(marker.read_bytes())["key"] != key:
        raise RecordError(
            f"{marker.parent} holds another training run, unfinished; remove it or choose another "
            "--out"
        )
    marker.write_bytes(orjson.dumps({"key": key}))


def metric_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics, in order of steps; of a step that was repeated, the last line."""
    if not path.is_file():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        if line.endswith(b"}"):  # one that was cut off by a kill is written again
            row = orjson.loads(line)
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def write_weights(store: LocalStore, name: str, weights: Mapping[str, Tensor]) -> File:
    """Weights as safetensors, under their name only when they are whole."""
    from safetensors.torch import save_file

    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    save_file(dict(weights), part, metadata={"format": "pt"})
    part.chmod(0o644)  # safetensors creates files that only their owner reads
    os.replace(part, path)
    return file_of(store, name)


def file_of(store: LocalStore, name: str) -> File:
    """A file of the folder as a record names it."""
    path = store.root / name
    return File(name=name, sha256=sha256_file(path), num_bytes=path.stat().st_size)
