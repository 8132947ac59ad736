"""Layers that are compiled, or computed again in the backward pass, are the same layers."""

from collections.abc import Callable
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from interrupted import assert_same_run, run_once, weights
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from transformers import LlamaConfig, LlamaForCausalLM

from raymdm.config.schema import Recipe
from raymdm.config.training import TrainConfig
from raymdm.errors import UserError
from raymdm.training.layers import layers, prepare_layers
from raymdm.training.loop import Job

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2)
    )


def _gradients(model: LlamaForCausalLM) -> dict[str, Tensor]:
    model.zero_grad()
    model(torch.arange(12).view(2, 6)).logits.square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _kept(model: LlamaForCausalLM) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights aside."""
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.arange(12).view(2, 6)).logits.sum()  # the graph lives until here, and so do addresses
    del loss
    return sum(sizes.values())


def test_gradients_of_layers_computed_again_are_the_same(model: LlamaForCausalLM) -> None:
    expected = _gradients(model.train())
    prepare_layers(model, TrainConfig(activation_checkpointing=True), CPU)
    found = _gradients(model)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_layers_computed_again_keep_little_else_than_their_inputs(model: LlamaForCausalLM) -> None:
    before = _kept(model.train())
    prepare_layers(model, TrainConfig(activation_checkpointing=True), CPU)
    assert _kept(model) < before / 3


def test_layers_are_computed_once_where_no_gradient_is_wanted(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_layers(model, TrainConfig(activation_checkpointing=True), CPU)
    monkeypatch.setattr("raymdm.training.layers.checkpoint", lambda *args, **kwargs: pytest.fail("computed again"))
    with torch.no_grad():
        model(torch.arange(6).view(1, 6))


def test_a_run_that_computes_layers_again_is_the_same(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name in (False, True):
        job = Job(make_recipe(train__activation_checkpointing=name), "standard", 42, tiny_data)
        run_once(job, tmp_path / str(name))
    assert_same_run(tmp_path / "True", tmp_path / "False")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch.compile is called with, in place of compiling."""
    calls: list[dict[str, Any]] = []

    def pretend(forward: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        calls.append(settings)
        return forward

    monkeypatch.setattr(torch, "compile", pretend)
    monkeypatch.setattr("raymdm.training.layers.check_compiler", lambda device: None)
    return calls


def test_each_layer_is_compiled_for_all_shapes(model: LlamaForCausalLM, compiled: list[dict[str, Any]]) -> None:
    prepare_layers(model, TrainConfig(compile=True, activation_checkpointing=True), CPU)
    assert compiled == [{"dynamic": True}] * 3
    assert _gradients(model)


def test_names_of_weights_stay(model: LlamaForCausalLM, compiled: list[dict[str, Any]]) -> None:
    before = list(model.state_dict())
    prepare_layers(model, TrainConfig(compile=True, activation_checkpointing=True), CPU)
    assert list(model.state_dict()) == before


def test_without_a_compiler_nothing_starts(model: LlamaForCausalLM) -> None:
    without = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(UserError, match=r"train\.compile: there is no C\+\+ compiler"):
        prepare_layers(model, TrainConfig(compile=True), CPU)


def test_without_triton_nothing_starts_on_a_gpu(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(UserError, match=r"train\.compile: Triton is not there"):
        prepare_layers(model, TrainConfig(compile=True), torch.device("cuda"))


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    decoder = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="Sequential has no list of layers"):
        layers(SimpleNamespace(get_decoder=lambda: decoder))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")
def test_a_compiled_run_ends_where_another_does(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name in (False, True):
        recipe = make_recipe(train__compile=name, train__activation_checkpointing=name, train__max_steps=3)
        run_once(Job(recipe, "standard", 42, tiny_data), tmp_path / str(name))
    assert counters["stats"]["unique_graphs"] > 0
    found, expected = (weights(tmp_path / str(name)) for name in (True, False))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
