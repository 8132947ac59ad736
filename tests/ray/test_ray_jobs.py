"""`ray job submit`, and Ctrl-C on the command line, from outside as a user has them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disturbance import free_port, ray_head, until
from ray.job_submission import JobSubmissionClient

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]
RAY = Path(sys.executable).with_name("ray")
EARLY = ("Failed to connect", "No available agent", "RemoteDisconnected")
"""What a job server says that is not up yet."""


def _metrics(output: Path) -> dict[str, Any]:
    (path,) = output.glob("tiny-test-*/trials/*/result.json")
    metrics: dict[str, Any] = json.loads(path.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if not name.endswith("seconds")}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A Ray head on this machine with a job server; ends with all its processes."""
    port, dashboard = free_port(), free_port()
    with ray_head("--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"):
        yield f"http://127.0.0.1:{dashboard}"


Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def submit(head: str, repo_root: Path) -> Submit:
    """Submits a sweep's job with options of `ray job submit`."""

    def run(arguments: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            RAY, "job", "submit", "--address", head, "--working-dir", repo_root, *options, "--",
            sys.executable, "jobs/sweep.py", "--recipe", *arguments,
        ]  # fmt: skip
        for _ in range(20):  # the job server and its agent answer some seconds after the head has started
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | {"RAY_ADDRESS": ""}
            )
            if not any(early in done.stderr + done.stdout for early in EARLY):
                break
            time.sleep(3)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def test_a_submitted_job_gives_the_command_line_s_result(
    make_recipe: MakeRecipe, run_sweep: RunSweep, tmp_path: Path, submit: Submit
) -> None:
    recipe = make_recipe(output=str(tmp_path / "local"), sweep__methods=["mirror"])
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(recipe))
    done = submit([str(file), f"output={tmp_path / 'job'}"])
    assert "report:" in done.stdout
    run_sweep(recipe)
    assert _metrics(tmp_path / "job") == _metrics(tmp_path / "local")


@pytest.fixture(scope="module")
def long_recipe(make_recipe: MakeRecipe) -> Callable[[Path], Recipe]:
    """A run of some seconds with many checkpoints, into a folder."""

    def make(output: Path) -> Recipe:
        return make_recipe(
            output=str(output), train__max_steps=1500, train__eval_every=50, train__log_every=10, sweep__seeds=[1]
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(
    long_recipe: Callable[[Path], Recipe], run_sweep: RunSweep, tmp_path_factory: pytest.TempPathFactory
) -> SweepFolder:
    return run_sweep(long_recipe(tmp_path_factory.mktemp("undisturbed")))[0]


def _comparable(folder: SweepFolder) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """A run's result and its logged metrics, times left out."""
    path = folder.trial("standard", 1)
    metrics = json.loads((path / "result.json").read_text())["metrics"]
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in record.items() if "seconds" not in k} for record in records]
    return {k: v for k, v in metrics.items() if "seconds" not in k}, sorted(kept, key=lambda r: (r["step"], len(r)))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_sweep_goes_on_and_ends_the_same(
    long_recipe: Callable[[Path], Recipe],
    undisturbed: SweepFolder,
    run_sweep: RunSweep,
    tmp_path: Path,
    stop: signal.Signals,
) -> None:
    recipe, file = long_recipe(tmp_path / "runs"), tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "raymdm.cli", "sweep", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/tiny-test-*/train/*/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    output, errors = process.communicate(timeout=120)
    (folder,) = map(SweepFolder, tmp_path.glob("runs/tiny-test-*"))
    assert not list(folder.path.glob("trials/*/result.json")), "the sweep was over before it was stopped"
    if stop == signal.SIGINT:
        assert process.returncode == 130, output + errors
        assert f"raymdm sweep {file} --resume" in output
        assert "Traceback" not in errors
        assert folder.state()["status"] == "interrupted"
    time.sleep(8)  # Ray's processes notice that their driver has gone
    resumed, _ = run_sweep(recipe, resume=True)
    assert resumed == folder and folder.state()["status"] == "finished"
    assert _comparable(folder) == _comparable(undisturbed)


def test_a_stopped_job_goes_on_and_ends_the_same(
    long_recipe: Callable[[Path], Recipe], undisturbed: SweepFolder, tmp_path: Path, head: str, submit: Submit
) -> None:
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(long_recipe(tmp_path / "runs")))
    submit([str(file)], "--submission-id=stopped", "--no-wait")
    client = JobSubmissionClient(head)
    until(lambda: list(tmp_path.glob("runs/tiny-test-*/train/*/step-*")), 200)
    client.stop_job("stopped")  # what `ray job stop` does, which takes seconds to begin
    until(lambda: client.get_job_status("stopped").is_terminal())
    (folder,) = map(SweepFolder, tmp_path.glob("runs/tiny-test-*"))
    assert not list(folder.path.glob("trials/*/result.json")), "the sweep was over before it was stopped"
    submit([str(file), "--resume"])
    assert folder.state()["status"] == "finished"
    assert _comparable(folder) == _comparable(undisturbed)
