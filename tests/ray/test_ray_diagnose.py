"""`raymdm diagnose` as a user runs it, on a model that trains in a second."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.comparison.diagnosis import Diagnosis, load_diagnosis
from raymdm.comparison.diagnosis_report import write_report
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.models.load import load_model, save_model
from raymdm.orchestrate.diagnose import diagnose

MakeRecipe = Callable[..., Recipe]
SMALL = {
    "diagnose__sequences": 6, "diagnose__rates": 16, "diagnose__masks": 2, "diagnose__gradient_sequences": 4,
    "diagnose__gradient_rates": 16, "diagnose__replicates": 50, "calibrate__gradient_sequences": 2,
    "methods": {
        "mine": {"extends": "fixed_size", "strata": "batch"},
        # the name of a masking, which must not be taken for it
        "bernoulli": {"extends": "fixed_size", "strata": "batch", "views": 2, "coupling": "consecutive",
                 "view_rates": "stratified"},
    },
    "tracking__uri": "http://me:secret@127.0.0.1:5000",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    return diagnose(make_recipe(output=str(output), **SMALL), None, None, Console(quiet=True))


@pytest.fixture(scope="module")
def found(folder: Path) -> Diagnosis:
    return load_diagnosis(folder)


def test_every_method_that_the_data_can_have_is_measured(found: Diagnosis) -> None:
    left_out = {"arm", "isad", "syrm"}  # sorting has neither delimiters nor syntax
    assert {method.name for method in found.methods} == {*METHODS, "mine", "bernoulli"} - left_out
    assert [warning.split()[0] for warning in found.warnings if "left out" in warning] == ["isad", "syrm"]


def test_a_method_of_several_rates_has_two_rows(found: Diagnosis) -> None:
    (pair,) = [method for method in found.methods if method.name == "bernoulli"]
    assert pair.rows == 2
    assert pair.gradient is not None
    assert pair.bias is not None and not pair.bias.by_construction


def test_only_methods_of_the_baseline_s_rows_agree_with_it_by_construction(found: Diagnosis) -> None:
    same = {method.name for method in found.methods if method.bias and method.bias.by_construction}
    assert same == {"p_pots", "g_pots", "strats", "low_discrepancy", "ema"}


def test_no_password_is_written_down(folder: Path) -> None:
    assert "secret" not in (folder / "recipe.yaml").read_text()
    assert "secret" not in write_report(folder).read_text()


def test_strata_never_add_variance_to_a_batch(found: Diagnosis) -> None:
    rows = {method.name: method for method in found.methods}
    assert rows["mine"].loss.total == rows["fixed_size"].loss.total
    assert rows["mine"].loss.batch.value <= rows["fixed_size"].loss.batch.value * 1.02


def test_the_densities_are_those_of_a_calibration(folder: Path, found: Diagnosis) -> None:
    saved = json.loads((folder / "calibrations" / "fixed_size" / "density.json").read_text())
    assert found.densities["fixed_size"].p == saved["fitted"]


def test_the_report_names_every_method(folder: Path, found: Diagnosis) -> None:
    page = write_report(folder).read_text()
    assert all(method.name in page for method in found.methods)


def test_the_same_again_gives_the_same_numbers(
    make_recipe: MakeRecipe, folder: Path, found: Diagnosis, tmp_path: Path
) -> None:
    """Also with other batches and two actors: a draw's key is its own."""
    settings = SMALL | {"diagnose__methods": ["fixed_size"], "diagnose__num_actors": 2, "diagnose__cpus_per_actor": 0.5}
    again = load_diagnosis(diagnose(make_recipe(output=str(tmp_path), **settings), None, None, Console(quiet=True)))
    before = {method.name: method for method in found.methods}
    for method in again.methods:
        assert method.loss == before[method.name].loss
        assert method.gradient == before[method.name].gradient


def test_an_arm_has_data_noise_alone(make_recipe: MakeRecipe, tiny_data: Path, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), **SMALL)
    save_model(load_model(recipe.model, loading.tokenizer(tiny_data), "arm"), tmp_path / "model")
    found = load_diagnosis(diagnose(recipe, tmp_path / "model", None, Console(quiet=True)))
    (arm,) = found.methods
    assert found.family == "arm"
    assert arm.loss.masks.value == pytest.approx(0, abs=1e-12)
    assert arm.loss.rate.value == pytest.approx(0, abs=1e-9)
    assert arm.loss.data.value == pytest.approx(arm.loss.total.value)


def test_a_broken_configuration_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"--checkpoint: .*config\.json is broken"):
        diagnose(make_recipe(output=str(tmp_path)), tmp_path, None, Console(quiet=True))


def test_a_folder_without_a_model_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--checkpoint: .* holds no model\.safetensors"):
        diagnose(make_recipe(output=str(tmp_path)), tmp_path, None, Console(quiet=True))


def test_a_method_that_the_data_cannot_have_is_refused_when_asked_for(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), **SMALL, diagnose__methods=["isad"])
    with pytest.raises(UserError, match=r"data\.delimiters"):
        diagnose(recipe, None, None, Console(quiet=True))
