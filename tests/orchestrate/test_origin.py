"""Code and libraries that changed while a sweep rested are told and kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.orchestrate import origin as module
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.origin import Origin, go_on_with, note, origin, stamp

MakeRecipe = Callable[..., Recipe]
INPUTS = {"data": {}, "models": {}}
BEFORE: Origin = {"git_commit": "aaa", "raymdm_version": "0.1.0", "environment": {"torch": "2.13.0", "ray": "2.58.0"}}
AFTER: Origin = {"git_commit": "bbb", "raymdm_version": "0.1.0", "environment": {"torch": "2.14.0", "ray": "2.58.0"}}


@pytest.fixture
def folder(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    folder = create(make_recipe(output=str(tmp_path)), INPUTS)
    folder.update(origins=[BEFORE])
    monkeypatch.setattr(module, "origin", lambda: AFTER)
    return folder


def test_a_new_sweep_holds_what_it_was_begun_under(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    state = create(make_recipe(output=str(tmp_path)), INPUTS).state()
    assert state["origins"] == [origin()]
    assert {part: state[part] for part in origin()} == origin()


def test_every_part_that_changed_is_a_line(folder: SweepFolder) -> None:
    assert go_on_with(folder, INPUTS) == [
        "since it ran last: git commit aaa -> bbb",
        "since it ran last: torch 2.13.0 -> 2.14.0",
    ]
    assert folder.state()["origins"] == [BEFORE, AFTER]


def test_it_is_told_once(folder: SweepFolder) -> None:
    go_on_with(folder, INPUTS)
    assert go_on_with(folder, INPUTS) == []
    assert folder.state()["origins"] == [BEFORE, AFTER]


def test_a_sweep_of_an_earlier_version_takes_up_its_data_once(folder: SweepFolder) -> None:
    state = folder.state() | BEFORE
    for key in ("inputs", "origins", "ran_under"):
        del state[key]
    folder.write("sweep.json", json.dumps(state))
    inputs = {"data": {"mdm": {"hash": "abc", "rows": {}}}, "models": {}}
    *_, line = go_on_with(folder, inputs)
    assert "does not say which data and model it was begun with" in line
    assert (folder.state()["inputs"], folder.state()["origins"]) == (inputs, [BEFORE, AFTER])
    assert go_on_with(folder, inputs) == []


def _end(folder: SweepFolder) -> None:
    folder.write("trials/standard-s1/result.json", json.dumps({"status": "finished"}))


def test_a_run_that_went_on_is_of_both(folder: SweepFolder) -> None:
    note(folder, ("standard", 1))
    go_on_with(folder, INPUTS)
    note(folder, ("standard", 1))
    note(folder, ("standard", 1))
    _end(folder)
    assert stamp(folder, ("standard", 1))["origins"] == [BEFORE, AFTER]


def test_a_run_that_ended_before_its_driver_could_say_so_is_of_that_driver_s(folder: SweepFolder) -> None:
    note(folder, ("standard", 1))
    _end(folder)
    go_on_with(folder, INPUTS)
    stamp(folder, ("standard", 1))
    written = json.loads((folder.trial("standard", 1) / "result.json").read_text())
    assert written == {"status": "finished", "origins": [BEFORE]}


def test_a_run_of_an_earlier_version_says_nothing(folder: SweepFolder) -> None:
    _end(folder)
    assert stamp(folder, ("standard", 1)) == {"status": "finished"}
