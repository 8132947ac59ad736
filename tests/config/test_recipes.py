"""The recipes that come with the repository."""

from pathlib import Path

import pytest

from raymdm.config.load import load_recipe

FOLDER = Path(__file__).parents[2] / "jobs" / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("_"))


def test_there_are_recipes():
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_loads_and_describes_itself(path):
    recipe = load_recipe(path)
    assert recipe.description
    assert recipe.name == path.stem
