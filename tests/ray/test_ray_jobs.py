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
from disturbance import RUN
from heads import ray_head
from processes import descendants, free_port, gone, slowed, titled, until
from ray.job_submission import JobSubmissionClient

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]
RAY = Path(sys.executable).with_name("ray")
EARLY = ("Failed to connect", "No available agent", "RemoteDisconnected")
"""What a job server says that is not up yet."""


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A Ray head on this machine with a job server; ends with all its processes."""
    port, dashboard = free_port(), free_port()
    with ray_head(port, "--num-cpus=2", dashboard=dashboard):
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
        deadline = time.monotonic() + 300  # the server's agent answers some seconds after it
        while True:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | {"RAY_ADDRESS": ""}
            )
            if not any(early in done.stderr + done.stdout for early in EARLY) or time.monotonic() > deadline:
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


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


def test_a_submitted_job_gives_the_command_line_s_result(
    long_recipe: Callable[[Path], Recipe], undisturbed: SweepFolder, tmp_path: Path, submit: Submit
) -> None:
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(long_recipe(tmp_path / "runs")))
    done = submit([str(file), f"output={tmp_path / 'job'}"])
    assert "report:" in done.stdout
    (folder,) = map(SweepFolder, tmp_path.glob("job/tiny-test-*"))
    assert _comparable(folder) == _comparable(undisturbed)


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
    until(lambda: process.poll() is not None or list(tmp_path.glob("runs/tiny-test-*/train/*/step-*")))
    below = list(descendants(process.pid))
    process.send_signal(stop)
    output, errors = process.communicate(timeout=300)
    (folder,) = map(SweepFolder, tmp_path.glob("runs/tiny-test-*"))
    assert not list(folder.path.glob("trials/*/result.json")), "the sweep was over before it was stopped"
    if stop == signal.SIGINT:
        assert process.returncode == 130, output + errors
        assert f"raymdm sweep {file} --resume" in output
        assert "Traceback" not in errors
        assert folder.state()["status"] == "interrupted"
    gone(below)
    resumed, _ = run_sweep(recipe, resume=True)
    assert resumed == folder and folder.state()["status"] == "finished"
    assert _comparable(folder) == _comparable(undisturbed)


@pytest.mark.parametrize("reuse", [True, False], ids=["one process", "workers"])
def test_an_interrupted_sweep_keeps_the_steps_since_the_last_checkpoint(
    long_recipe: Callable[[Path], Recipe],
    undisturbed: SweepFolder,
    run_sweep: RunSweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reuse: bool,
) -> None:
    """There is no evaluation, hence no checkpoint, before the end."""
    monkeypatch.setenv("RAYMDM_PREEMPTION_POLL_S", "0.2")
    recipe, file = long_recipe(tmp_path / "runs"), tmp_path / "tiny-test.yaml"
    recipe.train.eval_every, recipe.sweep.reuse_processes = 1500, reuse
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "raymdm.cli", "sweep", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(tmp_path.glob("runs/tiny-test-*/trials/*/metrics.jsonl")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, output + errors
    assert f"raymdm sweep {file} --resume" in output and "Traceback" not in errors
    (folder,) = map(SweepFolder, tmp_path.glob("runs/tiny-test-*"))
    (checkpoint,) = folder.path.glob("train/*/step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    assert f"standard-s1, step {step}: the sweep is stopped: checkpoint at step {step}" in output
    run_sweep(recipe, resume=True)
    events = [json.loads(line) for line in (folder.trial("standard", 1) / "events.jsonl").read_text().splitlines()]
    moves = [(event["event"], event["step"]) for event in events if event["event"] != "loss_spike"]
    assert moves == [("left", step), ("resumed", step)]
    losses = [
        [(record["step"], record["train/loss"]) for record in _comparable(sweep)[1] if "train/loss" in record]
        for sweep in (folder, undisturbed)
    ]
    assert losses[0] == losses[1]


def test_a_stopped_job_goes_on_and_ends_the_same(
    long_recipe: Callable[[Path], Recipe], undisturbed: SweepFolder, tmp_path: Path, head: str, submit: Submit
) -> None:
    file = tmp_path / "tiny-test.yaml"
    file.write_text(dump_recipe(long_recipe(tmp_path / "runs")))
    submit([str(file)], "--submission-id=stopped", "--no-wait")
    client = JobSubmissionClient(head)
    until(lambda: list(tmp_path.glob("runs/tiny-test-*/train/*/step-*")))
    with slowed(lambda: titled(os.getpid(), RUN)):  # what `ray job stop` does takes seconds to begin
        client.stop_job("stopped")
        until(lambda: client.get_job_status("stopped").is_terminal())
    (folder,) = map(SweepFolder, tmp_path.glob("runs/tiny-test-*"))
    assert not list(folder.path.glob("trials/*/result.json")), "the sweep was over before it was stopped"
    submit([str(file), "--resume"])
    assert folder.state()["status"] == "finished"
    assert _comparable(folder) == _comparable(undisturbed)
