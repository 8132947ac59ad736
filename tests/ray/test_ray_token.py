"""A local Ray gives nothing to who lacks its token."""

import os
import urllib.request
from pathlib import Path

import ray
from processes import descendants, names

from raymdm.orchestrate.connection import connected

FIGURES = {44217, 44227}
"""Where Ray's autoscaler and dashboard give anyone figures of the cluster, and nothing else."""


def _listening(pids: set[int]) -> set[int]:
    """TCP ports on which processes listen, by /proc."""
    sockets = set()
    for pid in pids:
        for name in names(f"/proc/{pid}/fd"):
            try:
                sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue  # closed meanwhile
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as response:
            return bool(response.status == 200)
    except Exception:  # what is no HTTP answers in many ways
        return False


def test_no_port_answers_without_the_token() -> None:
    with connected():
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
        ports = _listening(set(descendants(os.getpid())))
        assert len(ports) > 3
        assert [port for port in ports - FIGURES if _answers(port)] == []
    assert "RAY_AUTH_TOKEN" not in os.environ
