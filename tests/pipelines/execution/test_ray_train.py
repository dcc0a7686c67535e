"""What a failed attempt reserved is given back, so that the next one can start."""

from __future__ import annotations

import time

import pytest

from pipelines.execution import ray_train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_group_of_a_controller_that_ended_is_freed() -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self, cpus: float) -> bool:
            return bool(placement_group([{"CPU": cpus}]).wait(60))

    total = ray.cluster_resources()["CPU"]
    kept = placement_group([{"CPU": 0.5}])
    assert kept.wait(60)
    before = ray_train._reserved()
    controller = Controller.remote()
    assert ray.get(controller.reserve.remote(total - 0.5))
    ray.kill(controller)
    assert not placement_group([{"CPU": 1.0}]).wait(2), "nothing is free, nor asked for again"
    ray_train._free(ray_train._reserved() - before)
    try:
        deadline = time.monotonic() + 60
        while ray.available_resources().get("CPU", 0) < total - 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert ray_train._reserved() == before, "a group that was there before is left alone"
    finally:
        remove_placement_group(kept)
