"""A calibration is measured again when what it was made of has changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import METHODS, Recipe
from raymdm.orchestrate.calibrate import announced, source_of

MakeRecipe = Callable[..., Recipe]
DATA = Path("cache") / "0123"


def test_the_number_of_actors_does_not_count(make_recipe: MakeRecipe) -> None:
    one, two = make_recipe(), make_recipe(calibrate__num_actors=2, sweep__seeds=[1, 2])
    assert source_of(one, METHODS["p_pots"], DATA, None) == source_of(two, METHODS["p_pots"], DATA, None)


@pytest.mark.parametrize("change", [{"calibrate__seed": 1}, {"model__init_seed": 1}, {"calibrate__masks": 3}])
def test_settings_and_model_count(make_recipe: MakeRecipe, change: dict[str, int]) -> None:
    before = source_of(make_recipe(), METHODS["p_pots"], DATA, None)
    assert source_of(make_recipe(**change), METHODS["p_pots"], DATA, None) != before


def test_data_and_masking_count(make_recipe: MakeRecipe) -> None:
    before = source_of(make_recipe(), METHODS["p_pots"], DATA, None)
    assert source_of(make_recipe(), METHODS["p_pots"], Path("cache") / "4567", None) != before
    assert source_of(make_recipe(), METHODS["p_pots_mirror"], DATA, None) != before


def test_weights_count_and_so_does_their_change(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    found = {source_of(make_recipe(), METHODS["p_pots"], DATA, None)}
    found.add(source_of(make_recipe(), METHODS["p_pots"], DATA, tmp_path))
    os.utime(weights, ns=(1, 1))
    found.add(source_of(make_recipe(), METHODS["p_pots"], DATA, tmp_path))
    assert len(found) == 3


def test_updates_of_an_adapter_count(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    found = [source_of(make_recipe(), METHODS["p_pots"], DATA, weights) for weights in (None, tmp_path)]
    assert found[0] != found[1]


def test_a_density_that_is_there_is_said_with_its_warnings(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, methods = make_recipe(), {"independent": METHODS["p_pots"], "mirrored": METHODS["p_pots_mirror"]}
    file = tmp_path / "independent" / "density.json"
    file.parent.mkdir()
    source = source_of(recipe, methods["independent"], DATA, None)
    file.write_text(json.dumps({"source": source, "warnings": ["the fit is poor"]}))
    assert list(announced(recipe, methods, DATA, tmp_path)) == [
        "calibrating p(t) for mirrored",
        f"p(t) for independent is there already: {file}",
        "warning: calibration independent: the fit is poor",
    ]


def test_a_density_of_other_settings_is_measured_again(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    file = tmp_path / "independent" / "density.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"source": "0123", "warnings": ["the fit is poor"]}))
    lines = list(announced(make_recipe(), {"independent": METHODS["p_pots"]}, DATA, tmp_path))
    assert lines == ["calibrating p(t) for independent"]
