"""`ray job submit`, and Ctrl-C on the command line, from outside as a user has them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]
RAY = Path(sys.executable).with_name("ray")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _metrics(output: Path) -> dict[str, Any]:
    (path,) = output.glob("tiny-test-*/trials/*/result.json")
    metrics: dict[str, Any] = json.loads(path.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if not name.endswith("seconds")}


@pytest.fixture
def head() -> Iterator[str]:
    """A Ray head on this machine with a job server; ends with all its processes."""
    port, dashboard = _free_port(), _free_port()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_submitted_job_gives_the_command_line_s_result(
    make_recipe: MakeRecipe, run_sweep: RunSweep, repo_root: Path, tmp_path: Path, head: str
) -> None:
    recipe = make_recipe(output=str(tmp_path / "local"), sweep__methods=["mirror"])
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(recipe))
    submit = [
        RAY, "job", "submit", "--address", head, "--working-dir", repo_root, "--",
        sys.executable, "jobs/sweep.py", "--recipe", file, f"output={tmp_path / 'job'}",
    ]  # fmt: skip
    for _ in range(10):  # the job server answers some seconds after the head has started
        done = subprocess.run(submit, capture_output=True, text=True, check=False, env=os.environ | {"RAY_ADDRESS": ""})
        if "Failed to connect" not in done.stderr + done.stdout:
            break
        time.sleep(3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report:" in done.stdout
    run_sweep(recipe)
    assert _metrics(tmp_path / "job") == _metrics(tmp_path / "local")


def test_ctrl_c_stops_cleanly_and_resume_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(
        output=str(tmp_path / "runs"), train__max_steps=4000, train__eval_every=50, sweep__seeds=[1, 2]
    )
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "raymdm.cli", "sweep", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/tiny-test-*/trials/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert f"raymdm sweep {file} --resume" in output
    assert "Traceback" not in errors
    (folder,) = tmp_path.glob("runs/tiny-test-*")
    assert json.loads((folder / "sweep.json").read_text())["status"] == "interrupted"
