"""LLaDA's checkpoints against its network written anew, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.load import load_model, save_model
from tests.models.llada_reference import CONFIG, random_weights, reference_logits, write_llada

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [7, 7, 0, 39, 8, 38, 7, 7, 7, 4, 6]])


def pretrained(path: Path, **fields: Any) -> ModelConfig:
    return ModelConfig(kind="pretrained", path=str(path), **fields)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


SIZES = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "one group": {"n_kv_heads": 1},
    "tied": {"weight_tying": True},
    "wide heads": {"d_model": 48, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 80, "n_layers": 3},
    "eleven layers": {"n_layers": 11, "rope_theta": 10000.0, "rms_norm_eps": 1e-3},
    "padded vocabulary": {"embedding_size": 128, "vocab_size": 40},
}


@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_the_network_written_anew(tmp_path: Path, size: str) -> None:
    config = write_llada(tmp_path, **SIZES[size])
    model = load_model(pretrained(tmp_path), range(40), "mdm")
    expected = reference_logits(config, random_weights(config), IDS)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=2e-5)


def test_bfloat16_differs_by_its_rounding_alone(tmp_path: Path) -> None:
    """transformers rotates queries and keys in bfloat16, LLaDA in float32: no further off than bfloat16 itself is."""
    config = write_llada(tmp_path, n_kv_heads=2, dtype=torch.bfloat16)
    model = load_model(pretrained(tmp_path, dtype="bfloat16"), range(40), "mdm")
    assert model.dtype == torch.bfloat16
    weights = random_weights(config, dtype=torch.bfloat16)
    exact = reference_logits(config, {name: value.float() for name, value in weights.items()}, IDS)
    rounding = (reference_logits(config, weights, IDS).float() - exact).square().mean().sqrt()
    assert (logits(model).float() - exact).square().mean().sqrt() < 1.5 * rounding


def test_several_files_give_what_one_gives(tmp_path: Path) -> None:
    write_llada(tmp_path / "one")
    write_llada(tmp_path / "six", files=6)
    one, six = (load_model(pretrained(tmp_path / name), range(40), "mdm") for name in ("one", "six"))
    assert torch.equal(logits(one), logits(six))


def test_config_keeps_where_it_came_from_and_what_it_is(tmp_path: Path) -> None:
    config = write_llada(tmp_path)
    loaded = load_model(pretrained(tmp_path), range(40), "mdm").config
    assert loaded.source_config == config
    assert (loaded.mask_token_id, loaded.eos_token_id, loaded.is_causal, loaded.right_shift_logits) == (
        7,
        3,
        False,
        False,
    )


def test_saved_as_a_llama_and_loaded_again(tmp_path: Path) -> None:
    write_llada(tmp_path / "base", files=2)
    model = load_model(pretrained(tmp_path / "base"), range(40), "mdm")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.25)
    save_model(model, tmp_path / "tuned")
    assert "model.layers.1.mlp.gate_proj.weight" in load_file(tmp_path / "tuned" / "model.safetensors")
    again = load_model(pretrained(tmp_path / "base"), range(40), "mdm", tmp_path / "tuned")
    assert torch.equal(logits(again), logits(model))


def test_is_no_autoregressive_model(tmp_path: Path) -> None:
    write_llada(tmp_path)
    with pytest.raises(UserError, match="is bidirectional"):
        load_model(pretrained(tmp_path), range(40), "arm")


def test_gets_rows_for_a_longer_tokenizer(tmp_path: Path) -> None:
    write_llada(tmp_path)
    assert load_model(pretrained(tmp_path), range(41), "mdm").get_output_embeddings().weight.shape == (41, 32)


@pytest.mark.parametrize(
    ("field", "value"),
    [("alibi", True), ("block_type", "sequential"), ("block_group_size", 2), ("layer_norm_type", "low_precision"),
     ("include_bias", True), ("include_qkv_bias", True), ("bias_for_layer_norm", True), ("clip_qkv", 8.0),
     ("residual_dropout", 0.1), ("attention_dropout", 0.1), ("embedding_dropout", 0.1), ("scale_logits", True),
     ("attention_layer_norm", True), ("input_emb_norm", True), ("activation_type", "swiglu"), ("rope", False),
     ("rope_full_precision", False), ("multi_query_attention", True), ("layer_norm_with_affine", False)],
)  # fmt: skip
def test_a_field_that_a_llama_does_not_compute_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    write_llada(tmp_path, **{field: value})
    with pytest.raises(UserError, match=rf"model\.path .*not supported: {field}: {value!r} \(expected "):
        load_model(pretrained(tmp_path), range(40), "mdm")


@pytest.mark.parametrize("field", ["block_type", "layer_norm_type", "rope", "residual_dropout", "include_bias"])
def test_a_field_whose_default_is_another_network_must_be_there(tmp_path: Path, field: str) -> None:
    write_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != field}))
    with pytest.raises(UserError, match=f"{field}: None"):
        load_model(pretrained(tmp_path), range(40), "mdm")


@pytest.mark.parametrize("field", ["n_layers", "rope_theta", "rms_norm_eps", "weight_tying"])
def test_a_missing_size_is_named(tmp_path: Path, field: str) -> None:
    write_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, field: None}))
    with pytest.raises(UserError, match=f"config.json lacks {field}"):
        load_model(pretrained(tmp_path), range(40), "mdm")


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "architectures": ["LLaDAMoEModelLM"]},
        {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"], "hidden_size": 32, "num_experts": 4},
        {"model_type": "llada", "hidden_size": 32},
    ],
)
def test_other_models_that_call_themselves_llada_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is not the LLaDAModelLM of LLaDA-8B and LLaDA 1\.5"):
        load_model(pretrained(tmp_path), range(40), "mdm")


def change(folder: Path, names: dict[str, str | None]) -> None:
    """Rename tensors of a checkpoint; None removes one."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {names.get(name, name): value.clone() for name, value in tensors.items()}
    save_file({k: v for k, v in tensors.items() if k}, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_llada(tmp_path)
    change(tmp_path, {"model.transformer.blocks.1.up_proj.weight": None})
    with pytest.raises(UserError, match=r"weights are missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(pretrained(tmp_path), range(40), "mdm")


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    write_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "n_layers": 1}))
    with pytest.raises(UserError, match=r"no place for the tensors model\.transformer\.blocks\.1"):
        load_model(pretrained(tmp_path), range(40), "mdm")


def test_tensors_of_other_sizes_are_refused(tmp_path: Path) -> None:
    write_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "mlp_hidden_size": 64}))
    with pytest.raises(UserError, match=r"model\.path .*6 tensors have another shape than config\.json says"):
        load_model(pretrained(tmp_path), range(40), "mdm")
