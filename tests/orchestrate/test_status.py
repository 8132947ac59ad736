"""How far a sweep is, from folders made by hand."""

import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import status as module
from raymdm.orchestrate.ownership import held
from raymdm.orchestrate.status import Status, render, status

MakeRecipe = Callable[..., Recipe]
MakeSweep = Callable[..., Path]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.0)


@pytest.fixture
def make_sweep(make_recipe: MakeRecipe, tmp_path: Path) -> MakeSweep:
    """Makes a sweep's folder: standard and mirror with seeds 1 and 2, of which nothing has run."""

    def made(state: str = "interrupted", rounds: list[Any] | None = None, **changes: object) -> Path:
        folder = tmp_path / "runs" / "tiny-test-20250101-120000"
        folder.mkdir(parents=True)
        recipe = make_recipe(**{"sweep__methods": ["standard", "mirror"], "sweep__seeds": [1, 2]} | changes)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        created = (datetime.now().astimezone() - timedelta(minutes=5)).isoformat(timespec="seconds")
        content = {"name": "tiny-test", "status": state, "created": created, "slots": 2, "rounds": rounds or [],
                   "stopped": None}  # fmt: skip
        (folder / "sweep.json").write_text(json.dumps(content))
        return folder

    return made


def put(folder: Path, run: str, name: str, content: Any) -> None:
    path = folder / "trials" / run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def finish(folder: Path, run: str, seconds: float = 60.0) -> None:
    metrics = {"accuracy": 0.25, "steps": 12, "val_nll": 1.5, "train_seconds": seconds / 2, "wall_seconds": seconds}
    put(folder, run, "result.json", {"status": "finished", "error": None, "metrics": metrics})


def fail(folder: Path, run: str, error: str) -> None:
    put(folder, run, "result.json", {"status": "failed", "error": error, "metrics": {}})


def tell(folder: Path, pid: int | None = None, **phases: tuple[str, int]) -> None:
    """Write progress.json: phase and step by the run's name, with _ for -, each started a minute ago."""
    started = (datetime.now().astimezone() - timedelta(minutes=1)).isoformat()
    runs = {
        name.replace("_", "-"): {"phase": phase, "step": step, "total": 12, "loss": 2.0, "best_nll": 1.5,
                                 "seconds": 1.0, "started": started, "took": None}
        for name, (phase, step) in phases.items()
    }  # fmt: skip
    content = {"updated": started, "slots": 2, "pid": pid or os.getpid(), "host": platform.node(), "runs": runs}
    (folder / "progress.json").write_text(json.dumps(content))


def phases(found: Status) -> dict[str, str]:
    return {run.name: run.phase for run in found.runs}


def shown(found: Status, every: bool = False) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(render(found, every))
    return text.getvalue()


