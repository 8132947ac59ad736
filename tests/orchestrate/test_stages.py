"""What `raymdm evaluate` takes and refuses before Ray is started, and what it tidies up."""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.config.schema import ModelConfig, Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import stages
from raymdm.orchestrate.check import check
from raymdm.storage import Storage
from tests.models.llada_reference import write_llada

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    write_llada(tmp_path / "llada", files=2)
    return tmp_path / "llada"


@pytest.fixture
def of_llada(make_recipe: MakeRecipe, llada: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def made(adapter: dict[str, object] | None = None, **fields: object) -> Recipe:
        model = {"kind": "pretrained", "path": str(llada), "tokenizer": {"kind": "chars"}, "adapter": adapter}
        recipe = make_recipe(output=str(tmp_path / "runs"), **fields)
        return recipe.model_copy(update={"model": ModelConfig.model_validate(model)})

    return made


def evaluated(recipe: Recipe, model: Path, output: Path) -> None:
    stages.evaluate_model(recipe, model, output, Console(file=io.StringIO()))


def test_the_family_that_is_needed_is_named(make_recipe: MakeRecipe, llada: Path, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), method="arm")
    said = (
        r"--model: .*llada is a model of family mdm, but method arm is of family arm: set method to one of family mdm "
    )
    with pytest.raises(UserError, match=said + r"\(standard, \.\.\.\)"):
        evaluated(recipe, llada, tmp_path / "scores.parquet")


def test_a_causal_model_needs_arm(make_recipe: MakeRecipe, llada: Path, tmp_path: Path) -> None:
    (llada / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r"of family arm, but method standard .* to one of family arm \(arm\)"):
        evaluated(make_recipe(output=str(tmp_path)), llada, tmp_path / "scores.parquet")


def test_a_lost_file_of_weights_is_told_at_once(make_recipe: MakeRecipe, llada: Path, tmp_path: Path) -> None:
    (llada / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"--model: .*model-00001-of-00002\.safetensors, of 2"):
        evaluated(make_recipe(output=str(tmp_path)), llada, tmp_path / "scores.parquet")


def test_its_own_option_is_named_where_the_scores_cannot_go(
    make_recipe: MakeRecipe, llada: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another, -o FILE"):
        evaluated(make_recipe(output=str(tmp_path / "runs")), llada, tmp_path / "file" / "scores.parquet")


@pytest.mark.parametrize("method", ["standard", "arm"])
def test_of_a_whole_model_the_adapter_is_left_out(of_llada: Callable[..., Recipe], llada: Path, method: str) -> None:
    said = io.StringIO()
    found = stages.as_it_is(of_llada({"r": 2}, method=method), llada, Console(file=said, width=300))
    assert found.model_for(method).adapter is None
    assert "model.adapter does not apply" in said.getvalue()


def test_an_adapter_s_folder_needs_the_adapter(of_llada: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    recipe = of_llada({"r": 2})
    assert stages.as_it_is(recipe, tmp_path, Console(file=io.StringIO())) == recipe


def test_parts_of_long_ago_are_removed(tmp_path: Path) -> None:
    old = time.time() - 31 * 24 * 3600
    for name, file, when in (
        ("parts-000000000001", "part-1.parquet", old),
        ("parts-000000000002", "part-1.parquet", time.time()),
        ("parts-000000000003", "model.safetensors", old),
        ("data", "part-1.parquet", old),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
        os.utime(tmp_path / name / file, (when, when))
        os.utime(tmp_path / name, (when, when))
    stages.forget_old_parts(Storage(str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"parts-000000000002", "parts-000000000003", "data"}


def test_offline_looks_at_a_model_in_a_folder(of_llada: Callable[..., Recipe], llada: Path) -> None:
    lines = list(check(of_llada(), offline=True))
    assert [line for line in lines if line.startswith(f"weights of {llada}: 2 files")]
    assert lines[-2] == "not looked at: the data (sorting, generated), tokenizers"


@pytest.mark.parametrize("offline", [True, False])
def test_check_refuses_weights_that_are_cut_short(of_llada: Callable[..., Recipe], llada: Path, offline: bool) -> None:
    file = llada / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match="it was cut short"):
        list(check(of_llada(), offline))


def test_check_says_that_it_did_not_look_at_a_hub_s_model(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    model = {"kind": "pretrained", "path": "org/name", "tokenizer": {"kind": "chars"}}
    recipe = recipe.model_copy(update={"model": ModelConfig.model_validate(model)})
    assert "not looked at: the model's weights (org/name)" in list(check(recipe))
