"""Low-rank updates against W + (alpha / r) B A by hand, and their files against peft's own reader."""

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.inputs import AdapterConfig
from raymdm.errors import UserError
from raymdm.models import adapters
from raymdm.models.denoiser import Denoiser

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 29]])
TARGETS = torch.zeros_like(IDS, dtype=torch.bool)
TARGETS[0, 3:] = True
LORA = AdapterConfig(r=4, alpha=8.0)
NEW = 29
SIZES = {
    "vocab_size": 30,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


# peft asks transformers for something that has another name there by now
PEFT_S_OWN = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def base(architecture: str = "llama", dtype: torch.dtype = torch.float32, **fields):
    """A model of random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **SIZES, **fields)
        model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # not the rotary frequencies: as from_pretrained has it
        parameter.data = parameter.data.to(dtype)
    return model


def attached(config: AdapterConfig = LORA, new_tokens=(), seed: int = 1, random: bool = False, **fields):
    """A model with updates; `random`: B and new rows as after some training, not as at the start."""
    model = base(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapters.attach(model, config, "base", new_tokens)
        if random:
            for parameter in adapters.trainable(model).values():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss(model) -> torch.Tensor:
    return Denoiser(model, "mdm")(IDS, None, TARGETS, IDS[TARGETS]).sum()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def layer(model, name: str):
    return model.get_submodule(f"model.layers.1.{name}")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_updates_change_nothing_at_first(architecture):
    assert torch.equal(logits(attached(new_tokens=[NEW], architecture=architecture)), logits(base(architecture)))


def test_all_linear_layers_but_the_output_layer_get_updates():
    names = {name.split(".lora_")[0] for name in adapters.trainable(attached()) if "lora_" in name}
    linear = {n for n, m in base().named_modules() if isinstance(m, torch.nn.Linear)}
    assert names == linear - {"lm_head"}
    assert len(names) == 14


def test_named_layers_alone_get_updates():
    names = adapters.trainable(attached(AdapterConfig(r=2, target_modules=["q_proj", "mlp.up_proj"])))
    assert {name.split(".lora_")[0].split(".", 3)[3] for name in names} == {"self_attn.q_proj", "mlp.up_proj"}
    assert len(names) == 8


@pytest.mark.parametrize("name", ["q_prj", "lm_head", "self_attn", "roj"])
def test_unknown_layer_is_refused_and_the_known_ones_listed(name):
    with pytest.raises(UserError, match=rf"no linear layer {name} .*down_proj, gate_proj, k_proj, o_proj"):
        attached(AdapterConfig(target_modules=["q_proj", name]))


def test_model_without_linear_layers_is_refused():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(UserError, match="GPT2LMHeadModel has no linear layers"):
        adapters.attach(model, LORA, "base")


def test_output_and_gradients_are_those_of_w_plus_scaled_b_a():
    names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]
    model, plain = attached(AdapterConfig(r=4, alpha=6.0, target_modules=names), random=True), base()
    updates = [layer(model, name) for name in names]
    pairs = [[part["default"].weight for part in (update.lora_A, update.lora_B)] for update in updates]
    by_hand = [[matrix.detach().clone().requires_grad_() for matrix in pair] for pair in pairs]
    weights = {
        f"model.layers.1.{name}.weight": layer(plain, name).weight.detach() + 6.0 / 4 * b @ a
        for name, (a, b) in zip(names, by_hand, strict=True)
    }
    for name in names:  # the other layer has no update in the model by hand
        model.get_submodule(f"model.layers.0.{name}").lora_B["default"].weight.data.zero_()
    expected = torch.func.functional_call(plain, weights, (IDS,)).logits
    torch.testing.assert_close(model(IDS).logits, expected)
    torch.nn.functional.cross_entropy(expected[TARGETS], IDS[TARGETS], reduction="sum").backward()
    loss(model).backward()
    for ours, theirs in zip(pairs, by_hand, strict=True):
        torch.testing.assert_close([matrix.grad for matrix in ours], [matrix.grad for matrix in theirs])


def test_frozen_weights_get_no_gradient():
    model = attached(new_tokens=[NEW], random=True)
    loss(model).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == adapters.trainable(model).keys()
    assert all("lora_" in name or "trainable_tokens" in name for name in with_gradient)


def test_updates_of_a_bfloat16_model_are_float32():
    model = attached(new_tokens=[NEW], dtype=torch.bfloat16, random=True)
    assert {parameter.dtype for parameter in adapters.trainable(model).values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16
    loss(model).backward()


def test_initial_updates_depend_on_the_random_state_alone():
    first, again, other = (adapters.trainable_state(attached(seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_dropout_of_updates_is_that_of_the_global_generator():
    model = attached(AdapterConfig(r=4, dropout=0.5), random=True).train()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = logits(model), logits(model)
        torch.manual_seed(3)
        assert torch.equal(logits(model), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_of_a_new_token_is_trained_and_no_other(tied):
    model = attached(new_tokens=[NEW], tie_word_embeddings=tied)
    (rows,) = (parameter for name, parameter in adapters.trainable(model).items() if "lora_" not in name)
    assert torch.equal(rows[0], base(tie_word_embeddings=tied).get_input_embeddings().weight[NEW])
    loss(model).backward()
    assert rows.grad.any()
    with torch.no_grad():
        rows += 1.0
    changed = torch.func.functional_call(
        base(tie_word_embeddings=tied), {"model.embed_tokens.weight": _row_moved(tied)}, (IDS,)
    )
    torch.testing.assert_close(logits(model), changed.logits)


def _row_moved(tied: bool) -> torch.Tensor:
    weight = base(tie_word_embeddings=tied).get_input_embeddings().weight.detach().clone()
    weight[NEW] += 1.0
    return weight


def test_wrapped_embeddings_still_say_how_many_they_are():
    model = attached(new_tokens=[NEW], tie_word_embeddings=True)
    assert model.get_input_embeddings().num_embeddings == model.get_output_embeddings().out_features == 30


@pytest.mark.parametrize("tied", [False, True])
def test_merged_model_is_plain_and_gives_the_same_logits(tied):
    model = attached(new_tokens=[NEW], random=True, tie_word_embeddings=tied, attention_bias=True)
    before = logits(model)
    adapters.merge(model)
    torch.testing.assert_close(logits(model), before)
    assert model.state_dict().keys() == base(tie_word_embeddings=tied, attention_bias=True).state_dict().keys()
    assert not adapters.is_attached(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_merged_model_keeps_its_type_and_can_be_saved(tmp_path):
    model = attached(random=True, dtype=torch.bfloat16)
    adapters.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)), logits(model))


def test_saved_updates_are_loaded_bit_for_bit(tmp_path):
    model = attached(new_tokens=[NEW], random=True)
    adapters.save(model, tmp_path / "run")
    assert adapters.is_adapter_folder(tmp_path / "run")
    loaded = base()
    adapters.load(loaded, tmp_path / "run")
    assert torch.equal(logits(loaded), logits(model))
    assert adapters.trainable(loaded).keys() == adapters.trainable(model).keys()


def test_only_updates_are_saved(tmp_path):
    model = attached(random=True)
    adapters.save(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "config.json",
    ]  # fmt: skip
    numbers = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert numbers == sum(parameter.numel() for parameter in adapters.trainable(model).values())


def test_saved_weights_are_those_given(tmp_path):
    model = attached(random=True)
    before, kept = logits(model), {k: v.clone() for k, v in adapters.trainable_state(model).items()}
    for parameter in adapters.trainable(model).values():
        parameter.data.zero_()
    adapters.save(model, tmp_path, kept)
    loaded = base()
    adapters.load(loaded, tmp_path)
    assert torch.equal(logits(loaded), before)


@PEFT_S_OWN
@pytest.mark.parametrize("tied", [False, True])
def test_peft_reads_the_folder(tmp_path, tied):
    model = attached(new_tokens=[NEW], random=True, tie_word_embeddings=tied)
    adapters.save(model, tmp_path)
    theirs = PeftModel.from_pretrained(base(tie_word_embeddings=tied), tmp_path)
    torch.testing.assert_close(logits(theirs), logits(model))


@PEFT_S_OWN
def test_merged_model_equals_peft_s(tmp_path):
    model = attached(random=True)
    adapters.save(model, tmp_path)
    theirs = PeftModel.from_pretrained(base(), tmp_path).merge_and_unload()
    adapters.merge(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(theirs.state_dict()))


@PEFT_S_OWN
@pytest.mark.filterwarnings("ignore:Could not find a config file in base")
def test_folder_that_peft_wrote_is_read(tmp_path):
    model = attached(random=True)
    adapters.save(model, tmp_path / "ours")
    PeftModel.from_pretrained(base(), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    loaded = base()
    adapters.load(loaded, tmp_path / "theirs")
    assert torch.equal(logits(loaded), logits(model))


def test_two_saves_write_the_same_bytes(tmp_path):
    model = attached(AdapterConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"]), random=True)
    for folder in ("one", "two"):
        adapters.save(copy.deepcopy(model), tmp_path / folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_updates_of_another_model_are_refused(tmp_path):
    adapters.save(attached(), tmp_path)
    for fields in ({"num_hidden_layers": 1}, {"intermediate_size": 40}):
        config = AutoConfig.for_model("llama", **{**SIZES, **fields})
        with pytest.raises(UserError, match="these updates are not of this LlamaForCausalLM"):
            adapters.load(AutoModelForCausalLM.from_config(config), tmp_path)


def test_updates_of_other_layers_than_the_model_has_are_refused(tmp_path):
    adapters.save(attached(AdapterConfig(target_modules=["q_proj"])), tmp_path)
    gpt2 = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(UserError, match="these updates are not of GPT2LMHeadModel"):
        adapters.load(gpt2, tmp_path)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_missing_or_broken_file_is_named(tmp_path, file, fault):
    adapters.save(attached(), tmp_path)
    (tmp_path / file).unlink() if fault == "missing" else (tmp_path / file).write_bytes(b"no")
    with pytest.raises(UserError, match=f"{file} is {fault}"):
        adapters.load(base(), tmp_path)


def test_other_adapters_than_lora_are_refused(tmp_path):
    adapters.save(attached(), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(UserError, match="does not describe a LoRA adapter"):
        adapters.load(base(), tmp_path)


def test_tensor_of_something_else_is_refused(tmp_path):
    adapters.save(attached(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"] = torch.zeros(30, 32)
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"too many.*lm_head\.weight"):
        adapters.load(base(), tmp_path)


def test_base_model_is_written_down(tmp_path):
    base().save_pretrained(tmp_path / "base")
    for base_model in (str(tmp_path / "base"), "hub/name", "s3://bucket/folder"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        adapters.attach(model, LORA, base_model)
        adapters.save(model, tmp_path / "run")
        assert adapters.base_model(tmp_path / "run") == base_model
