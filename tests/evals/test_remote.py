"""A model that only workers load: what the driver knows of it, and how often it is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from evals import loading
from evals.remote import remote_model, weights_bytes, with_room
from pipelines.errors import PlanError
from pipelines.execution.executors import TASK_BYTES, Needs, ProcessMap
from pipelines.execution.gpus import Gpu, GpuMap


def load(folder: str, name: str) -> SimpleNamespace:
    """A model that leaves a file for each time it is loaded."""
    (Path(folder) / f"{os.getpid()}-{len(os.listdir(folder))}").touch()
    return SimpleNamespace(id=name, settings={"precision": "bf16"}, max_length=512)


def ask(item: tuple[object, int]) -> str:
    model, number = item
    return f"{model.id} {number}"  # type: ignore[attr-defined]


def test_weights_reach_a_worker_once_and_the_driver_never(tmp_path: Path) -> None:
    workers = ProcessMap(2)
    spread = lambda function, items: workers(function, [*items, *items])  # noqa: E731 - no short cut
    model = remote_model(load, (str(tmp_path), "abc"), map_tasks=spread)
    assert (model.id, model.settings, model.max_length) == ("abc", {"precision": "bf16"}, 512)
    answers = workers(ask, [(model, number) for number in range(20)])
    workers.close()
    assert answers == [f"abc {number}" for number in range(20)]
    loads = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
    assert os.getpid() not in loads
    assert len(loads) == len(set(loads)) <= 2


def test_all_gpus_are_used_unless_fewer_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "gpus_here", lambda: [Gpu("0"), Gpu("1"), Gpu("2")])
    for gpus, ids in ((None, ("0", "1", "2")), (2, ("0", "1"))):
        spread = loading.spread_over(None, gpus)
        assert isinstance(spread, GpuMap)
        assert spread.ids == ids
    assert loading.spread_over(None, 0) is None
    with pytest.raises(PlanError, match="--gpus 4, but this machine has 3"):
        loading.spread_over(None, 4)


class Asked:
    """A cluster that remembers what its tasks take."""

    def __init__(self, needs: Needs | None = None) -> None:
        self.needs = needs

    def with_needs(self, needs: Needs) -> Asked:
        return Asked(needs)

    def __call__(self, function, items, **_):
        return [function(item) for item in items]


def test_a_cluster_is_asked_for_room_for_the_weights(tmp_path: Path) -> None:
    for folder, size in (("small", 100 << 20), ("large", 3 << 30)):
        for name in ("model-1.safetensors", "checkpoints/step-1.safetensors", "tokenizer.json"):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "wb") as stream:
                stream.truncate(size)  # sparse
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    assert weights_bytes(large) == weights_bytes(f"dclm:{large}") == 3 << 30
    assert weights_bytes(f"{large}/model-1.safetensors") == 3 << 30
    assert weights_bytes(f"file://{large}") == 3 << 30
    assert weights_bytes("org/public-model") == weights_bytes("null:random") == 0
    asked = with_room(Asked(), small, large)
    assert asked.needs == Needs(memory_bytes=(6 << 30) + TASK_BYTES)
    assert with_room(Asked(), small).needs is None
    here = ProcessMap(1)
    assert with_room(here, large) is here
