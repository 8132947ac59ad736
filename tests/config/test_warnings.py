"""What a recipe warns of."""

from typing import Any

import pytest

from raymdm.config.schema import Recipe

STACKED = {"mine": {"control_variate": "ema", "strata": "sqrt"}, "other": {"extends": "ema", "density": "p_pots"}}


@pytest.mark.parametrize(
    ("use", "named"),
    [
        ({}, []),
        ({"method": "mine"}, ["mine"]),
        ({"sweep": {"methods": ["standard", "mine"]}}, ["mine"]),
        ({"diagnose": {"methods": ["other"]}}, ["other"]),
        ({"method": "mine", "sweep": {"methods": ["other", "mine"]}, "diagnose": {"methods": ["mine"]}},
         ["mine", "other"]),
    ],
)  # fmt: skip
def test_a_recipe_warns_of_each_method_that_it_names_once(use, named):
    base = {"name": "small", "data": {"task": "sorting"}, "model": {"kind": "tiny", "tokenizer": {"kind": "chars"}}}
    warnings = Recipe.model_validate(base | {"methods": STACKED} | use).warnings
    assert [warning.split(":")[0] for warning in warnings] == named


def several(**fields: Any) -> Recipe:
    """A sweep of three seeds of `standard` and `arm`, on a pretrained model."""
    base = {"name": "small", "data": {"task": "sorting"}, "model": {"kind": "pretrained", "path": "some/model"}}
    return Recipe.model_validate(base | {"sweep": {"methods": ["standard", "arm"], "seeds": [1, 2, 3]}} | fields)


def test_several_seeds_of_a_method_that_ignores_them_are_warned_of() -> None:
    (warning,) = several().warnings
    assert warning.startswith("arm: nothing in its training depends on a run's seed")
    assert "Set train.order_seed: run" in warning


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"order_seed": "run"}},
        {"sweep": {"methods": ["arm"], "seeds": [1]}},
        {"sweep": {"methods": ["standard"], "seeds": [1, 2]}},
        {"model": {"kind": "pretrained", "path": "some/model", "adapter": {"dropout": 0.1}}},
    ],
)
def test_seeds_that_matter_or_stand_alone_are_not(change: dict[str, Any]) -> None:
    assert several(**change).warnings == []


def test_of_two_models_the_arm_s_own_adapter_counts() -> None:
    drops = {"kind": "pretrained", "path": "some/arm", "adapter": {"dropout": 0.1}}
    assert not several(arm_model=drops).ignores_seed("arm")
    assert several(model=drops, arm_model=drops | {"adapter": None}).ignores_seed("arm")
