"""cluster.yaml: Ray accepts it, workers scale from nothing, and nothing is open to the world."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

EVERYWHERE = ("0.0.0.0", "::/0")


@pytest.fixture
def cluster(repo_root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repo_root / "cluster.yaml").read_text())
    return loaded


@pytest.fixture
def workers(cluster: dict[str, Any]) -> dict[str, Any]:
    return {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_ray_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="unheard_of"):
        validate_config(prepare_config(cluster | {"unheard_of": 1}))


def test_workers_start_from_none(workers: dict[str, Any]) -> None:
    assert len(workers) >= 2
    assert {name: kind["min_workers"] for name, kind in workers.items()} == dict.fromkeys(workers, 0)
    assert all(kind["max_workers"] > 0 for kind in workers.values())


def test_gpu_workers_are_spot_and_the_head_is_not(cluster: dict[str, Any], workers: dict[str, Any]) -> None:
    gpu = [kind for kind in workers.values() if kind["resources"].get("GPU")]
    assert gpu
    assert all(kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for kind in gpu)
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]


def test_head_takes_no_work(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_idle_workers_go(cluster: dict[str, Any]) -> None:
    assert 0 < cluster["idle_timeout_minutes"] <= 60


def test_nothing_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    # with Ray's defaults filled in, which open the dashboard to every address
    assert not [word for word in EVERYWHERE if word in yaml.safe_dump(prepare_config(copy.deepcopy(cluster)))]


def test_launcher_makes_no_security_group(cluster: dict[str, Any]) -> None:
    # one that it makes lets every address reach the SSH port
    assert all(kind["node_config"]["SecurityGroupIds"] for kind in cluster["available_node_types"].values())
    assert "security_group" not in cluster["provider"]


def test_dashboard_listens_on_the_head_alone(cluster: dict[str, Any]) -> None:
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


def test_images_have_the_pinned_ray(repo_root: Path) -> None:
    pinned = re.search(r"^ray==(\S+)$", (repo_root / "constraints.txt").read_text(), re.MULTILINE)
    images = re.findall(
        r"image: rayproject/ray:(\S+)-py311-(?:cpu|gpu)$", (repo_root / "cluster.yaml").read_text(), re.M
    )
    assert pinned
    assert images == [pinned[1]] * 2


def test_mounted_files_exist(cluster: dict[str, Any], repo_root: Path) -> None:
    missing = [local for local in cluster["file_mounts"].values() if not (repo_root / local).exists()]
    assert missing == []


def test_holds_no_keys(repo_root: Path) -> None:
    text = (repo_root / "cluster.yaml").read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|ssh_private_key|aws_credentials|secret_access", text)
