"""deploy/sweep_until_done.py: goes on with an unfinished sweep, and starts one where there is none."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import raymdm.cli
from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.storage import Storage, StorageError

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Callable[..., list[str]]:
    """Runs the script; returns the arguments that it gave `raymdm`."""

    def run(*arguments: str) -> list[str]:
        calls: list[list[str]] = []
        monkeypatch.setattr(raymdm.cli, "main", calls.append)
        monkeypatch.setattr(sys, "argv", ["sweep_until_done.py", *arguments])
        runpy.run_path(str(repo_root / "deploy" / "sweep_until_done.py"), run_name="__main__")
        (call,) = calls
        return call

    return run


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path) -> Recipe:
    return make_recipe(output=str(tmp_path / "runs"))


@pytest.fixture
def file(recipe: Recipe, tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return str(path)


def test_starts_where_there_is_no_sweep(asked: Callable[..., list[str]], file: str) -> None:
    assert asked(file, "train.lr=0.001") == ["sweep", file, "train.lr=0.001"]


def test_goes_on_with_an_unfinished_one(asked: Callable[..., list[str]], recipe: Recipe, file: str) -> None:
    create(recipe).update(status="interrupted")
    assert asked(file) == ["sweep", file, "--resume"]


def test_a_sweep_that_has_finished_is_reported_not_run_again(
    asked: Callable[..., list[str]], recipe: Recipe, file: str
) -> None:
    folder = create(recipe)
    folder.update(status="finished")
    assert asked(file) == ["compare", str(folder.path)]


def test_storage_that_is_away_starts_nothing(
    asked: Callable[..., list[str]], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(storage: Storage, folder: str = "") -> list[str]:
        raise StorageError("away")

    monkeypatch.setattr(Storage, "names", away)
    with pytest.raises(SystemExit, match="2"):
        asked(file, f"storage_path={tmp_path / 'there'}")


def test_leaves_another_recipe_s_sweep_alone(asked: Callable[..., list[str]], recipe: Recipe, file: str) -> None:
    create(recipe).update(status="interrupted")
    assert asked(file, "train.lr=0.001") == ["sweep", file, "train.lr=0.001"]


def test_refuses_an_output_that_the_next_try_would_not_find(
    asked: Callable[..., list[str]], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        asked(file, "output=runs")
    assert "output=runs: give an absolute folder" in capsys.readouterr().err
