"""A run draws its rates from one density, whatever becomes of the file that it read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interrupted import assert_same_run, density, events_of, run_once, run_stopped, state

from raymdm.config.schema import METHODS, Recipe
from raymdm.training import run
from raymdm.training.loop import Job
from raymdm.training.state import RunState, load_state

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(params=["p_pots", "stable"])
def job(request: pytest.FixtureRequest, tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> Job:
    return Job(make_recipe(), request.param, 42, tiny_data, density(tmp_path, METHODS[request.param]))


def _measure_anew(job: Job) -> None:
    assert job.density
    fit = json.loads(job.density.read_text())
    job.density.write_text(json.dumps(fit | {"params": fit["params"] | {"a": 0.2}, "uniform_mix": 0.5}))


def _others(reports: list[dict[str, Any]]) -> list[tuple[int, str]]:
    events = [event for event in events_of(reports) if event["event"] == "other_density"]
    return [(event["step"], event["message"]) for event in events]


def test_a_run_goes_on_with_the_density_that_it_began_with_and_says_so(job: Job, tmp_path: Path) -> None:
    run_once(job, tmp_path / "whole")
    run_once(job, tmp_path / "run", stop=6)
    _measure_anew(job)
    reports = run_once(job, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    ((step, message),) = _others(reports)
    assert step == 4 and str(job.density) in message


def test_the_same_density_is_not_worth_a_word(job: Job, tmp_path: Path) -> None:
    assert not _others(run_stopped(job, tmp_path / "run", [6]))


def test_the_other_density_is_another_run(job: Job, tmp_path: Path) -> None:
    """Else the first test would show nothing."""
    run_once(job, tmp_path / "one")
    _measure_anew(job)
    run_once(job, tmp_path / "other")
    one, other = (state(tmp_path / name).summary()["val_nll"] for name in ("one", "other"))
    assert one != other


def test_a_checkpoint_that_names_no_density_goes_on_with_the_file_s(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(folder: Path) -> RunState:
        found = load_state(folder)
        found.density = None
        return found

    run_once(job, tmp_path / "run", stop=6)
    _measure_anew(job)
    monkeypatch.setattr(run, "load_state", older)
    assert not _others(run_once(job, tmp_path / "run"))
    found = state(tmp_path / "run").density
    assert found and found["uniform_mix"] == 0.5
