"""The sweep folder: creation, resume and refusal."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.check import writable
from raymdm.orchestrate.folder import SweepFolder, create, latest_unfinished

MakeRecipe = Callable[..., Recipe]


def test_a_new_folder_holds_recipe_and_state(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    folder = create(recipe)
    assert folder.recipe() == recipe
    assert folder.state()["status"] == "running"
    assert set(folder.state()["environment"]) >= {"ray", "torch", "python"}


def test_resume_finds_the_unfinished_sweep(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    folder = create(recipe)
    folder.update(status="interrupted")
    assert latest_unfinished(recipe) == folder


def test_a_finished_sweep_is_not_resumed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    create(recipe).update(status="finished")
    with pytest.raises(UserError, match="no unfinished sweep 'tiny-test'"):
        latest_unfinished(recipe)


def test_a_changed_recipe_is_not_resumed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    create(make_recipe(output=str(tmp_path)))
    with pytest.raises(UserError, match=r"train.lr: 0.003 -> 0.1"):
        latest_unfinished(make_recipe(output=str(tmp_path), train__lr=0.1))


def test_what_does_not_change_results_may_change(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    assert latest_unfinished(make_recipe(output=str(tmp_path), sweep__max_concurrent=1)) == folder


def test_update_keeps_other_fields(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    before = folder.state()
    folder.update(slots=3)
    assert folder.state() == before | {"slots": 3}
    assert json.loads((folder.path / "sweep.json").read_text())["slots"] == 3


def test_an_output_that_is_a_file_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output: cannot write to"):
        create(make_recipe(output=str(tmp_path / "file")))
    with pytest.raises(UserError, match="output: cannot write to"):
        writable(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"):
        writable(tmp_path / "runs")


def test_a_missing_sweep_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SweepFolder(tmp_path).state()
