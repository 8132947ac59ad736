"""The program that compares methods at equal compute: each method's share, and what its results are kept by."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from raymdm.config.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def program(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("equal", repo_root / "benchmarks" / "accuracy_at_equal_compute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_equal_and_no_run_stops_early(program: ModuleType, make_recipe: MakeRecipe) -> None:
    settings = program.equal_rows(make_recipe(train__patience=3)).train
    assert (settings.budget, settings.patience) == ("rows", None)


def test_results_are_kept_by_recipe(program: ModuleType, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    one, again, other = (
        program.results_folder(make_recipe(output=str(tmp_path), train__lr=x)) for x in (0.1, 0.1, 0.2)
    )
    assert one == again
    assert one != other


def test_results_are_kept_by_weights(program: ModuleType, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    model = recipe.model.model_copy(update={"kind": "pretrained", "path": str(tmp_path)})
    recipe, folders = recipe.model_copy(update={"model": model}), []
    for weights in (b"one", b"two", b"one"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        folders.append(program.results_folder(recipe))
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]


def test_a_result_is_kept_by_the_parts_of_its_method(program: ModuleType, make_recipe: MakeRecipe) -> None:
    one, two = (make_recipe(methods={"mine": {"views": views}}) for views in (2, 3))
    assert program.identity(one, "mine") != program.identity(two, "mine")
    assert program.identity(one, "mirror") == program.identity(two, "mirror")
