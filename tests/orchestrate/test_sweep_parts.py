"""Parts of a sweep that need no Ray."""

from collections.abc import Callable
from pathlib import Path

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import write_json
from raymdm.orchestrate.observer import params
from raymdm.orchestrate.rounds import finished
from raymdm.orchestrate.sweep import outcome, without_secrets

MakeRecipe = Callable[..., Recipe]


def test_outcome_follows_the_results(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2])
    folder = create(recipe)
    assert outcome(recipe, folder) == "interrupted"
    write_json(folder.trial("standard", 1) / "result.json", {"status": "finished"})
    assert finished(folder, ("standard", 1))
    assert outcome(recipe, folder) == "interrupted"
    write_json(folder.trial("standard", 2) / "result.json", {"status": "failed"})
    assert outcome(recipe, folder) == "failed"
    write_json(folder.trial("standard", 2) / "result.json", {"status": "finished"})
    assert outcome(recipe, folder) == "finished"


def test_a_password_is_written_nowhere(make_recipe: MakeRecipe) -> None:
    recipe = without_secrets(make_recipe(tracking__uri="http://me:secret@host:5000"))
    assert "secret" not in dump_recipe(recipe)
    assert "host:5000" in dump_recipe(recipe)


def test_params_name_the_run_s_method_and_parts(make_recipe: MakeRecipe) -> None:
    found = params(make_recipe(), "mirror", 5)
    assert (found["method"], found["seed"]) == ("mirror", 5)
    assert found["method_parts"]["coupling"] == "mirrored"
