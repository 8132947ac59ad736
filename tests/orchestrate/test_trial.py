"""How a run that cannot go on ends, with training and Tune faked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ObjectStoreFullError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from raymdm.config.load import config_hash
from raymdm.config.schema import Recipe
from raymdm.orchestrate import trial
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.preemption import NodeGoes

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., tuple[list[dict[str, Any]], Path]]


@pytest.fixture
def run(make_recipe: MakeRecipe, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a cell whose training leaves for a reason or raises an error; returns its reports and its result's path."""

    def once(left: str = "", error: Exception | None = None) -> tuple[list[dict[str, Any]], Path]:
        reports: list[dict[str, Any]] = []

        def train(*arguments: Any) -> str:
            if error:
                raise error
            return left

        monkeypatch.setattr(trial, "_train", train)
        monkeypatch.setattr(trial, "told", lambda key: "")
        monkeypatch.setattr(trial.tune, "report", reports.append)
        recipe = make_recipe(output=str(tmp_path))
        folder = create(recipe)
        config = {"sweep": folder.storage.uri, "recipe_hash": config_hash(recipe), "data": {"mdm": str(tiny_data)},
                  "cell": ["standard", 1], "stop": ""}  # fmt: skip
        try:
            trial.run_trial(config)
        finally:
            trial._recipe.cache_clear()
        return reports, folder.trial("standard", 1) / "result.json"

    return once


FULL = ObjectStoreFullError("Failed to put object in object store because it is full.")


@pytest.mark.parametrize(
    "error",
    [WorkerGroupError("rank 1: it is full", {1: FULL}), ControllerError(FULL), FULL],
    ids=lambda e: type(e).__name__,
)
def test_a_full_object_store_stops_the_sweep_wherever_it_is_met(run: Run, error: Exception) -> None:
    ((report,), result) = run(error=error)
    assert report["phase"] == "stopped"
    assert "object store" in report["problem"] and "--object-store-memory" in report["problem"]
    assert "\n" not in report["problem"]
    assert not result.exists(), "the run goes on later"


def test_other_failures_of_workers_are_the_run_s_own(run: Run) -> None:
    error: TrainingFailedError = WorkerGroupError("rank 0: boom", {0: RuntimeError("boom")})
    reports, result = run(error=error)
    assert not reports
    assert json.loads(result.read_text())["status"] == "failed"


def test_a_run_of_a_stopped_sweep_has_no_result(run: Run) -> None:
    reports, result = run("sweep")
    assert not reports and not result.exists()


def test_a_run_whose_node_goes_asks_for_another(run: Run, tmp_path: Path) -> None:
    with pytest.raises(NodeGoes):
        run("node")
    assert not list(tmp_path.glob("*/trials/*/result.json"))
