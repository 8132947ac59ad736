"""How long responses are filled: what is refused, and what the recipes ask for."""

from pathlib import Path

import pytest

from raymdm.config.load import load_recipe
from raymdm.config.schema import DataConfig


@pytest.mark.parametrize("fill", [0, -1, 1.5, 32, 33])
def test_a_fill_without_room_for_a_prompt_is_refused(fill: float) -> None:
    with pytest.raises(ValueError, match="fill_response_to"):
        DataConfig.model_validate({"task": "sorting", "max_length": 32, "fill_response_to": fill})


def test_a_fill_that_leaves_room_for_a_prompt_is_taken() -> None:
    assert DataConfig(task="sorting", max_length=32, fill_response_to=31).fill_response_to == 31


def test_responses_are_as_they_are_unless_a_recipe_says_otherwise() -> None:
    assert DataConfig(task="sorting").fill_response_to is None


def test_a_recipe_fills_responses_to_the_length_that_it_generates(repo_root: Path) -> None:
    recipe = load_recipe(repo_root / "jobs" / "recipes" / "gsm8k-tiny.yaml")
    assert recipe.data.fill_response_to == recipe.evaluate.generation_length == 128
