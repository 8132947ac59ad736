"""A sweep's life from the command line: failures, retry, growth, disks that refuse, signals, kill -9, status, sync."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from disturbance import RUN, TRAINING, Sweep, assert_logged_once, logged
from processes import kill, slowed

from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.status import Status, status
from raymdm.orchestrate.sync import sync
from raymdm.storage import Storage
from raymdm.training import checkpoints

Make = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]
GROWN = {"sweep__methods": ["standard", "mirror", "arm"], "sweep__seeds": [1, 2, 3]}


@pytest.fixture(scope="module")
def make(make_recipe: Make) -> Make:
    """Two methods with two seeds, two runs at once, with many checkpoints."""

    def made(output: Path, **changes: object) -> Recipe:
        settings: dict[str, object] = {
            "train__max_steps": 400, "train__eval_every": 100, "train__checkpoint_every": 20, "train__log_every": 20,
            "sweep__methods": ["standard", "mirror"], "sweep__seeds": [1, 2], "sweep__max_concurrent": 2,
        }  # fmt: skip
        return make_recipe(output=str(output), **settings | changes)

    return made


@pytest.fixture(scope="module")
def fresh(make: Make, run_sweep: RunSweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grown sweep, run at once and undisturbed."""
    folder, _ = run_sweep(make(tmp_path_factory.mktemp("fresh"), **GROWN))
    return folder.path


@dataclass
class Seen:
    """What was seen after each command."""

    path: Path
    codes: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    results: list[dict[str, tuple[int, str]]] = field(default_factory=list)
    """By run: when result.json was written, and its content."""

    def look(self, code: int, output: str) -> None:
        self.codes.append(code)
        self.outputs.append(output)
        self.statuses.append(status(self.path))
        files = self.path.glob("trials/*/result.json")
        self.results.append({file.parent.name: (file.stat().st_mtime_ns, file.read_text()) for file in files})


