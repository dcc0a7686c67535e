"""A model whose weights only the workers have.

The driver of an evaluation needs a model's id, settings and longest input; only workers need the
weights. The driver has a `RemoteModel`: unpickled in a worker it becomes the model itself, loaded
there once for any number of chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

Load = Callable[..., Any]


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


@lru_cache(maxsize=1)
def _loaded(load: Load, arguments: tuple[Any, ...]) -> Any:
    return load(*arguments)
