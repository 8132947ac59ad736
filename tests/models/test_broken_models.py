"""Models whose files are wrong: one message each, that names file and field."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.convert import convert
from raymdm.models.load import load_model
from raymdm.storage import StorageError
from tests.models.llada_reference import write_llada


def load(folder: Path, family: Any = "mdm") -> Any:
    return load_model(ModelConfig(kind="pretrained", path=str(folder)), range(40), family)


def change(folder: Path, file: str = "config.json", **fields: Any) -> None:
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**found, **fields}))


def llama(folder: Path, **fields: Any) -> Any:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, **fields)).save_pretrained(folder)


def refusals(folder: Path, reason: str) -> None:
    """Both ways of reading a model say so."""
    with pytest.raises(UserError, match=reason) as loading:
        load(folder)
    with pytest.raises(UserError, match=reason) as converting:
        convert(folder, folder.parent / "new", "llama")
    assert "Traceback" not in f"{loading.value}{converting.value}"


FIELDS = [
    ({"d_model": "32"}, r"d_model: '32' \(expected a whole number above 0\)"),
    ({"n_layers": 2.0}, r"n_layers: 2\.0 \(expected a whole number"),
    ({"n_heads": 5, "n_kv_heads": None}, r"n_heads: 5 \(expected a number by which half of d_model 32 can be divided"),
    ({"n_heads": 0}, r"n_heads: 0 \(expected a whole number above 0"),
    ({"n_kv_heads": 3}, r"n_kv_heads: 3 \(expected a divisor of n_heads 4"),
    ({"torch_dtype": "float99"}, r"torch_dtype: 'float99' \(expected one of float32"),
    ({"torch_dtype": "None"}, r"torch_dtype: 'None'"),
    ({"rope_theta": "abc"}, r"rope_theta: 'abc' \(expected a number above 0"),
    ({"weight_tying": 1}, r"weight_tying: 1 \(expected true or false"),
    ({"architectures": [1]}, r"architectures: \[1\] \(expected a list of names"),
    ({"architectures": "LLaDAModelLM"}, r"architectures: 'LLaDAModelLM' \(expected a list"),
    ({"mask_token_id": "7"}, r"mask_token_id: '7' \(expected a token's id"),
    ({"model_type": 3}, r"model_type: 3 \(expected a text"),
]


@pytest.mark.parametrize(("fields", "reason"), FIELDS)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    write_llada(tmp_path / "llada")
    change(tmp_path / "llada", **fields)
    refusals(tmp_path / "llada", rf"config\.json is wrong: {reason}")


@pytest.mark.parametrize("text", ["[1]", "3", "{", '"llada"'])
def test_a_config_that_is_no_object_is_told(tmp_path: Path, text: str) -> None:
    write_llada(tmp_path / "llada")
    (tmp_path / "llada" / "config.json").write_text(text)
    refusals(tmp_path / "llada", r"llada'?: config\.json is broken: .*Copy it anew")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "[]", "{"])
def test_an_index_that_is_broken_is_named(tmp_path: Path, text: str) -> None:
    write_llada(tmp_path / "llada", files=2)
    (tmp_path / "llada" / "model.safetensors.index.json").write_text(text)
    refusals(tmp_path / "llada", r"model\.safetensors\.index\.json is broken")


@pytest.mark.parametrize(
    "fields",
    [{"hidden_size": "16"}, {"num_attention_heads": 0}, {"rope_parameters": {"rope_theta": "abc"}}],
)
def test_fields_of_transformers_own_models_are_told_in_one_message(tmp_path: Path, fields: dict[str, Any]) -> None:
    llama(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(UserError, match=r"model\.path .* cannot be loaded as a causal language model"):
        load(tmp_path)


def test_convert_tells_a_llama_s_broken_config(tmp_path: Path) -> None:
    llama(tmp_path / "llama")
    change(tmp_path / "llama", is_causal=False, hidden_size="16")
    with pytest.raises(UserError, match=r"config\.json cannot be used: .*hidden_size"):
        convert(tmp_path / "llama", tmp_path / "new", "llada")


def test_a_config_that_may_not_be_read_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llada(tmp_path / "llada")
    original = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file.name == "config.json":
            raise PermissionError(13, "")
        return original(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*config\.json: Permission denied"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")


# Tensors


def test_tensors_that_config_has_no_place_for_are_refused(tmp_path: Path) -> None:
    llama(tmp_path, attention_bias=True)
    change(tmp_path, attention_bias=False, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"no place for the tensors model\.layers\.0\.self_attn\.k_proj\.bias"):
        load(tmp_path)


def test_tensors_that_transformers_knows_to_be_of_no_use_are_not(tmp_path: Path) -> None:
    llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load(tmp_path).config.num_hidden_layers == 2


def test_tensors_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    change(tmp_path / "llada", mlp_hidden_size=64)
    with pytest.raises(
        UserError, match=r"such as model\.layers\.0\.mlp\.\w+\.weight: \(32, 48\) \(expected \(32, 64\)\)"
    ):
        load(tmp_path / "llada")
    with pytest.raises(UserError, match=r"blocks\.0\.ff_\w+\.weight has shape \(\d+, \d+\), but by config\.json \("):
        convert(tmp_path / "llada", tmp_path / "new", "llama")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_whole_numbers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    write_llada(tmp_path)
    tensors = {name: value.to(dtype) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is of type [IU]\d+, expected one of F32"):
        load(tmp_path)


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_weights_that_are_not_finite_are_not_taken_for_bad_attention(tmp_path: Path, family: Any) -> None:
    llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="logits that are not finite"):
        load(tmp_path, family)


def test_a_relative_folder_that_is_missing_is_not_only_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **options: Any) -> Any:
        raise OSError("We couldn't connect")

    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", offline)
    with pytest.raises(UserError, match=r"'models/none': no such folder here, and from the hub it cannot be loaded"):
        load(Path("models/none"))
