"""Clusters of Ray on this machine, beside others."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from processes import descendants, free_port, kill, listens, titled, until
from ray.cluster_utils import Cluster

RAY = """
import sys
from ray.scripts import scripts

scripts.get_ray_client_dependency_error = lambda: "not here"
sys.exit(scripts.main())
"""
"""The command `ray` without Ray Client's server, which ends the whole head when the dashboard is up after half a minute
only."""
STARTED: list[subprocess.Popen[bytes]] = []
"""Sweeps that this process started."""


@contextmanager
def ray_folder() -> Iterator[str]:
    """A folder for Ray's files: in the usual one a cluster leaves its address, which later ones would try to reach."""
    folder = tempfile.mkdtemp(prefix="ray", dir=tempfile.gettempdir())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_head(port: int, *options: str, dashboard: int | None = None, **environment: str) -> Iterator[None]:
    """`ray start --head` on this port with these options, and with a dashboard and job server on the other where one is
    given; begins when all of it answers, and ends with all its processes.

    Every Ray on a machine wants the same port for its agent, without which no job is accepted.
    """
    agent = free_port()
    shown = f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"
    command = [
        sys.executable, "-c", RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={port}", *(shown if dashboard else ["--include-dashboard=false"]),
        f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats", *options,
    ]  # fmt: skip
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with ray_folder() as folder:
        env = without_token | environment | {"RAY_TMPDIR": folder}
        process = _begun(command, env, [port, *((dashboard, agent) if dashboard else ())])
        try:
            yield
        finally:
            _end(process)


def _begun(command: list[str], env: dict[str, str], ports: list[int]) -> subprocess.Popen[bytes]:
    """A head that is up and answers on all its ports. Ray itself gives up on a node that is not up after half a minute:
    on a busy machine it is started again."""
    for _ in range(3):
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=env
            )
            said = partial(os.pread, output.fileno(), 1_000_000, 0)
            try:
                until(partial(_up_or_dead, process, said, ports))
            except AssertionError:
                _end(process)
            if process.poll() is None:
                return process
            why = said().decode(errors="replace")
    raise AssertionError(f"Ray's head did not start:\n{why}")


def _up_or_dead(head: subprocess.Popen[bytes], said: Callable[[], bytes], ports: list[int]) -> bool:
    return head.poll() is not None or (b"Ray runtime started" in said() and all(map(listens, ports)))


def _end(head: subprocess.Popen[bytes]) -> None:
    below = list(descendants(head.pid))
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(120)
    finally:
        for pid in (head.pid, *below):  # nodes of an autoscaler do not end with it
            kill(pid)
        head.wait()


@contextmanager
def nodes(*cpus: float) -> Iterator[Cluster]:
    """A Ray cluster on this machine: a head without CPUs, and nodes with some; ends with all its processes."""
    with ray_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for number in cpus:
                cluster.add_node(num_cpus=number)
            yield cluster
        finally:
            end_sweeps()
            cluster.shutdown()


def end_sweeps() -> None:
    """Kill the sweeps that live on where a test failed: they would wait for their cluster."""
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def with_process(cluster: Cluster, titles: tuple[str, ...]) -> list[Any]:
    """Nodes of the cluster where a process with such a title runs."""
    return [node for node in cluster.worker_nodes if titled(raylet(node), titles)]


def raylet(node: Any) -> int:
    """Process id of a node's raylet, whose children are its workers."""
    return int(node.all_processes["raylet"][0].process.pid)


def lose(cluster: Cluster, node: Any) -> None:
    """Take a node away at once with all that runs on it, as a machine that is switched off."""
    below = list(descendants(raylet(node)))
    for pid in below:  # what runs would go on until it notices
        kill(pid, signal.SIGSTOP)
    cluster.remove_node(node, allow_graceful=False)
    for pid in below:
        kill(pid)
