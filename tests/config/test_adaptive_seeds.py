"""Seeds that are added as needed, as a recipe writes them."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from raymdm.config.problems import describe
from raymdm.config.schema import AdaptiveSeeds, Recipe

MakeRecipe = Callable[..., Recipe]
ASKED = "decided(mirror, standard)"


def recipe_with(make_recipe: MakeRecipe, **seeds: Any) -> Recipe:
    return make_recipe(sweep__methods=["standard", "mirror", "arm"], sweep__seeds={"stop_when": ASKED} | seeds)


def test_a_list_of_seeds_is_taken_as_it_is(make_recipe: MakeRecipe) -> None:
    sweep = make_recipe(sweep__seeds=[5, 3]).sweep
    assert (sweep.first_seeds, sweep.players) == ([5, 3], [])


def test_the_paper_s_seeds_come_first_then_small_numbers(make_recipe: MakeRecipe) -> None:
    sweep = recipe_with(make_recipe, max=6).sweep
    assert isinstance(sweep.seeds, AdaptiveSeeds)
    assert sweep.seeds.order == [42, 731, 20231, 1, 2, 3]
    assert sweep.first_seeds == [42, 731, 20231]


def test_numbers_that_the_paper_used_are_not_used_twice() -> None:
    assert len(set(AdaptiveSeeds(stop_when=ASKED, max=60).order)) == 60


def test_seeds_of_one_s_own(make_recipe: MakeRecipe) -> None:
    sweep = recipe_with(make_recipe, initial=2, max=4, values=[9, 8, 7, 6, 5]).sweep
    assert isinstance(sweep.seeds, AdaptiveSeeds)
    assert (sweep.first_seeds, sweep.seeds.order) == ([9, 8], [9, 8, 7, 6])


def test_only_methods_that_are_asked_of_get_more_seeds(make_recipe: MakeRecipe) -> None:
    assert recipe_with(make_recipe).sweep.players == ["standard", "mirror"]
    assert recipe_with(make_recipe, stop_when=f"halfwidth(accuracy) <= 1 or {ASKED}").sweep.players == [
        "standard", "mirror", "arm",
    ]  # fmt: skip


@pytest.mark.parametrize(("most", "looks"), [(20, 6), (4, 3), (5, 5)])
def test_no_look_comes_without_new_seeds(make_recipe: MakeRecipe, most: int, looks: int) -> None:
    sweep = recipe_with(make_recipe, max=most).sweep
    assert isinstance(sweep.seeds, AdaptiveSeeds)
    assert sweep.seeds.num_looks(len(sweep.players)) == looks


def test_the_baseline_must_be_run(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValidationError, match="`baseline` \\(strats\\) must be among `methods`"):
        make_recipe(sweep__methods=["standard", "mirror"], sweep__seeds={"stop_when": ASKED}, sweep__baseline="strats")


def test_it_is_written_down_and_read_back(make_recipe: MakeRecipe) -> None:
    recipe = recipe_with(make_recipe, max=7)
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump()))) == recipe


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"max": 3}, "sweep.seeds: `max` (3) must be above `initial` (3)"),
        ({"initial": 1}, "sweep.seeds.initial: got 1; expected a number of at least 2"),
        ({"values": [1, 2]}, "sweep.seeds: `values` holds 2 seeds, `max` allows 20"),
        ({"values": [1, 1]}, "sweep.seeds.values: got [1, 1]: named more than once"),
        ({"stop_when": "dominates(mirror, standard)"}, "cannot be asked again and again"),
        ({"stop_when": "halfwidth(val_nll) <= 1"}, "an adaptive sweep is about accuracy"),
        ({"stop_when": "decided(mirror)"}, "expected two methods"),
        ({"stop_when": f"not {ASKED}"}, "`not` would hold at the first look"),
        ({"max": 4, "looks": 4}, "there are only 2 seeds to add between them. Set it to 3 or less"),
        ({"stop_when": "decided(mirror, ema)"}, "asks of 'ema', which is not among `methods`"),
        ({"maxx": 4}, "sweep.seeds.maxx: unknown field; did you mean sweep.seeds.max?"),
    ],
)
def test_mistakes_are_named(make_recipe: MakeRecipe, seeds: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        recipe_with(make_recipe, **seeds)
    assert said in " ".join(describe(found) for found in error.value.errors())
