"""A packed dataset, made once for all tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """A helper next to the tests; there are no packages below tests/ to import it from."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load("data_sets")


@pytest.fixture(scope="session")
def packed_words(tmp_path_factory: pytest.TempPathFactory):
    """Recipe and folder of 1,000 packed documents; read them, do not change them."""
    import data_sets

    from dclm.packing.pack import pack
    from pipelines.execution.executors import map_here

    folder = tmp_path_factory.mktemp("words")
    recipe = data_sets.recipe(folder)
    dataset = data_sets.dataset(folder / "dataset", data_sets.sentences(1000, seed=2))
    pack(dataset, recipe=recipe, out=str(folder / "packed"), map_tasks=map_here)
    return recipe, folder / "packed"
