"""A notice of EC2 reaches a real Ray that asks for a token, as cluster.yaml's does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from fake_metadata import Metadata, metadata_service
from heads import ray_head
from processes import free_port, until

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
# a node that computes nothing ends as soon as it is drained; this one computes, and says what Ray knows of its end
BUSY = """
import sys, time, ray
from ray._private.state import state
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
computing = ray.remote(lambda: time.sleep(1000)).remote()
while ray.available_resources().get("CPU"):
    time.sleep(0.1)
print("computing", flush=True)
while not state.get_draining_nodes():
    time.sleep(0.1)
print(list(state.get_draining_nodes().items()) == [(ray.get_runtime_context().get_node_id(), int(sys.argv[2]))])
"""


@contextmanager
def _computing(address: str, ends: int) -> Iterator[subprocess.Popen[str]]:
    """A driver with a task, that says whether its node alone ends, and at `ends` (ms since 1970)."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, address, str(ends)], stdout=subprocess.PIPE, text=True, env=os.environ | TOKEN
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.ray
def test_a_notice_drains_the_node_until_the_machine_goes() -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=2)
    notice = {"action": "terminate", "time": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ray_head(port, "--num-cpus=1", **TOKEN)
    with head, _computing(address, 1000 * int(ends.timestamp())) as driver, metadata_service(Metadata()) as service:
        assert driver.stdout
        assert driver.stdout.readline() == "computing\n"
        service.items["spot/instance-action"] = json.dumps(notice)
        command = [sys.executable, "-m", "raymdm.orchestrate.spot", address, "--service", service.url]
        done = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, check=False, timeout=120, env=os.environ | TOKEN
        )
        assert done.returncode == 0, done.stderr
        assert driver.stdout.readline() == "True\n"


def test_cluster_yaml_starts_it_behind_ray_with_the_head_s_address(repo_root: Path, tmp_path: Path) -> None:
    """As Ray's launcher runs commands, which waits for each to end."""
    commands = yaml.safe_load((repo_root / "cluster.yaml").read_text())["worker_start_ray_commands"]
    (number,) = (number for number, command in enumerate(commands) if "raymdm.orchestrate.spot" in command)
    assert [command.split()[:2] for command in commands[:number]] == [["ray", "stop"], ["ray", "start"]]
    log = tmp_path / "spot.log"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nuntil [ -e {tmp_path}/returned ]; do sleep 0.1; done\necho "$@"\n')
    stand_in.chmod(0o700)
    command = ["bash", "-c", f"true && ({commands[number].replace('/tmp/raymdm-spot.log', str(log))})"]
    there = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.7"}
    subprocess.run(command, check=True, timeout=60, env=os.environ | there)
    (tmp_path / "returned").touch()
    until(lambda: log.exists() and log.read_text())
    assert log.read_text() == "-m raymdm.orchestrate.spot 10.0.0.7:6379\n"
