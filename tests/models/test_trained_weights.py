"""What weights of a run say of themselves in config.json, and recipes and tokenizers that say otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.load import load_model, save_model, skeleton

LOADS = [load_model, skeleton]
ADAPTERS = [None, {"r": 2}]


class Tokens:
    """A tokenizer as far as loading a model asks: its length, and its mask."""

    def __init__(self, length: int, mask: int | None) -> None:
        self.length, self.mask_token_id = length, mask

    def __len__(self) -> int:
        return self.length


@pytest.fixture
def base(tmp_path: Path) -> Path:
    config = AutoConfig.for_model(
        "qwen2", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def settings(path: Path, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"kind": "pretrained", "path": str(path), **fields})


def trained(base: Path, adapter: Any, family: Any = "mdm", tokens: Any = Tokens(41, 40), **fields: Any) -> Path:
    """A folder as a run leaves it, next to its base model."""
    folder = base.parent / "trained"
    save_model(load_model(settings(base, adapter=adapter, **fields), tokens, family), folder)
    return folder


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_shift_they_were_trained_with_is_taken_where_the_recipe_says_nothing(
    base: Path, load: Any, adapter: Any
) -> None:
    weights = trained(base, adapter, right_shift_logits=True)
    assert load(settings(base, adapter=adapter), Tokens(41, 40), "mdm", weights).config.right_shift_logits is True


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("shift", [True, False])
def test_a_recipe_that_denies_their_shift_is_told(base: Path, load: Any, adapter: Any, shift: bool) -> None:
    weights = trained(base, adapter, right_shift_logits=shift)
    with pytest.raises(UserError, match=f"right_shift_logits: {not shift}, but weights .* were trained with {shift}"):
        load(settings(base, adapter=adapter, right_shift_logits=not shift), Tokens(41, 40), "mdm", weights)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_tokenizer_with_another_mask_than_theirs_is_refused(base: Path, adapter: Any) -> None:
    weights = trained(base, adapter)
    with pytest.raises(UserError, match=r"the model's mask token is 40 .*, the tokenizer's 39"):
        load_model(settings(base, adapter=adapter), Tokens(41, 39), "mdm", weights)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_their_mask_stays_where_the_tokenizer_has_none(base: Path, adapter: Any) -> None:
    weights = trained(base, adapter)
    assert load_model(settings(base, adapter=adapter), range(41), "mdm", weights).config.mask_token_id == 40


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("family", "other", "reason"),
    [("mdm", "arm", "a bidirectional model .* an arm is not"), ("arm", "mdm", "a causal model .* an mdm is not")],
)
def test_weights_of_the_other_family_are_refused(
    base: Path, load: Any, adapter: Any, family: Any, other: Any, reason: str
) -> None:
    weights = trained(base, adapter, family)
    with pytest.raises(UserError, match=f"weights .*trained'.*{reason}"):
        load(settings(base, adapter=adapter), Tokens(41, 40), other, weights)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("length", [40, 42])
def test_updates_for_another_number_of_tokens_are_refused(base: Path, load: Any, length: int) -> None:
    weights = trained(base, {"r": 2})
    with pytest.raises(UserError, match=f"trained with 41 tokens .* make {length}"):
        load(settings(base, adapter={"r": 2}), Tokens(length, None), "mdm", weights)


@pytest.mark.parametrize("load", LOADS)
def test_whole_weights_of_fewer_tokens_are_refused(base: Path, load: Any) -> None:
    weights = trained(base, None)
    with pytest.raises(UserError, match="the model has 41 tokens, the tokenizer 42"):
        load(settings(base), Tokens(42, 40), "mdm", weights)


def test_a_skeleton_has_the_updates_of_the_folder_not_of_the_recipe(base: Path) -> None:
    weights = trained(base, {"r": 4})
    built, loaded = (load(settings(base, adapter={"r": 2}), Tokens(41, 40), "mdm", weights) for load in LOADS)
    assert {name: value.shape for name, value in built.named_parameters()} == {
        name: value.shape for name, value in loaded.named_parameters()
    }


@pytest.mark.parametrize("shift", [None, True])
def test_updates_without_a_config_leave_the_shift_to_the_recipe(base: Path, shift: bool | None) -> None:
    weights = trained(base, {"r": 2})
    (weights / "config.json").unlink()  # as peft writes them
    loaded = load_model(settings(base, adapter={"r": 2}, right_shift_logits=shift), Tokens(41, 40), "mdm", weights)
    assert loaded.config.right_shift_logits is bool(shift)


# The base model's place


def base_of(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_a_relative_base_is_written_down_absolute(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    assert base_of(trained(Path("base"), {"r": 2})) == str(base)


def test_an_address_is_written_down_not_the_copy_of_one_node(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymdm.models.load.fetched", lambda address: base)
    config = settings(base, adapter={"r": 2}).model_copy(update={"path": "s3://bucket/base"})
    save_model(load_model(config, range(40), "mdm"), base.parent / "trained")
    assert base_of(base.parent / "trained") == "s3://bucket/base"


def test_updates_trained_by_address_are_loaded_by_it(base: Path) -> None:
    config = settings(base, adapter={"r": 2}).model_copy(update={"path": base.as_uri()})
    model = load_model(config, range(40), "mdm")
    save_model(model, base.parent / "trained")
    again = config.model_copy(update={"path": base_of(base.parent / "trained")})
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(load_model(again, range(40), "mdm", base.parent / "trained")(ids).logits, model(ids).logits)
