"""Models without numbers, masks and adapters: what load_model's other inputs change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.load import load_model, save_model, skeleton
from tests.models.llada_reference import write_llada

TINY: dict[str, Any] = {"kind": "tiny", "tokenizer": {"kind": "chars"}}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


class Tokens:
    """A tokenizer as far as loading a model asks: its length, and its mask."""

    def __init__(self, length: int, mask: int | None) -> None:
        self.length, self.mask_token_id = length, mask

    def __len__(self) -> int:
        return self.length


def qwen(folder: Path) -> Path:
    config = AutoConfig.for_model(
        "qwen2", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def llada(folder: Path) -> Path:
    write_llada(folder)
    return folder


def settings(path: Path, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"kind": "pretrained", "path": str(path), **fields})


def shape(model: Any) -> Any:
    """What both have in common: names, shapes, types and what is trained, and what the config says."""
    values = [
        (name, tuple(value.shape), value.dtype, value.requires_grad)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    ]
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("architectures", "_name_or_path")}
    return values, config, model.training, model.config._attn_implementation


@pytest.mark.parametrize("family", ["mdm", "arm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tiny_skeleton_is_the_model_without_numbers(family: Any, dtype: str) -> None:
    config = ModelConfig.model_validate({**TINY, "dtype": dtype})
    built = skeleton(config, range(30), family)
    assert {value.device.type for value in built.parameters()} == {"meta"}
    assert shape(built) == shape(load_model(config, range(30), family))


@pytest.mark.parametrize(("make", "fields"), [(qwen, {"right_shift_logits": True, "dtype": "bfloat16"}), (llada, {})])
@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_a_pretrained_skeleton_is_the_model_without_numbers(
    tmp_path: Path, make: Any, fields: Any, adapter: Any
) -> None:
    config = settings(make(tmp_path / "base"), adapter=adapter, **fields)
    tokens = Tokens(43, 7)
    built, loaded = skeleton(config, tokens, "mdm"), load_model(config, tokens, "mdm")
    assert {value.device.type for value in built.parameters()} == {"meta"}
    assert shape(built) == shape(loaded)
    save_model(loaded, tmp_path / "saved")
    silent = config.model_copy(update={"right_shift_logits": None})
    built = skeleton(silent, tokens, "mdm", tmp_path / "saved")
    assert shape(built) == shape(load_model(silent, tokens, "mdm", tmp_path / "saved"))
    assert built.config.right_shift_logits is loaded.config.right_shift_logits


def test_a_skeleton_of_saved_weights_has_their_sizes(tmp_path: Path) -> None:
    saved = ModelConfig.model_validate({**TINY, "num_layers": 3})
    save_model(load_model(saved, range(30), "mdm"), tmp_path)
    assert skeleton(ModelConfig.model_validate(TINY), range(30), "mdm", tmp_path).config.num_hidden_layers == 3


def test_a_missing_skeleton_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path .*gone.*no such folder"):
        skeleton(settings(tmp_path / "gone"), range(30), "mdm")


# The mask token


def test_the_mask_token_is_saved_with_the_model(tmp_path: Path) -> None:
    config = settings(qwen(tmp_path / "base"))
    save_model(load_model(config, Tokens(41, 40), "mdm"), tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").mask_token_id == 40
    assert "mask_token_id" not in load_model(config, Tokens(41, 40), "arm").config.to_dict()


@pytest.mark.parametrize("load", [load_model, skeleton])
def test_a_tokenizer_with_another_mask_than_the_model_s_is_refused(tmp_path: Path, load: Any) -> None:
    with pytest.raises(UserError, match=r"the model's mask token is 7 .*, the tokenizer's 8\. Set model\.tokenizer"):
        load(settings(llada(tmp_path)), Tokens(40, 8), "mdm")


def test_unless_the_recipe_names_it(tmp_path: Path) -> None:
    config = settings(llada(tmp_path), tokenizer={"mask_token": "eight"})
    assert load_model(config, Tokens(40, 8), "mdm").config.mask_token_id == 8


# Adapters


def trained_tokens(model: Any) -> list[int]:
    """Ids whose embeddings are trained beside the updates."""
    return [
        i
        for module in model.modules()
        if hasattr(module, "token_indices")
        for i in module.token_indices.get("default", [])
    ]


@pytest.mark.parametrize(
    ("make", "tokens", "family", "expected"),
    [
        (qwen, Tokens(41, 40), "mdm", {40}),  # a new token with a new row
        (qwen, Tokens(40, 39), "mdm", {39}),  # one in a row that the model had to spare
        (qwen, Tokens(41, 40), "arm", set()),  # never met
        (llada, Tokens(40, 7), "mdm", set()),  # the model's own
    ],
)
def test_an_adapter_trains_the_mask_s_embedding_if_it_is_new(
    tmp_path: Path, make: Any, tokens: Tokens, family: Any, expected: set[int]
) -> None:
    model = load_model(settings(make(tmp_path), adapter={"r": 2}), tokens, family)
    assert set(trained_tokens(model)) == expected


@pytest.mark.parametrize("make", [qwen, llada])
def test_updates_are_saved_alone_and_loaded_onto_the_base(tmp_path: Path, make: Any) -> None:
    config = settings(make(tmp_path / "base"), adapter={"r": 2})
    model = load_model(config, Tokens(41, 40 if make is qwen else 7), "mdm")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_model(model, tmp_path / "updates")
    assert not (tmp_path / "updates" / "model.safetensors").exists()
    again = load_model(config, Tokens(41, 40 if make is qwen else 7), "mdm", tmp_path / "updates")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_first_updates_depend_on_init_seed_alone(tmp_path: Path) -> None:
    config = settings(qwen(tmp_path), adapter={"r": 2})
    torch.manual_seed(1)
    first = load_model(config, range(40), "mdm").state_dict()
    torch.manual_seed(2)
    again = load_model(config, range(40), "mdm").state_dict()
    other = load_model(config.model_copy(update={"init_seed": 3}), range(40), "mdm").state_dict()
    lora = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[lora], again[lora])
    assert not torch.equal(first[lora], other[lora])


def test_updates_and_whole_models_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    whole, adapted = settings(qwen(tmp_path / "base")), settings(tmp_path / "base", adapter={"r": 2})
    save_model(load_model(whole, range(40), "mdm"), tmp_path / "whole")
    save_model(load_model(adapted, range(40), "mdm"), tmp_path / "updates")
    with pytest.raises(UserError, match=r"adapter's updates\. Set model\.adapter"):
        load_model(whole, range(40), "mdm", tmp_path / "updates")
    with pytest.raises(UserError, match=r"they are a whole model\. Remove model\.adapter"):
        load_model(adapted, range(40), "mdm", tmp_path / "whole")
    with pytest.raises(UserError, match=r"an adapter's updates, not a model.*raymdm convert"):
        load_model(settings(tmp_path / "updates"), range(40), "mdm")
    with pytest.raises(UserError, match=r"weights .*gone.*is missing"):
        load_model(adapted, range(40), "mdm", tmp_path / "gone")
