"""MLflow brought up to date with a folder whose driver was killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.observer import sweep_tags, tell_start
from raymdm.orchestrate.sweep import connect_mlflow
from raymdm.orchestrate.sync import sync
from raymdm.tracking.mlflow_tracker import MlflowTracker

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def folder(make_recipe: MakeRecipe, tmp_path: Path) -> SweepFolder:
    """A sweep that says running: standard with seed 1 has ended, with 2 it was in training, with 3 it failed, and 4 was
    not begun."""
    recipe = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2, 3, 4], tracking__mlflow=True)
    folder = create(recipe)
    records = [{"step": step, "train/loss": 1 / step} for step in (5, 10)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    for seed in (1, 2, 3):
        folder.write(f"trials/standard-s{seed}/metrics.jsonl", lines)
    folder.write("trials/standard-s1/records.json", json.dumps({"records": [*records, {"step": 12, "val/nll": 1.5}]}))
    done: dict[str, Any] = {"status": "finished", "error": None, "metrics": {"accuracy": 0.25}}
    folder.write("trials/standard-s1/result.json", json.dumps(done))
    lost = {"status": "failed", "error": "no room", "metrics": {}}
    folder.write("trials/standard-s3/result.json", json.dumps(lost))
    return folder


def _held(folder: SweepFolder) -> dict[str, tuple[str, list[int], list[int]]]:
    """MLflow's runs: name -> status, steps of losses, steps of validation NLLs."""
    client = MlflowClient(f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny-test")

    def steps(run: Any, key: str) -> list[int]:
        return [point.step for point in client.get_metric_history(run.info.run_id, key)]

    return {
        run.info.run_name: (run.info.status, steps(run, "train/loss"), steps(run, "val/nll"))
        for run in client.search_runs([experiment.experiment_id])
    }


EXPECTED = {
    "standard-s1": ("FINISHED", [5, 10], [12]),
    "standard-s2": ("KILLED", [5, 10], []),
    "standard-s3": ("FAILED", [5, 10], []),
}


def test_what_the_folder_holds_is_told_once_however_often(folder: SweepFolder) -> None:
    recipe = folder.recipe()
    connection = connect_mlflow(recipe)
    assert connection
    killed = MlflowTracker(connection, folder.path.name, tags=sweep_tags(recipe, folder))
    for seed in (1, 2):
        tell_start(killed, recipe, folder, ("standard", seed))
        killed.log(f"standard-s{seed}", [{"step": 5, "train/loss": 0.2}])
    assert killed.flush(60)
    assert {status for status, _, _ in _held(folder).values()} == {"RUNNING"}
    for _ in range(2):
        said = sync(folder.path, [])
        assert said.startswith(f"{folder.path.name}: 3 runs, interrupted: sqlite:///")
        assert _held(folder) == EXPECTED | {folder.path.name: ("KILLED", [], [])}
    assert folder.state()["status"] == "interrupted"


def test_a_sweep_that_runs_is_left_alone(folder: SweepFolder) -> None:
    with FileLock(folder.path / ".lock"), pytest.raises(UserError, match="being run by another process"):
        sync(folder.path, [])
    assert folder.state()["status"] == "running"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracking.mlflow=false", "tracking.mlflow=false. Give tracking.mlflow=true"),
        ("tracking.urii=x", "did you mean tracking.uri?"),
    ],
)
def test_a_bad_override_changes_nothing(folder: SweepFolder, override: str, expected: str) -> None:
    with pytest.raises(UserError) as refusal:
        sync(folder.path, [override])
    assert expected in str(refusal.value)
    assert folder.state()["status"] == "running"


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a sweep: it needs sweep\.json"):
        sync(tmp_path, [])
