"""A run that stops and goes on ends where the uninterrupted one does, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupted import (
    assert_same_run,
    density,
    events_of,
    last,
    poison,
    records_of,
    run_once,
    run_stopped,
    state,
)

from raymdm.config.schema import METHODS, Recipe
from raymdm.training import step
from raymdm.training.loop import Job

MakeRecipe = Callable[..., Recipe]
STEPS = 12


@pytest.fixture(scope="module")
def whole(tiny_data: Path, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A run that nothing interrupted: evaluations at 4, 8 and 12, windows that end at 5, 10 and 12."""
    job, folder = Job(make_recipe(), "standard", 42, tiny_data), tmp_path_factory.mktemp("whole")
    run_once(job, folder)
    return job, folder


def _with(job: Job, every: int | None) -> Job:
    train = job.recipe.train.model_copy(update={"checkpoint_every": every})
    return Job(job.recipe.model_copy(update={"train": train}), job.method, job.seed, job.data, job.density)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_a_stop_in_any_step_changes_nothing(whole: tuple[Job, Path], tmp_path: Path, stop: int, every: int) -> None:
    run_stopped(_with(whole[0], every), tmp_path / "run", [stop])
    assert_same_run(tmp_path / "run", whole[1])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, STEPS), min_size=2, max_size=5), every=st.sampled_from([None, 1, 2, 5]))
def test_several_stops_change_nothing(
    whole: tuple[Job, Path], tmp_path_factory: pytest.TempPathFactory, stops: list[int], every: int | None
) -> None:
    folder = tmp_path_factory.mktemp("stops")
    run_stopped(_with(whole[0], every), folder, stops)
    assert_same_run(folder, whole[1])


@pytest.mark.parametrize("method", ["p_pots_mirror", "strats", "ema", "clipped_search", "stable", "arm"])
def test_resumed_run_equals_the_uninterrupted_one(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, method: str
) -> None:
    """Stopped in the middle of a log window, right after a search and between evaluations."""
    recipe = make_recipe(train__checkpoint_every=3)
    job = Job(recipe, method, 42, tiny_data, density(tmp_path, METHODS[method]))
    expected = records_of(run_once(job, tmp_path / "whole"))
    found = records_of(run_stopped(job, tmp_path / "run", [5, 5]))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert found == expected, "reports before the stop may be lost, so all are sent again"


@pytest.mark.parametrize("fit", ["epr", "polynomial", "histogram"])
def test_resumed_run_goes_on_with_the_refitted_density(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, fit: str
) -> None:
    """Refits at 3, before the stop, and 6 and 9, after it."""
    recipe = make_recipe(
        train__refit_every=3, calibrate__starts=2, methods={"refitted": {"extends": "p_pots", "fit": fit}}
    )
    job = Job(recipe, "refitted", 42, tiny_data, density(tmp_path, recipe.spec("refitted")))
    run_once(job, tmp_path / "whole")
    run_stopped(job, tmp_path / "run", [6])
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert [r["step"] for r in state(tmp_path / "run").records if "drift/kl" in r] == [3, 6, 9]


@pytest.mark.parametrize("why", ["node", "sweep"])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])
def test_leaving_after_any_step_changes_nothing(whole: tuple[Job, Path], tmp_path: Path, step: int, why: str) -> None:
    """Between evaluations nothing else would write a checkpoint."""
    steps = iter(range(1, 100))
    told = run_once(_with(whole[0], None), tmp_path / "run", notice=lambda: why if next(steps) >= step else "")
    assert last(tmp_path / "run").step == step
    assert [(event["event"], event["step"], event["why"]) for event in events_of(told)] == [("left", step, why)]
    assert told[-1]["left"] == why
    run_once(_with(whole[0], None), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole[1])


def test_a_run_whose_last_step_is_done_does_not_leave(whole: tuple[Job, Path], tmp_path: Path) -> None:
    steps = iter(range(1, 100))
    reports = run_once(whole[0], tmp_path / "run", notice=lambda: "sweep" if next(steps) >= STEPS else "")
    assert not events_of(reports) and reports[-1]["left"] == ""
    assert_same_run(tmp_path / "run", whole[1])


def test_patience_is_not_renewed_by_a_stop(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A learning rate that makes it worse: the run ends early, at the same step."""
    recipe = make_recipe(train__lr=0.1, train__patience=2, train__max_steps=40, train__checkpoint_every=1)
    job = Job(recipe, "standard", 42, tiny_data)
    run_once(job, tmp_path / "whole")
    run_stopped(job, tmp_path / "run", [6, 4, 3])
    assert last(tmp_path / "whole").step < 40
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(whole: tuple[Job, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[1].rglob("*")}
    reports = run_once(whole[0], whole[1], stop=1)
    assert len(reports) == 1, "no step was done"
    assert {record["step"] for record in reports[0]["records"]} == {4, 5, 8, 10, 12}
    assert {path: path.stat().st_mtime_ns for path in whole[1].rglob("*")} == before


def test_a_run_says_where_it_went_on(whole: tuple[Job, Path], tmp_path: Path) -> None:
    run_once(whole[0], tmp_path / "run", stop=7)
    events = events_of(run_once(whole[0], tmp_path / "run"))
    assert [(event["event"], event["step"]) for event in events] == [("resumed", 4)]


def test_what_happened_before_a_stop_is_told_again_word_for_word(
    whole: tuple[Job, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step before the checkpoint of step 4 and one after it, which is done twice."""
    monkeypatch.setattr(step, "_losses", poison(2, [2, 5], float("nan")))
    expected = events_of(run_once(whole[0], tmp_path / "whole"))
    run_once(whole[0], tmp_path / "run", stop=7)
    found = events_of(run_once(whole[0], tmp_path / "run"))
    assert [event["step"] for event in expected] == [3, 6]
    assert [event for event in found if event["event"] != "resumed"] == expected
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_changes_nothing(whole: tuple[Job, Path], tmp_path: Path) -> None:
    often = records_of(run_once(_with(whole[0], 1), tmp_path / "often"))
    assert_same_run(tmp_path / "often", whole[1])
    assert often == records_of(run_once(whole[0], tmp_path / "seldom"))


def test_seed_and_method_decide_a_run_and_nothing_else(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    runs = {
        name: records_of(run_once(Job(make_recipe(), method, seed, tiny_data), tmp_path / name))
        for name, method, seed in [("a", "standard", 1), ("b", "standard", 1), ("c", "standard", 2)]
    }
    assert json.dumps(runs["a"]) == json.dumps(runs["b"])
    assert runs["a"] != runs["c"]
