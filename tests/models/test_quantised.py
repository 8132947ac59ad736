"""4-bit frozen weights against weights rounded to NF4 by hand."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.inputs import AdapterConfig
from raymdm.errors import UserError
from raymdm.models import adapters
from raymdm.models.denoiser import Denoiser
from raymdm.models.quantised import dequantise, is_quantised, quantise

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 29]])
TARGETS = torch.zeros_like(IDS, dtype=torch.bool)
TARGETS[0, 3:] = True
QLORA = AdapterConfig(kind="qlora", r=4, alpha=8.0)
# The 16 values of NF4: table of appendix E of the QLoRA paper, rounded to four places.
NF4 = torch.tensor(
    [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626,
     0.7230, 1.0]
)  # fmt: skip


def base(dtype: torch.dtype = torch.float32, architecture: str = "llama", **fields):
    """A model of random weights, always the same. Qwen2's attention has biases."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4} | fields
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, vocab_size=30, num_key_value_heads=2, bos_token_id=0, **sizes)
        model = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            parameter.data = parameter.data.to(dtype)
    return model


def attached(random: bool = True, **fields):
    model = base(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapters.attach(model, QLORA, "base")
        if random:
            for parameter in adapters.trainable(model).values():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Each value of a block of 64 as the nearest of NF4's times the block's largest absolute value."""
    blocks = weight.float().flatten().view(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks / scale).unsqueeze(-1).sub(NF4).abs().argmin(dim=-1)
    return (NF4[nearest] * scale).view_as(weight)


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    Denoiser(model, "mdm")(IDS, None, TARGETS, IDS[TARGETS]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in adapters.trainable(model).items()}


def test_weights_are_rounded_to_nf4():
    model, plain = base(), base()
    quantise(model)
    dequantise(model)
    for (name, weight), exact in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        if "proj.weight" in name:
            # the scales are rounded too, to 8 bits; a value half way between two of the table may go either way
            close = (weight - rounded(exact)).abs() < 0.03 * exact.abs().max()
            assert close.float().mean() > 0.998
        else:
            assert torch.equal(weight, exact), name


def test_linear_layers_take_an_eighth_of_the_memory():
    model = base()
    exact = model.model.layers[0].mlp.up_proj.weight
    quantise(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.numel() * weight.element_size() * 8 == exact.numel() * exact.element_size()


def test_output_layer_and_embeddings_stay_as_they_are():
    model, plain = attached(), base()
    assert torch.equal(model.get_output_embeddings().weight, plain.get_output_embeddings().weight)
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_compute_with_the_rounded_weights(dtype, architecture):
    model, plain = (base(dtype, architecture) for _ in range(2))
    quantise(model)
    reference = base(dtype, architecture)
    quantise(reference)
    dequantise(reference)
    torch.testing.assert_close(logits(model), logits(reference))
    assert not torch.equal(logits(model), logits(plain))


def test_updates_change_nothing_at_first():
    model = base()
    quantise(model)
    assert torch.equal(logits(attached(random=False)), logits(model))


def test_gradients_are_those_over_the_rounded_weights():
    model, plain = attached(), base()
    quantise(plain)
    dequantise(plain)
    adapters.attach(plain, AdapterConfig(r=4, alpha=8.0), "base")
    for name, parameter in adapters.trainable(plain).items():
        parameter.data.copy_(model.get_parameter(name))
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_gradients_are_the_same_after_an_evaluation():
    model = attached().train()
    before = gradients(model)
    model.eval()
    logits(model)
    torch.testing.assert_close(gradients(model.train()), before, rtol=0, atol=0)


def test_frozen_weights_are_not_trained():
    model = attached()
    gradients(model)
    trained = adapters.trainable(model)
    assert all("lora_" in name for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in trained)


def test_layers_compute_in_autocast_s_type():
    model = base()
    quantise(model)
    layer = model.model.layers[0].mlp.up_proj
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 64)).dtype == torch.bfloat16
    assert layer(torch.ones(1, 64)).dtype == torch.float32
    assert layer(torch.ones(1, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_saved_updates_bring_4_bit_weights_with_them(tmp_path):
    model = attached()
    adapters.save(model, tmp_path)
    loaded = base()
    adapters.load(loaded, tmp_path)
    assert is_quantised(loaded.config)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_merged_model_is_plain_and_gives_the_same_logits(architecture):
    model = attached(architecture=architecture)
    before = logits(model)
    adapters.merge(model)
    torch.testing.assert_close(logits(model), before)
    plain = base(architecture=architecture)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert not is_quantised(model.config)


def test_model_can_be_moved_and_copied():
    model = attached()
    state = model.to("cpu").state_dict()
    assert torch.equal(logits(model), logits(attached()))
    assert any(name.endswith("absmax") for name in state)


def test_rows_without_whole_blocks_are_refused():
    model = base(intermediate_size=96)
    with pytest.raises(UserError, match=r"mlp\.down_proj has rows of 96\. Use lora"):
        quantise(model)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_model_without_numbers_is_refused():
    with torch.device("meta"), pytest.raises(UserError, match=r"needs the whole model in each worker"):
        quantise(base())


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = base()
    with pytest.raises(UserError, match=r"qlora needs bitsandbytes.*pip install 'raymdm\[quantized\]'"):
        adapters.attach(model, QLORA, "base")
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


FAKE = """
try:
    from kernels import get_kernel
except ImportError:
    print("refused")
"""


def test_bitsandbytes_fetches_no_code_from_a_hub(tmp_path):
    (tmp_path / "kernels.py").write_text("get_kernel = print")
    (tmp_path / "bitsandbytes.py").write_text(FAKE)
    code = (
        "from raymdm.models.quantised import import_bitsandbytes as f; f(); import kernels; print(kernels.get_kernel)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["refused", "<built-in function print>"]
