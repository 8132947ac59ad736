"""Between LLaDA's layout and transformers': the same numbers under other names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.convert import convert
from raymdm.models.load import load_model, save_model
from raymdm.storage import StorageError
from tests.models.llada_reference import CONFIG, random_weights, reference_logits, write_llada

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"n_kv_heads": 2, "weight_tying": True}])
def test_there_and_back_is_bitwise(tmp_path: Path, fields: dict[str, Any], dtype: torch.dtype) -> None:
    config = write_llada(tmp_path / "llada", files=3, dtype=dtype, **fields)
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    convert(tmp_path / "llama", tmp_path / "back", "llada")
    assert same(tensors(tmp_path / "back"), random_weights(config, dtype=dtype))
    back = config_of(tmp_path / "back")
    assert {**back, "auto_map": None} == {**config, "auto_map": None}


def test_plain_transformers_loads_the_llama_and_computes_the_same(tmp_path: Path) -> None:
    config = write_llada(tmp_path / "llada", n_kv_heads=2)
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", trust_remote_code=False)
    assert type(model) is LlamaForCausalLM
    with torch.no_grad():
        torch.testing.assert_close(
            model(IDS).logits, reference_logits(config, random_weights(config), IDS), rtol=1e-4, atol=2e-5
        )


def test_code_comes_from_its_authors_repository_not_from_beside_the_weights(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    convert(tmp_path / "llama", tmp_path / "back", "llada")
    assert all(code.startswith("GSAI-ML/LLaDA-8B-Base--") for code in config_of(tmp_path / "back")["auto_map"].values())


def test_files_are_no_larger_than_asked_and_the_index_names_each_tensor_s(tmp_path: Path) -> None:
    config = write_llada(tmp_path / "llada")
    convert(tmp_path / "llada", tmp_path / "llama", "llama", shard_size="20KB")
    files = sorted((tmp_path / "llama").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))
    ]
    assert len(files) > 2
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 20_000 for file in files)
    index = json.loads((tmp_path / "llama" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in random_weights(config).values())
    convert(tmp_path / "llama", tmp_path / "back", "llada")
    assert same(tensors(tmp_path / "back"), random_weights(config))


def test_a_trained_model_goes_back(tmp_path: Path) -> None:
    config = write_llada(tmp_path / "llada")
    settings = ModelConfig(kind="pretrained", path=str(tmp_path / "llada"))
    model = load_model(settings, range(41), "mdm")  # a row more than before
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    save_model(model, tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "back", "llada")
    back = config_of(tmp_path / "back")
    assert (back["embedding_size"], back["vocab_size"], back["mask_token_id"]) == (41, 40, 7)
    with torch.no_grad():
        expected = model(IDS).logits
    actual = reference_logits({**config, **back}, tensors(tmp_path / "back"), IDS)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


def test_a_model_trained_from_nothing_becomes_a_llada(tmp_path: Path) -> None:
    tiny = ModelConfig.model_validate({"kind": "tiny", "dtype": "bfloat16", "tokenizer": {"kind": "chars"}})
    model = load_model(tiny, range(30), "mdm")
    save_model(model, tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "llada", "llada")
    back = config_of(tmp_path / "llada")
    assert back.keys() >= CONFIG.keys() - {"transformers_version", "eos_token_id", "pad_token_id", "mask_token_id"}
    assert back["torch_dtype"] == "bfloat16"
    loaded = load_model(
        ModelConfig(kind="pretrained", path=str(tmp_path / "llada"), dtype="bfloat16"), range(30), "mdm"
    )
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_tokenizer_files_come_along_and_code_does_not(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
                 "modeling_llada.py", "README.md"):  # fmt: skip
        (tmp_path / "llada" / name).write_text(name)
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    assert {file.name for file in (tmp_path / "llama").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja",
    }  # fmt: skip


def adapter(folder: Path, base: Path) -> torch.Tensor:
    """Write updates of a base model to a folder; returns the logits of both together."""
    settings = {"kind": "pretrained", "path": str(base), "adapter": {"r": 2, "alpha": 4}}
    model = load_model(ModelConfig.model_validate(settings), range(40), "mdm")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        save_model(model, folder)
        return model(IDS).logits


def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    config = write_llada(tmp_path / "base")
    together = adapter(tmp_path / "updates", tmp_path / "base")
    convert(tmp_path / "updates", tmp_path / "llada", "llada")
    actual = reference_logits(config, tensors(tmp_path / "llada"), IDS)
    assert (together - reference_logits(config, random_weights(config), IDS)).abs().max() > 0.1
    torch.testing.assert_close(actual, together, rtol=1e-3, atol=1e-4)


def test_an_adapter_of_another_architecture_is_merged_in_transformers_layout(tmp_path: Path) -> None:
    small = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **small)).save_pretrained(tmp_path / "base")
    together = adapter(tmp_path / "updates", tmp_path / "base")
    convert(tmp_path / "updates", tmp_path / "merged", "llama")
    with torch.no_grad():
        actual = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(IDS).logits
    torch.testing.assert_close(actual, together, rtol=1e-3, atol=1e-4)


# What is refused


def test_the_target_must_be_new(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: is there already"):
        convert(tmp_path / "llada", tmp_path / "there", "llama")


@pytest.mark.parametrize("to", ["llada", "llama"])
def test_a_model_in_that_layout_already_is_told(tmp_path: Path, to: Any) -> None:
    write_llada(tmp_path / "llada")
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    with pytest.raises(UserError, match=f"{to}: is in the layout of {to} already"):
        convert(tmp_path / to, tmp_path / "new", to)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, r"is_causal: True \(expected False\)"),
        ({"attention_bias": True}, "attention_bias: True"),
        ({"mlp_bias": True}, "mlp_bias: True"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
        ({"head_dim": 16}, "head_dim: 16"),
        ({"right_shift_logits": True}, "right_shift_logits: True"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type: 'linear'"),
    ],
)
def test_a_llama_that_llada_s_code_cannot_compute_is_refused(tmp_path: Path, fields: Any, reason: str) -> None:
    config = {"is_causal": False} if fields else {}
    LlamaConfig(hidden_size=32, num_attention_heads=4, **config, **fields).save_pretrained(tmp_path / "llama")
    with pytest.raises(UserError, match=f"LLaDA's code cannot compute this model: {reason}"):
        convert(tmp_path / "llama", tmp_path / "llada", "llada")
    assert not (tmp_path / "llada").exists()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path / "qwen")
    with pytest.raises(UserError, match="a qwen2 model has one layout"):
        convert(tmp_path / "qwen", tmp_path / "new", "llada")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada", files=2)
    (tmp_path / "llada" / "model-00002-of-00002.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is broken"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")
    (tmp_path / "llada" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is missing"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")
    (tmp_path / "llada" / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["llada"]


@pytest.mark.parametrize("name", ["model.transformer.blocks.0.q_proj.bias", "model.transformer.blocks.2.q_proj.weight"])
def test_a_tensor_that_config_does_not_describe_is_named(tmp_path: Path, name: str) -> None:
    config = write_llada(tmp_path / "llada")
    save_file({**random_weights(config), name: torch.zeros(32)}, tmp_path / "llada" / "model.safetensors")
    with pytest.raises(UserError, match=f"such as {name}"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")


def test_numbers_of_other_types_are_refused(tmp_path: Path) -> None:
    config = write_llada(tmp_path / "llada")
    packed = {name: value.to(torch.uint8) for name, value in random_weights(config).items()}
    save_file(packed, tmp_path / "llada" / "model.safetensors")
    with pytest.raises(UserError, match="of type U8; quantised models keep their layout"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")


def test_a_shard_size_that_is_none_is_told(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    with pytest.raises(UserError, match=r"--shard-size '5 potatoes'.*such as 5GB"):
        convert(tmp_path / "llada", tmp_path / "new", "llama", "5 potatoes")


def test_a_target_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        convert(tmp_path / "llada", tmp_path / "file" / "new", "llama")
