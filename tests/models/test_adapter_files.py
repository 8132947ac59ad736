"""Adapter folders that anybody may have written: what is not carried out is refused, what is broken told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.inputs import AdapterConfig
from raymdm.errors import UserError
from raymdm.models import adapters


def base() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            "llama", vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
        )
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = base()
    adapters.attach(model, AdapterConfig(r=2), "base", [29])
    adapters.save(model, tmp_path)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True), ("lora_bias", True),
        ("bias", "all"), ("bias", "lora_only"), ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 1]]), ("fan_in_fan_out", True), ("target_parameters", ["a"]), ("use_qalora", True),
        ("init_lora_weights", "loftq"), ("revision", "v2"), ("brand_new_option", 3),
    ],
)  # fmt: skip
def test_what_is_not_carried_out_is_refused_by_name(folder: Path, field: str, value: Any) -> None:
    change(folder, **{field: value})
    with pytest.raises(UserError, match=rf"weights .*adapter_config\.json asks for {field}: .*merge_and_unload"):
        adapters.load(base(), folder)


@pytest.mark.parametrize("value", [None, False, {}, []])
def test_a_setting_of_a_later_version_that_is_off_is_no_reason(folder: Path, value: Any) -> None:
    change(folder, brand_new_option=value)
    adapters.load(base(), folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"r": "x"}, r"r in adapter_config\.json is 'x', expected a whole number above 0"),
        ({"r": 0}, "r in adapter_config"),
        ({"lora_alpha": "x"}, r"adapter_config\.json with a LlamaForCausalLM cannot be used"),
        ({"target_modules": ".*("}, "missing \\)"),
        ({"target_modules": 3}, r"adapter_config\.json"),
        ({"peft_type": None}, "does not describe a LoRA adapter"),
        ({"base_model_name_or_path": 3}, "expected a text"),
    ],
)
def test_a_setting_that_is_wrong_is_told(folder: Path, fields: dict[str, Any], reason: str) -> None:
    change(folder, **fields)
    with pytest.raises(UserError, match=f"weights .*{reason}"):
        adapters.base_model(folder) and adapters.load(base(), folder)


@pytest.mark.parametrize("text", ["[]", "3", "{"])
def test_settings_that_are_no_object_are_told(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)
    for read in (adapters.base_model, adapters.check, lambda folder: adapters.load(base(), folder)):
        with pytest.raises(UserError, match=r"adapter_config\.json is broken"):
            read(folder)


@pytest.mark.parametrize("indices", [[30], [-1], ["x"], {"embed_tokens": [30]}])
def test_a_token_that_the_model_lacks_is_named(folder: Path, indices: Any) -> None:
    change(folder, trainable_token_indices=indices)
    with pytest.raises(UserError, match=r"token .* was trained .*but the model has 30 tokens"):
        adapters.load(base(), folder)
