"""Loading and saving: initialisation, resizing, architectures, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.denoiser import hidden_states
from raymdm.models.load import load_model, save_model

VOCABULARY = range(30)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
SMALL = {
    "vocab_size": 30,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT2 = {"vocab_size": 30, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0}
# GPT-2 has absolute positions; the attention modules of StableLM do not hear of the configuration's is_causal.
ARCHITECTURES = {"llama": SMALL, "qwen2": SMALL, "qwen3": SMALL, "gpt2": GPT2, "stablelm": SMALL}


def tiny(**fields) -> ModelConfig:
    return ModelConfig(**{"kind": "tiny", "tokenizer": {"kind": "chars"}, **fields})


def pretrained(path, **fields) -> ModelConfig:
    return ModelConfig(kind="pretrained", path=str(path), **fields)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def write_random(folder, architecture: str, seed: int = 0, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(architecture, **{**ARCHITECTURES.get(architecture, SMALL), **fields})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def same_weights(a, b) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_tiny_has_the_requested_sizes():
    model = load_model(tiny(hidden_size=32, intermediate_size=40, num_layers=3, num_heads=2), range(17), "mdm")
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (17, 32, 40)
    assert (config.num_hidden_layers, config.num_attention_heads) == (3, 2)
    assert not config.tie_word_embeddings


def test_tiny_starts_equal_for_both_families_and_every_load():
    mdm, again, arm = (load_model(tiny(), VOCABULARY, family) for family in ("mdm", "mdm", "arm"))
    assert same_weights(mdm, again)
    assert same_weights(mdm, arm)


def test_tiny_starts_elsewhere_for_another_init_seed():
    first, other = (load_model(tiny(init_seed=seed), VOCABULARY, "mdm") for seed in (0, 1))
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_tiny_bfloat16_is_the_rounded_float32_model():
    half, full = (load_model(tiny(dtype=name), VOCABULARY, "arm") for name in ("bfloat16", "float32"))
    assert same_weights(half, full.to(torch.bfloat16))


def test_global_random_state_is_untouched(tmp_path):
    path = write_random(tmp_path / "llama", "llama")
    before = torch.random.get_rng_state()
    load_model(tiny(init_seed=5), VOCABULARY, "mdm")
    load_model(pretrained(path), range(33), "mdm")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_model_is_in_evaluation_mode():
    assert not load_model(tiny(), VOCABULARY, "arm").training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_tiny_round_trip_is_bitwise(tmp_path, family, dtype):
    model = load_model(tiny(init_seed=3, dtype=dtype), VOCABULARY, family)
    save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    # Loaded with the other initial weights, which must all be replaced.
    loaded = load_model(tiny(init_seed=4, dtype=dtype), VOCABULARY, family, weights=tmp_path)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_pretrained_round_trip_is_bitwise(tmp_path, family, architecture):
    path = write_random(tmp_path / "base", architecture)
    model = load_model(pretrained(path), VOCABULARY, family)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    save_model(model, tmp_path / "tuned")
    loaded = load_model(pretrained(path), VOCABULARY, family, weights=tmp_path / "tuned")
    assert torch.equal(logits(loaded), logits(model))


def test_contradictory_sampling_settings_of_a_repository_do_not_prevent_saving(tmp_path):
    path = write_random(tmp_path / "base", "llama")
    (path / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.5, "eos_token_id": 1}')
    save_model(load_model(pretrained(path), VOCABULARY, "arm"), tmp_path / "tuned")
    saved = json.loads((tmp_path / "tuned" / "generation_config.json").read_text())
    assert "temperature" not in saved
    assert saved["eos_token_id"] == 1


def test_saved_mdm_stays_bidirectional_in_plain_transformers(tmp_path):
    model = load_model(tiny(), VOCABULARY, "mdm")
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_saved_mdm_is_refused_as_arm(tmp_path):
    save_model(load_model(tiny(), VOCABULARY, "mdm"), tmp_path)
    with pytest.raises(UserError, match="is bidirectional"):
        load_model(pretrained(tmp_path), VOCABULARY, "arm")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_pretrained_mdm_sees_the_last_token_and_arm_does_not(tmp_path, backend, architecture):
    path = write_random(tmp_path, architecture)
    changed = IDS.clone()
    changed[0, -1] = 20
    for family, sees in (("mdm", True), ("arm", False)):
        model = load_model(pretrained(path, attn_implementation=backend), VOCABULARY, family)
        with torch.no_grad():
            difference = (model(changed).logits - model(IDS).logits)[0, :-1].abs().amax(dim=1)
        assert ((difference > 1e-4) == sees).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_pretrained_row_padded_on_the_left_equals_the_row_alone(tmp_path, family, architecture):
    model = load_model(pretrained(write_random(tmp_path, architecture)), VOCABULARY, family)
    mask = torch.tensor([[False] * 3 + [True] * 8])
    with torch.no_grad():
        padded = hidden_states(model, torch.nn.functional.pad(IDS, (3, 0)), mask)[:, 3:]
        torch.testing.assert_close(padded, hidden_states(model, IDS, None))


def test_arm_equals_plain_transformers(tmp_path):
    path = write_random(tmp_path, "qwen2")
    plain = AutoModelForCausalLM.from_pretrained(path)
    assert torch.equal(logits(load_model(pretrained(path), VOCABULARY, "arm")), logits(plain))


@pytest.mark.parametrize("tied", [False, True])
def test_added_embeddings_are_deterministic_and_old_ones_kept(tmp_path, tied):
    path = write_random(tmp_path, "qwen2", tie_word_embeddings=tied)
    old = AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().weight
    torch.manual_seed(1)
    first = load_model(pretrained(path), range(33), "mdm")
    torch.manual_seed(2)
    second = load_model(pretrained(path), range(33), "mdm")
    assert first.get_input_embeddings().weight.shape == first.get_output_embeddings().weight.shape == (33, 32)
    assert torch.equal(first.get_input_embeddings().weight[:30], old)
    assert same_weights(first, second)


def test_larger_embeddings_than_tokenizer_are_kept(tmp_path):
    path = write_random(tmp_path, "llama")
    assert load_model(pretrained(path), range(20), "mdm").get_input_embeddings().weight.shape == (30, 32)


@pytest.mark.parametrize("path", ["/no/such/folder", "./no/such/folder", "no/such/folder"])
def test_missing_path_is_named(path):
    with pytest.raises(UserError, match=path):
        load_model(pretrained(path), VOCABULARY, "mdm")


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"weights.*gone"):
        load_model(tiny(), VOCABULARY, "mdm", weights=tmp_path / "gone")


def test_folder_without_safetensors_is_refused(tmp_path):
    path = write_random(tmp_path, "llama")
    (path / "model.safetensors").rename(path / "other.bin")
    with pytest.raises(UserError, match=r"model\.path.*safetensors"):
        load_model(pretrained(path), VOCABULARY, "mdm")


def test_broken_safetensors_is_refused(tmp_path):
    path = write_random(tmp_path, "llama")
    (path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"model\.path"):
        load_model(pretrained(path), VOCABULARY, "mdm")


def test_missing_tensors_are_refused_not_drawn_at_random(tmp_path):
    path = write_random(tmp_path, "llama")
    tensors = load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weights are missing: lm_head\.weight"):
        load_model(pretrained(path), VOCABULARY, "mdm")


def test_weights_of_a_smaller_vocabulary_are_refused(tmp_path):
    save_model(load_model(tiny(), VOCABULARY, "mdm"), tmp_path)
    with pytest.raises(UserError, match="30 tokens, the tokenizer 31"):
        load_model(tiny(), range(31), "mdm", weights=tmp_path)


@pytest.mark.parametrize(
    ("architecture", "fields"), [("gemma2", {}), ("cohere", {"logit_scale": 0.5}), ("granite", {"logits_scaling": 2.0})]
)
def test_models_that_change_their_logits_are_refused(tmp_path, architecture, fields):
    path = write_random(tmp_path, architecture, **fields)
    with pytest.raises(UserError, match="capping or scaling"):
        load_model(pretrained(path, attn_implementation="eager"), VOCABULARY, "mdm")


@pytest.mark.parametrize(("architecture", "reason"), [("mamba", "takes no"), ("bloom", "takes no position_ids")])
def test_models_without_the_needed_arguments_are_refused(tmp_path, architecture, reason):
    path = write_random(tmp_path, architecture, n_layer=2, n_head=4)
    with pytest.raises(UserError, match=reason):
        load_model(pretrained(path, attn_implementation="eager"), VOCABULARY, "mdm")


def test_importing_the_module_does_not_import_transformers():
    code = "import sys, raymdm.models.load, raymdm.generation.greedy; print('transformers' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
