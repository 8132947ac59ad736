"""Ray's token, as cluster.yaml and sweep.sbatch turn it on: without it nobody gets in."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from heads import ray_head
from processes import free_port, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # above every wait inside

RAY = Path(sys.executable).with_name("ray")
TOKEN = "f" * 64
CLIENT = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR'); print('in')"


@dataclass(frozen=True)
class Head:
    address: str
    jobs: str
    """The job server."""


def _without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}


def _answer(url: str, token: str | None) -> int:
    """The HTTP status of a request; 0 when nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray head on this machine that asks for TOKEN, which it reads from a file."""
    file = tmp_path_factory.mktemp("token") / "auth_token"
    file.write_text(TOKEN)
    port, dashboard = free_port(), free_port()
    with ray_head(port, "--num-cpus=1", dashboard=dashboard, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(file)):
        there = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}/api/jobs/")
        until(lambda: _answer(there.jobs, TOKEN) == 200)
        yield there


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("0" * 64, 403), (TOKEN, 200)], ids=["no", "wrong", "right"]
)
def test_the_job_server_asks_for_it(head: Head, token: str | None, status: int) -> None:
    assert _answer(head.jobs, token) == status


@pytest.mark.parametrize("token", [None, "0" * 64, TOKEN], ids=["no", "wrong", "right"])
def test_the_cluster_asks_for_it(head: Head, token: str | None) -> None:
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {}
    done = subprocess.run(
        [RAY, "health-check", "--address", head.address],
        capture_output=True, text=True, check=False, env=_without_token() | auth,
    )  # fmt: skip
    assert (done.returncode == 0) == (token == TOKEN), done.stdout + done.stderr


def test_a_driver_with_it_gets_in(head: Head) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, head.address],
        capture_output=True, text=True, check=False,
        env=_without_token() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "in"), done.stderr
