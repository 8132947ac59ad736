"""A cluster that brings up nodes when a sweep needs them, and takes them down after it."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from disturbance import Sweep
from heads import end_sweeps, ray_head
from processes import free_port, until
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

from raymdm.config.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def autoscaled(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A head without CPUs whose autoscaler adds up to two nodes of one CPU: its address, and the home of its user,
    where the launcher leaves its configuration. Ends with all its processes."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    (tmp_path / "home").mkdir()
    file = tmp_path / "home" / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(_configuration(address)))
    options = ("--num-cpus=0", f"--autoscaling-config={file}")
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
    with ray_head(port, *options, **fake):
        try:
            yield address, tmp_path / "home"
        finally:
            end_sweeps()


def _configuration(address: str) -> dict[str, object]:
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "gcs_address": address,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    return {
        "cluster_name": "from-nothing",
        "provider": provider,
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _workers(state: GlobalState) -> int:
    """Nodes that are up beside the head."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in state.node_table())


def test_a_sweep_on_an_empty_cluster_brings_nodes_up_that_go_after_it(
    make_recipe: MakeRecipe, autoscaled: tuple[str, Path], tmp_path: Path
) -> None:
    address, home = autoscaled
    recipe = make_recipe(output=str(tmp_path / "runs"), train__max_steps=400, sweep__seeds=[1, 2])
    sweep, state, counts = Sweep(recipe, tmp_path), GlobalState(), []
    sweep.start(RAY_ADDRESS=address, HOME=str(home))
    state._initialize_global_state(GcsClientOptions.create(address, None, True, False))

    def count() -> bool:
        counts.append(_workers(state))
        return sweep.ended() and counts[-1] == 0

    until(count, 600)
    sweep.wait()
    # a node that waits for its runs' processes may look idle on a busy machine, go and come back
    assert (counts[0], max(counts), counts[-1]) == (0, 2, 0), [number for number, _ in groupby(counts)]
