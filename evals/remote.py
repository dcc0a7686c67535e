"""A model whose weights only the workers have.

The driver of an evaluation needs a model's id, settings and longest input; only workers need the
weights. The driver has a `RemoteModel`: unpickled in a worker it becomes the model itself, loaded
there once for any number of chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.execution.executors import MapTasks, Needs, Placed, room_for
from pipelines.storage.open import open_store

Load = Callable[..., Any]
WEIGHTS = (".safetensors", ".pt", ".bin")


class RemoteModel:
    """The id, settings and limits of a model; unpickling it in a worker loads the model."""

    def __init__(self, load: Load, arguments: tuple[Any, ...], known: dict[str, Any]) -> None:
        self._load, self._arguments = load, arguments
        self.__dict__.update(known)

    def __reduce__(self) -> Any:
        return _loaded, (self._load, self._arguments)


def remote_model(load: Load, arguments: tuple[Any, ...], *, map_tasks: Any) -> Any:
    """The model that `load(*arguments)` gives in a worker; `load` is a module-level function."""
    return RemoteModel(load, arguments, map_tasks(_describe, [(load, arguments)])[0])


def _describe(item: tuple[Load, tuple[Any, ...]]) -> dict[str, Any]:
    model = _loaded(*item)
    known = {"id": model.id, "settings": model.settings}
    for name in ("max_length", "vocab_size", "document_start"):
        if hasattr(model, name):
            known[name] = getattr(model, name)
    return known


def with_room(map_tasks: MapTasks, *models: str) -> MapTasks:
    """The executor for tasks that load one of these models, by name on the command line.

    A cluster is asked for twice the size of the largest one's weights: as they are read, and as the
    model holds them.
    """
    if not isinstance(map_tasks, Placed):
        return map_tasks  # before weights are looked at, maybe in a bucket
    room = room_for(2 * max(map(weights_bytes, models), default=0))
    return map_tasks.with_needs(Needs(memory_bytes=room)) if room else map_tasks


def weights_bytes(model: str) -> int:
    """The size of the weights in a model's folder, or in its file; 0 for a name of the hub.

    `BENCHMARK:FOLDER` is such a folder. Weights on the way, in folders below, are not counted: one
    of them is loaded in place of the final ones.
    """
    if "://" in model:
        sizes = [(entry.name, entry.num_bytes) for entry in open_store(model).list()]
    else:
        path = next((p for p in map(Path, (model, model.partition(":")[2])) if p.exists()), None)
        if path is None or not path.name:
            return 0
        files = [path] if path.is_file() else list(path.iterdir())
        sizes = [(file.name, file.stat().st_size) for file in files if file.is_file()]
    return sum(size for name, size in sizes if "/" not in name and name.endswith(WEIGHTS))


@lru_cache(maxsize=1)
def _loaded(load: Load, arguments: tuple[Any, ...]) -> Any:
    return load(*arguments)
