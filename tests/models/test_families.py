"""The architectures of real checkpoints, small and random: as ARMs, as MDMs, saved and loaded again."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.denoiser import hidden_states
from raymdm.models.load import load_model, save_model

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])
SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
# What is particular of each: biases of q, k, v and windows that are off (Qwen 2), tied embeddings (the small ones),
# norms of q and k and heads wider than their share (Qwen 3), scaled rotary frequencies (Llama 3.1).
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5-0.5b": ("qwen2", {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768,
                               "max_window_layers": 21, "rms_norm_eps": 1e-6}),
    "qwen2-7b": ("qwen2", {"tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 131072}),
    "qwen3-0.6b": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16, "use_sliding_window": False}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA_3, "rms_norm_eps": 1e-5}),
}  # fmt: skip


def write(folder: Path, architecture: str, fields: dict[str, Any]) -> Any:
    """A random checkpoint; returns its model. Biases, which start at 0, and norms are drawn as well."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**SMALL, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model.eval()


def rewrite_config(folder: Path, drop: tuple[str, ...] = (), **fields: Any) -> None:
    """Change config.json as a repository with code of its own has it."""
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in drop} | fields
    (folder / "config.json").write_text(json.dumps(config))


def pretrained(path: Path, **fields: Any) -> ModelConfig:
    return ModelConfig(kind="pretrained", path=str(path), **fields)


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def made(name: str) -> tuple[Path, torch.Tensor]:
        folder = tmp_path_factory.mktemp(name)
        return folder, logits(write(folder, *MODELS[name]))

    return made


@pytest.mark.parametrize("name", MODELS)
def test_as_arm_it_is_transformers_own(checkpoint: Any, name: str) -> None:
    folder, expected = checkpoint(name)
    assert torch.equal(logits(load_model(pretrained(folder), range(40), "arm")), expected)


@pytest.mark.parametrize("name", MODELS)
def test_as_mdm_every_position_sees_every_other(checkpoint: Any, name: str) -> None:
    model = load_model(pretrained(checkpoint(name)[0]), range(40), "mdm")
    for position in range(IDS.shape[1]):
        changed = IDS.clone()
        changed[0, position] = 30
        assert ((logits(model, changed) - logits(model)).abs().amax(dim=-1) > 1e-5).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_saved_and_loaded_again_it_computes_the_same(tmp_path: Path, checkpoint: Any, name: str, family: Any) -> None:
    folder, _ = checkpoint(name)
    model = load_model(pretrained(folder), range(43), family)  # three rows more
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)  # of tied ones too
    save_model(model, tmp_path)
    again = load_model(pretrained(folder), range(43), family, tmp_path)
    assert torch.equal(logits(again), logits(model))
    tied = model.config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("name", MODELS)
def test_padding_on_the_left_changes_nothing(checkpoint: Any, name: str) -> None:
    model = load_model(pretrained(checkpoint(name)[0]), range(40), "mdm")
    mask = torch.tensor([[False] * 3 + [True] * 10])
    with torch.no_grad():
        padded = hidden_states(model, torch.nn.functional.pad(IDS, (3, 0)), mask)[:, 3:]
        torch.testing.assert_close(padded, hidden_states(model, IDS, None))


def test_a_window_reaches_to_both_sides_and_no_further(tmp_path: Path) -> None:
    write(tmp_path, "qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0,
                              "num_hidden_layers": 1})  # fmt: skip
    model = load_model(pretrained(tmp_path), range(40), "mdm")
    ids = torch.arange(25)[None]
    changed = ids.clone()
    changed[0, 12] = 30
    seen = (logits(model, changed) - logits(model, ids)).abs().amax(dim=-1)[0] > 0
    assert seen.nonzero().flatten().tolist() == list(range(3, 22))


# The logits of the position before


@pytest.mark.parametrize(("said", "expected"), [(None, False), (True, True), (False, False)])
def test_an_adapted_arm_predicts_from_the_position_before_if_the_recipe_says_so(
    checkpoint: Any, said: bool | None, expected: bool
) -> None:
    folder, _ = checkpoint("qwen2-7b")
    assert (
        load_model(pretrained(folder, right_shift_logits=said), range(40), "mdm").config.right_shift_logits is expected
    )