def _command(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "raymdm.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _wait_for(happened: Callable[[], object], sweep: Sweep) -> None:
    deadline = time.monotonic() + 400
    while not happened():
        assert not sweep.ended() and time.monotonic() < deadline, sweep.output
        time.sleep(0.02)


def _end(sweep: Sweep) -> tuple[int, str]:
    """Exit code and what this start printed."""
    assert sweep.process
    code = sweep.process.wait(300)
    output = sweep.output
    (sweep.folder / "output.txt").unlink()
    return code, output


def _uri(path: Path) -> str:
    return str(SweepFolder(path).state()["mlflow_uri"])


def _runs(path: Path) -> dict[str, Any]:
    """The sweep's runs in MLflow by name, its parent among them."""
    client = mlflow.MlflowClient(_uri(path))
    experiment = client.get_experiment_by_name("tiny-test")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def _lasting(run: Any) -> dict[str, Any]:
    """A run of MLflow's without the hash of the sweep's recipe, which is another one once the grid has grown."""
    found: dict[str, Any] = run.to_dictionary()
    del found["data"]["tags"]["config_hash"]
    return found


def _assert_same_runs(path: Path, fresh: Path) -> None:
    """Each run's numbers are those of the fresh sweep, which has more runs."""
    found, expected = logged(path), logged(fresh)
    assert found == {name: expected[name] for name in found}
    for name in found:
        both = [json.loads((place / "trials" / name / "result.json").read_text())["metrics"] for place in (path, fresh)]
        one, other = ({k: v for k, v in metrics.items() if "seconds" not in k} for metrics in both)
        assert one == other
        tables = [pd.read_parquet(place / "trials" / name / "scores.parquet") for place in (path, fresh)]
        pd.testing.assert_frame_equal(*tables, check_dtype=False, check_exact=True)  # Ray Data's types are Arrow's


@pytest.fixture(scope="module")
def failed(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, dict[str, Any]]:
    """A run fails and stops the others, the rest is run, the failed one is tried again, the grid grows: what was seen,
    and MLflow's runs before the grid grew."""
    home = tmp_path_factory.mktemp("failed")
    fragile = {"sweep__on_failure": "fail_fast", "sweep__max_failures": 0, "train__max_failures": 0,
               "tracking__mlflow": True}  # fmt: skip
    sweep = Sweep(make(home / "runs", **fragile), home)
    sweep.start()
    _wait_for(sweep.begun, sweep)
    _wait_for(lambda: any(map(kill, sweep.processes(TRAINING)[:1])), sweep)
    ended = _end(sweep)
    seen = Seen(sweep.path)
    seen.look(*ended)
    seen.look(*_command("sweep", home / "recipe.yaml", "--resume"))
    seen.look(*_command("retry", sweep.path, "--failed", "sweep.max_failures=3"))
    before = _runs(sweep.path)
    grown = Sweep(make(home / "runs", **fragile, **GROWN), home)
    grown.start(resume=True)
    seen.look(*_end(grown))
    return seen, before


def _lost(seen: Seen) -> str:
    """The run that failed."""
    (run,) = [run for run in seen.statuses[0].runs if run.phase == "failed"]
    return run.name


def test_fail_fast_stops_the_others(failed: tuple[Seen, dict[str, Any]]) -> None:
    seen, _ = failed
    assert seen.codes[0] == 1, seen.outputs[0]
    assert "Traceback" not in seen.outputs[0]
    assert f"raymdm retry {seen.path} --failed" in seen.outputs[0]
    assert seen.statuses[0].state == "failed"
    assert seen.statuses[0].counts["failed"] == 1
    assert seen.statuses[0].counts.get("finished", 0) < 3
    (run,) = [run for run in seen.statuses[0].runs if run.phase == "failed"]
    assert run.error == "The actor died unexpectedly before finishing this task."


def test_resume_runs_only_the_rest_and_keeps_the_error(failed: tuple[Seen, dict[str, Any]]) -> None:
    seen, _ = failed
    assert seen.codes[1] == 1, seen.outputs[1]
    assert seen.statuses[1].counts == {"finished": 3, "failed": 1}
    assert seen.results[1][_lost(seen)] == seen.results[0][_lost(seen)]


def test_retry_runs_what_failed_and_keeps_the_earlier_error(failed: tuple[Seen, dict[str, Any]]) -> None:
    seen, _ = failed
    name = _lost(seen)
    assert seen.codes[2] == 0, seen.outputs[2]
    assert seen.statuses[2].counts == {"finished": 4}
    assert (seen.path / "trials" / name / "failure-1.json").read_text() == seen.results[0][name][1]
    others = seen.results[1].keys() - {name}
    assert {run: seen.results[2][run] for run in others} == {run: seen.results[1][run] for run in others}


def test_growth_runs_only_new_cells(failed: tuple[Seen, dict[str, Any]]) -> None:
    seen, _ = failed
    assert seen.codes[3] == 0, seen.outputs[3]
    assert "4 of 9 runs are done already" in seen.outputs[3]
    assert seen.statuses[3].counts == {"finished": 9}
    assert {run: seen.results[3][run] for run in seen.results[2]} == seen.results[2]


def test_all_of_it_equals_a_fresh_sweep(failed: tuple[Seen, dict[str, Any]], fresh: Path) -> None:
    _assert_same_runs(failed[0].path, fresh)


def test_mlflow_keeps_old_runs_and_gets_new_ones(failed: tuple[Seen, dict[str, Any]]) -> None:
    seen, before = failed
    assert_logged_once(seen.path, _uri(seen.path), "tiny-test")
    now = _runs(seen.path)
    for name in before.keys() - {seen.path.name}:
        assert _lasting(now[name]) == _lasting(before[name])
    assert now[seen.path.name].info.run_id == before[seen.path.name].info.run_id
    assert {run.data.tags.get("mlflow.parentRunId") for run in now.values()} == {None, now[seen.path.name].info.run_id}
    assert "error" not in now[_lost(seen)].data.tags


@pytest.fixture(scope="module")
def disk(
    mount_disk: Callable[[Path, str], AbstractContextManager[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A disk of 24 MiB."""
    with mount_disk(tmp_path_factory.mktemp("disk"), "24m") as place:
        yield place


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def _sound(path: Path) -> dict[str, int]:
    """The step of each open run's newest checkpoint that is whole."""
    found = {run.name: checkpoints.newest(Storage(str(run)), path / "unused") for run in path.glob("train/*")}
    return {name: checkpoint.step for name, checkpoint in found.items() if checkpoint}


@pytest.fixture(scope="module")
def refused(make: Make, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, list[dict[str, int]]]:
    """The disk fills up, turns read-only, and the driver gets SIGTERM; the sweep goes on after each: what was seen, and
    the sound checkpoints then."""
    home, runs = tmp_path_factory.mktemp("refused"), disk / "runs"
    sweep, sound = Sweep(make(runs), home), []
    sweep.start()
    _wait_for(sweep.begun, sweep)
    _fill(disk)
    ended = _end(sweep)
    seen = Seen(sweep.path)
    seen.look(*ended)
    sound.append(_sound(sweep.path))
    (disk / "filler").unlink()

    sweep.start(resume=True)
    _wait_for(lambda: _sound(sweep.path).items() - sound[0].items(), sweep)
    # a mount of its own: one that files are open on cannot be made read-only
    subprocess.run(["mount", "--bind", runs, runs], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", runs], check=True)
    seen.look(*_end(sweep))
    sound.append(_sound(sweep.path))
    subprocess.run(["umount", "--lazy", runs], check=True)

    sweep.start(resume=True)
    _wait_for(lambda: _sound(sweep.path).items() - sound[1].items(), sweep)
    assert sweep.process
    sweep.process.send_signal(signal.SIGTERM)
    seen.look(*_end(sweep))
    sound.append(_sound(sweep.path))
    seen.look(*_command("sweep", home / "recipe.yaml", "--resume"))
    return seen, sound


@pytest.mark.parametrize(
    ("which", "reason"), [(0, "No space left on device"), (1, "Read-only file system")], ids=["full", "read-only"]
)
def test_a_disk_that_refuses_gets_one_message(
    refused: tuple[Seen, list[dict[str, int]]], which: int, reason: str
) -> None:
    seen, sound = refused
    output = seen.outputs[which]
    assert seen.codes[which] == 2, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert reason in line and "intact" in line and "go on with --resume" in line
    assert seen.statuses[which].state == "interrupted"
    assert sound[which]


def test_sigterm_says_how_to_go_on(refused: tuple[Seen, list[dict[str, int]]]) -> None:
    seen, sound = refused
    assert seen.codes[2] == 130, seen.outputs[2]
    assert "Traceback" not in seen.outputs[2]
    (line,) = [line for line in seen.outputs[2].splitlines() if line.startswith("interrupted; go on with: ")]
    assert line.split(": ")[1].startswith("raymdm sweep ") and line.endswith("recipe.yaml --resume")
    assert (seen.statuses[2].state, seen.statuses[2].note) == ("interrupted", "")
    assert sound[2]


def test_after_all_that_the_numbers_are_the_undisturbed_ones(
    refused: tuple[Seen, list[dict[str, int]]], fresh: Path
) -> None:
    seen, _ = refused
    assert seen.codes[3] == 0, seen.outputs[3]
    assert seen.statuses[3].counts == {"finished": 4}
    _assert_same_runs(seen.path, fresh)


@pytest.fixture(scope="module")
def killed(make: Make, run_sweep: RunSweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, dict[str, Any]]:
    """What was seen while it ran, after kill -9 of its driver and once Ray Train's workers had trained the rest; and
    what MLflow held after `sync`."""
    home = tmp_path_factory.mktemp("killed")
    sweep = Sweep(make(home / "runs", tracking__mlflow=True), home)
    sweep.start()
    _wait_for(sweep.begun, sweep)
    _wait_for(lambda: any("train/loss" in f.read_text() for f in sweep.path.glob("trials/*/metrics.jsonl")), sweep)
    seen = Seen(sweep.path)
    with slowed(lambda: sweep.processes(RUN)):
        seen.look(0, _command("status", sweep.path, "--json")[1])
    sweep.kill()
    seen.look(*_command("status", sweep.path, "--json"))
    said = sync(sweep.path, [])
    records, runs = logged(sweep.path), _runs(sweep.path)
    client = mlflow.MlflowClient(_uri(sweep.path))
    losses = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")]
        for name, run in runs.items()
    }
    folder, text = run_sweep(make(home / "runs", tracking__mlflow=True, sweep__reuse_processes=False), resume=True)
    assert folder.path == sweep.path
    seen.look(0, text)
    return seen, {"said": said, "runs": runs, "losses": losses, "records": records}


def test_status_while_it_runs_and_after_a_kill(killed: tuple[Seen, dict[str, Any]]) -> None:
    seen, _ = killed
    running, dead, ended = seen.statuses
    assert (running.state, running.note, running.commands) == ("running", "", [])
    assert sum(running.counts.get(phase, 0) for phase in ("starting", "training", "scoring")) in (1, 2)
    assert (dead.state, dead.note) == ("interrupted", "its process is gone")
    assert dead.commands == [f"raymdm sweep {seen.path}/recipe.yaml --resume"]
    assert (ended.state, ended.note, ended.counts) == ("finished", "", {"finished": 4})
    assert [json.loads(output)["state"] for output in seen.outputs[:2]] == ["running", "interrupted"]


def test_sync_ends_what_the_killed_driver_left_running(killed: tuple[Seen, dict[str, Any]]) -> None:
    seen, found = killed
    assert f"{seen.path.name}: " in found["said"] and "interrupted" in found["said"]
    assert {run.info.status for run in found["runs"].values()} <= {"KILLED", "FINISHED"}
    assert found["runs"][seen.path.name].info.status == "KILLED"
    assert any(found["losses"].values())
    for name, points in found["losses"].items():
        records = [(r["step"], r["train/loss"]) for r in found["records"].get(name, []) if "train/loss" in r]
        assert points == records


def test_ray_train_s_workers_get_the_same_numbers(killed: tuple[Seen, dict[str, Any]], fresh: Path) -> None:
    seen, _ = killed
    _assert_same_runs(seen.path, fresh)
    assert_logged_once(seen.path, _uri(seen.path), "tiny-test")
