"""Parts of a sweep that need no Ray."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.config.load import dump_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import write_json
from raymdm.orchestrate.observer import params
from raymdm.orchestrate.rounds import finished
from raymdm.orchestrate.status import render, status
from raymdm.orchestrate.sweep import counted, noted, outcome, without_secrets
from raymdm.storage import StorageError

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


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StorageError("no room: make some"), "no room: make some"),
        (ValueError("a long story\nnan in layer 3\n"), "ValueError: nan in layer 3"),
        (ZeroDivisionError(), "ZeroDivisionError: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_sweep_is_written_down(
    make_recipe: MakeRecipe, tmp_path: Path, error: Exception, text: str
) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    with pytest.raises(type(error)), noted(folder, "calibration"):
        raise error
    assert folder.state()["error"] == {"stage": "calibration", "text": text}


def test_what_ended_a_sweep_is_told_with_the_command_to_go_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    folder.update(status="interrupted", error={"stage": "calibration", "text": "no row is finite: look at it"})
    console = Console(file=io.StringIO(), width=200)
    console.print(render(status(folder.path)), soft_wrap=True)
    assert console.file.getvalue().splitlines()[-2:] == [
        "ended by an error in its calibration: no row is finite: look at it",
        f"go on with: raymdm sweep {folder.path}/recipe.yaml --resume",
    ]


def test_an_interrupt_is_no_error(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    with pytest.raises(KeyboardInterrupt), noted(folder, "runs"):
        raise KeyboardInterrupt
    assert folder.state().get("error") is None


def test_rows_in_words() -> None:
    counts = {
        "train": {"rows": 180, "kept": 154, "too_long": 26, "bad_rows": 2, "longest": 90},
        "validation": {"rows": 20, "kept": 19, "too_long": 1, "longest": 70},
        "test": {"rows": 8, "kept": 8, "too_long": 0, "bad_rows": 0, "longest": 60},
    }
    assert counted(counts) == "train 154 of 180 rows, validation 19 of 20 rows, test 8 rows; 27 too long; 2 not usable"