def test_the_shift_is_saved_and_a_recipe_that_denies_it_is_told(tmp_path: Path, checkpoint: Any) -> None:
    shifted = pretrained(checkpoint("qwen2-7b")[0], right_shift_logits=True)
    save_model(load_model(shifted, range(40), "mdm"), tmp_path)
    again = pretrained(checkpoint("qwen2-7b")[0])
    assert load_model(again, range(40), "mdm", tmp_path).config.right_shift_logits is True
    denied = again.model_copy(update={"right_shift_logits": False})
    with pytest.raises(UserError, match=r"right_shift_logits: False, but weights .* were trained with True"):
        load_model(denied, range(40), "mdm", tmp_path)


# Dream and iLLaDA, whose repositories ship code


DREAM = {
    "model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 36, "use_sliding_window": False,
    "sliding_window": None, "max_window_layers": 28, "rope_theta": 1000000.0, "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
}  # fmt: skip
ILLADA = {
    "model_type": "illada", "architectures": ["ILLaDAForCausalLM"], "rope_theta": 500000.0, "rope_scaling": None,
    "layer_norm_eps": None, "resid_pdrop": 0.0, "torch_dtype": "bfloat16",
    "auto_map": {"AutoConfig": "configuration_illada.ILLaDAConfig", "AutoModel": "modeling_illada.ILLaDAForCausalLM",
                 "AutoModelForCausalLM": "modeling_illada.ILLaDAForCausalLM"},
}  # fmt: skip


def dream(folder: Path, **fields: Any) -> Any:
    theta = {"rope_type": "default", "rope_theta": 1000000.0}
    model = write(folder, "qwen2", {"rope_parameters": theta, "is_causal": False})
    rewrite_config(folder, ("rope_parameters", "is_causal", "layer_types", "dtype"), **{**DREAM, **fields})
    strange = {"alg": "origin", "alg_temp": None, "eps": 0.001, "steps": 512, "temperature": 0.0, "top_k": None}
    (folder / "generation_config.json").write_text(json.dumps(strange))
    return model


def illada(folder: Path, **fields: Any) -> Any:
    theta = {"rope_type": "default", "rope_theta": 500000.0}
    model = write(folder, "llama", {"rope_parameters": theta, "is_causal": False, "tie_word_embeddings": True})
    rewrite_config(folder, ("rope_parameters", "is_causal", "dtype", "head_dim"), **{**ILLADA, **fields})
    return model


@pytest.mark.parametrize(("make", "kind"), [(dream, Qwen2ForCausalLM), (illada, LlamaForCausalLM)])
def test_a_checkpoint_with_code_of_its_own_is_the_architecture_below(tmp_path: Path, make: Any, kind: type) -> None:
    expected = logits(make(tmp_path / "base"))
    model = load_model(pretrained(tmp_path / "base"), range(40), "mdm")
    assert type(model) is kind
    assert torch.equal(logits(model), expected)
    save_model(model, tmp_path / "saved")
    again = load_model(pretrained(tmp_path / "base"), range(40), "mdm", tmp_path / "saved")
    assert torch.equal(logits(again), expected)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), expected)


def test_dream_predicts_from_the_position_before_unless_the_recipe_denies_it(tmp_path: Path) -> None:
    dream(tmp_path)
    config = load_model(pretrained(tmp_path), range(40), "mdm").config
    assert (config.right_shift_logits, config.mask_token_id) == (True, 36)
    denied = load_model(pretrained(tmp_path, right_shift_logits=False), range(40), "mdm")
    assert denied.config.right_shift_logits is False


def test_illada_predicts_in_place_and_masks_by_token_5(tmp_path: Path) -> None:
    illada(tmp_path)
    config = load_model(pretrained(tmp_path), range(40), "mdm").config
    assert (config.right_shift_logits, config.mask_token_id, config.tie_word_embeddings) == (False, 5, True)


@pytest.mark.parametrize("make", [dream, illada])
def test_neither_is_an_autoregressive_model(tmp_path: Path, make: Any) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match="is bidirectional"):
        load_model(pretrained(tmp_path), range(40), "arm")


@pytest.mark.parametrize(
    ("make", "fields", "reason"),
    [
        (dream, {"architectures": ["DreamVLModel"]}, "DreamVLModel is not DreamModel"),
        (illada, {"layer_norm_eps": 1e-5}, "layer_norm_eps: 1e-05"),
        (illada, {"resid_pdrop": 0.1}, "asks for resid_pdrop"),
        (illada, {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, make: Any, fields: Any, reason: str) -> None:
    make(tmp_path, **fields)
    with pytest.raises(UserError, match=reason):
        load_model(pretrained(tmp_path), range(40), "mdm")