def test_a_sweep_is_running_while_a_process_holds_its_lock(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    with FileLock(folder / ".lock"):
        found = status(folder)
        assert (found.state, found.note, found.commands) == ("running", "", [])


def test_a_sweep_whose_process_is_gone_is_interrupted(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    with FileLock(folder / ".lock"):
        pass
    found = status(folder)
    assert (found.state, found.note) == ("interrupted", "its process is gone")
    assert found.commands == [f"raymdm sweep {folder}/recipe.yaml --resume"]


def test_a_killed_process_lets_go(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    holding = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", holding, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "1\n"
        assert status(folder).state == "running"
        process.kill()
        process.wait()
    assert status(folder).state == "interrupted"


def test_a_sweep_that_ends_between_two_looks_is_no_interrupted_one(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sweep("running")

    def ends(folder: Path) -> bool:
        content = json.loads((folder / "sweep.json").read_text())
        (folder / "sweep.json").write_text(json.dumps(content | {"status": "finished"}))
        return False

    monkeypatch.setattr(module, "held", ends)
    assert status(folder).state == "finished"


def test_a_look_leaves_the_lock_as_it_was(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    assert held(folder) is False
    assert not (folder / ".lock").exists()
    (folder / ".lock").touch()
    assert held(folder) is False
    with FileLock(folder / ".lock", timeout=0):
        assert held(folder) is True
        assert held(folder) is True


def test_no_look_is_taken_at_the_lock_of_a_sweep_that_says_it_ended(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "held", None)
    assert status(make_sweep("failed")).state == "failed"


def test_phases_come_from_results_and_from_the_sweep_s_process(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    finish(folder, "standard-s1")
    tell(folder, standard_s1=("scoring", 12), mirror_s1=("training", 7), standard_s2=("starting", 0))
    with FileLock(folder / ".lock"):
        found = status(folder)
    assert phases(found) == {
        "standard-s1": "finished", "mirror-s1": "training", "standard-s2": "starting", "mirror-s2": "waiting",
    }  # fmt: skip
    assert found.counts == {"finished": 1, "training": 1, "starting": 1, "waiting": 1}
    run = found.runs[1]
    assert (run.step, run.total_steps, run.loss, run.best_nll) == (7, 12, 2.0, 1.5)


def test_runs_under_way_when_the_process_ended_are_interrupted(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    tell(folder, standard_s1=("training", 7), mirror_s1=("waiting", 0))
    put(folder, "standard-s2", "metrics.jsonl", '{"step": 5, "a": 1}\n{"step": 10, "a": 1}\n{"step": 1')
    found = status(folder)
    assert [(run.phase, run.step) for run in found.runs] == [
        ("interrupted", 7), ("waiting", 0), ("interrupted", 10), ("waiting", 0),
    ]  # fmt: skip


def test_what_a_dead_process_told_is_not_taken_for_now(make_sweep: MakeSweep) -> None:
    """The sweep was resumed and prepares its data: progress.json is that of the process before."""
    folder = make_sweep("running")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    tell(folder, gone.pid, standard_s1=("training", 7))
    put(folder, "standard-s1", "metrics.jsonl", '{"step": 5}\n')
    with FileLock(folder / ".lock"):
        run = status(folder).runs[0]
    assert (run.phase, run.step) == ("waiting", 5)


def test_a_failed_run_tells_why_and_where_the_rest_is(make_sweep: MakeSweep) -> None:
    folder = make_sweep("failed")
    fail(folder, "standard-s1", "the run diverged\nat step 4")
    fail(folder, "mirror-s1", "Traceback (most recent call last):\n  File\n    x = 1\nValueError: no such thing\n")
    for run in ("standard-s2", "mirror-s2"):
        finish(folder, run)
    found = status(folder)
    assert [run.error for run in found.runs[:2]] == ["the run diverged", "ValueError: no such thing"]
    assert found.commands == [f"raymdm retry {folder} --failed"]
    path = folder / "trials" / "standard-s1" / "result.json"
    assert f"standard-s1 failed: the run diverged (all of it: {path})" in shown(found).replace("\n", "")


def test_a_failed_run_that_is_tried_again_has_not_failed(make_sweep: MakeSweep) -> None:
    folder = make_sweep("running")
    fail(folder, "standard-s1", "no")
    tell(folder, standard_s1=("training", 3))
    with FileLock(folder / ".lock"):
        run = status(folder).runs[0]
    assert (run.phase, run.error) == ("training", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"status": "fini', "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"status": "well"}', "is not as raymdm writes it"),
        ('{"status": "finished", "error": null, "metrics": {"accuracy": "high"}}', "is not as raymdm writes it"),
    ],
)
def test_a_broken_result_is_told_in_its_row(make_sweep: MakeSweep, content: str, words: str) -> None:
    folder = make_sweep()
    put(folder, "standard-s1", "result.json", content)
    finish(folder, "mirror-s1")
    found = status(folder)
    assert phases(found)["standard-s1"] == "failed" and phases(found)["mirror-s1"] == "finished"
    assert found.runs[0].error and words in found.runs[0].error
    assert "result.json" in shown(found)


def test_events_are_counted_and_serious_ones_told(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    events = [{"step": 3, "event": "loss_spike", "message": "high"}] * 4
    events += [{"step": step, "event": "skipped_step", "message": f"no number in row {step}"} for step in (5, 9)]
    put(folder, "mirror-s1", "events.jsonl", "".join(json.dumps(event) + "\n" for event in events) + '{"step": 1')
    found = status(folder)
    assert found.runs[1].events == {"loss_spike": 4, "skipped_step": 2}
    text = shown(found)
    assert "4 spikes, 2 skipped" in text
    assert "mirror-s1: skipped step, step 9: no number in row 9" in text and "high" not in text


def test_what_files_say_is_no_markup(make_sweep: MakeSweep) -> None:
    folder = make_sweep("failed")
    fail(folder, "standard-s1", "[bold]loud[/bold] [/] and [link=x]")
    put(folder, "standard-s1", "events.jsonl", '{"step": 1, "event": "[red]e", "message": ""}\n')
    text = shown(status(folder))
    assert "[bold]loud[/bold] [/] and [link=x]" in text and "[red]e" in text


def test_time_left_follows_each_method_s_finished_runs(make_sweep: MakeSweep) -> None:
    """mirror costs twice of standard, which took 60 s; one of each is left, on two slots."""
    folder = make_sweep("running")
    for run in ("standard-s1", "standard-s2"):
        finish(folder, run, 60.0)
    tell(folder, mirror_s1=("waiting", 0), mirror_s2=("waiting", 0))
    with FileLock(folder / ".lock"):
        found = status(folder)
    assert found.seconds_left == pytest.approx(120.0)
    assert "about 2 min 0 s left" in shown(found)
    assert status(folder).seconds_left is None  # nobody runs it


def test_rounds_of_an_adaptive_sweep(make_sweep: MakeSweep) -> None:
    rounds = [
        {
            "cells": [["standard", 42], ["mirror", 42], ["standard", 731], ["mirror", 731]],
            "finished": [],
            "alpha": 0.01,
        },
        {"cells": [["mirror", 20231]], "finished": None, "alpha": 0.02},
    ]
    seeds = {"initial": 2, "max": 4, "looks": 3, "stop_when": "decided(mirror, standard)"}
    folder = make_sweep(rounds=rounds, sweep__seeds=seeds)
    for run in ("standard-s42", "mirror-s42", "standard-s731", "mirror-s731"):
        finish(folder, run)
    found = status(folder)
    assert [(r.runs, r.finished) for r in found.rounds] == [(4, 4), (1, 0)]
    assert [run.name for run in found.runs][-1] == "mirror-s20231"
    assert "rounds: 2 of at most 3, runs finished: 4/4, 0/1" in shown(found)


def test_of_many_runs_those_that_are_done_or_wait_are_left_out(make_sweep: MakeSweep) -> None:
    folder = make_sweep("failed", sweep__seeds=list(range(21)))
    finish(folder, "standard-s1")
    fail(folder, "mirror-s1", "no")
    found = status(folder)
    text = shown(found)
    assert "mirror-s1 " in text and "standard-s1 " not in text and "mirror-s20 " not in text
    assert "41 runs that are done or wait are not shown" in text
    assert "standard-s1 " in shown(found, every=True) and "mirror-s20 " in shown(found, every=True)


def test_the_status_goes_to_json_and_back(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    finish(folder, "standard-s1")
    found = status(folder)
    assert Status.model_validate_json(found.model_dump_json()) == found


def test_a_folder_that_is_no_sweep_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep\.json: name one that `raymdm sweep` made"):
        status(tmp_path / "nowhere")
    folder = make_sweep()
    with pytest.raises(UserError, match=f"such as {folder}$"):
        status(folder.parent)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"sweep\.json is not valid JSON"),
        ('{"status": "dancing"}', "status is 'dancing'"),
        ('{"status": "failed"}', r"not as this version of raymdm writes it \(KeyError"),
    ],
)
def test_a_broken_sweep_json_is_one_message(make_sweep: MakeSweep, content: str, words: str) -> None:
    folder = make_sweep()
    (folder / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=words):
        status(folder)


def test_a_sweep_without_its_recipe_is_refused(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    (folder / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        status(folder)


def test_broken_progress_is_noted(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    (folder / "progress.json").write_text("{")
    assert "progress.json is not valid JSON" in status(folder).note


def test_neither_ray_nor_torch_is_loaded(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    program = (
        "import sys; from pathlib import Path; from raymdm.orchestrate.status import render, status;"
        "render(status(Path(sys.argv[1]))); sys.exit(bool({'ray', 'torch', 'transformers'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == 0


def test_a_look_changes_no_file(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = make_sweep("running")
    finish(folder, "standard-s1")
    shutil.copytree(folder, tmp_path / "before")
    shown(status(folder))
    same = {path.relative_to(tmp_path / "before"): path.read_bytes() for path in (tmp_path / "before").rglob("*.*")}
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} == same
