"""What a lost process leaves reserved is given back, and nothing else."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from disturbance import kill, until
from ray.util import placement_group

from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.places import release


def _driver() -> Any:
    """A process that owns another, which reserves half a CPU as Ray Train's controller does for its workers."""

    class Controller:
        def reserve(self) -> None:
            ray.get(placement_group([{"CPU": 0.5}]).ready())

    class Driver:
        def __init__(self) -> None:
            self._controller: Any = ray.remote(num_cpus=0)(Controller).remote()

        def reserve(self) -> int:
            ray.get(self._controller.reserve.remote())
            return os.getpid()

    return ray.remote(num_cpus=0)(Driver).remote()


@pytest.fixture
def local_ray() -> Iterator[None]:
    with connected():
        yield


def test_only_the_place_of_a_lost_process_is_given_back(local_ray: None) -> None:
    every = ray.cluster_resources()["CPU"]
    own = placement_group([{"CPU": 0.01}])
    ray.get(own.ready())
    lost, alive = _driver(), _driver()
    ray.get(alive.reserve.remote())
    assert kill(ray.get(lost.reserve.remote()))

    def given_back() -> bool:
        release()
        return bool(ray.available_resources().get("CPU", 0) == pytest.approx(every - 0.51))

    until(given_back)
