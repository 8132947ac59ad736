"""The sweep folder: its files, its lock, its copy on other storage."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder, localised, writable
from raymdm.storage import Storage

MakeRecipe = Callable[..., Recipe]


def test_a_new_folder_holds_recipe_and_state(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    folder = create(recipe)
    assert folder.recipe() == recipe
    assert folder.state()["status"] == "running"
    assert set(folder.state()["environment"]) >= {"ray", "torch", "python"}


def test_local_folders_become_absolute_and_hub_names_stay(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    base = make_recipe(output="runs")
    recipe = base.model_copy(
        update={
            "model": base.model.model_copy(update={"kind": "pretrained", "path": "model"}),
            "arm_model": base.model.model_copy(update={"kind": "pretrained", "path": "org/name"}),
        }
    )
    found = localised(recipe)
    assert found.output == str(tmp_path / "runs")
    assert found.model.path == str(tmp_path / "model")
    assert found.arm_model is not None and found.arm_model.path == "org/name"


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


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_only_seems_writable_is_refused() -> None:
    with pytest.raises(UserError, match=r"output: cannot write to /proc/x .*choose another, -o DIR"):
        writable(Path("/proc/x"), "-o DIR")


def test_looking_leaves_nothing(tmp_path: Path) -> None:
    writable(tmp_path / "runs" / "below")
    assert not list(tmp_path.iterdir())


def test_a_missing_sweep_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SweepFolder(tmp_path).state()


def test_the_state_and_the_recipe_reach_the_storage(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path / "here"), storage_path=str(tmp_path / "there"))
    folder = create(recipe)
    folder.update(slots=3)
    theirs = Storage(str(tmp_path / "there" / folder.path.name))
    assert json.loads(theirs.read("sweep.json")) == folder.state()
    assert theirs.read("recipe.yaml") == (folder.path / "recipe.yaml").read_bytes()
    assert folder.storage.uri == theirs.uri


def test_what_a_run_left_is_fetched_without_its_model(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path / "here"), storage_path=str(tmp_path / "there")))
    for name in ("result.json", "model/model.safetensors"):
        folder.storage.write(f"trials/standard-s1/{name}", b"{}")
    folder.pull("standard", 1)
    assert [path.name for path in folder.trial("standard", 1).iterdir()] == ["result.json"]


def test_a_model_that_other_nodes_cannot_see_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    base = make_recipe(output=str(tmp_path), storage_path="s3://bucket/folder?region=us-east-1")
    model = base.model.model_copy(update={"kind": "pretrained", "path": str(tmp_path)})
    with pytest.raises(UserError, match="copy it to s3://bucket/folder"):
        localised(base.model_copy(update={"model": model}))
