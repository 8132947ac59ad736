"""The layers of a decoder, one by one: what is sharded, compiled, or computed again in the backward pass.

Their `forward` is replaced, not the modules: names of weights, and so checkpoints, stay as they are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from raymdm.config.training import TrainConfig
from raymdm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_VARIANTS = 32
"""Compiled forms of a layer, which all layers share: with gradients or without, one row or more, padded or not."""


def layers(model: "PreTrainedModel") -> list[nn.Module]:
    """The decoder's layers. Raises UserError for an architecture without a list of them."""
    decoder = model.get_decoder()
    for child in decoder.children():
        if isinstance(child, nn.ModuleList):
            return list(child)
    raise UserError(
        f"{type(decoder).__name__} has no list of layers, which `train.parallel: fsdp`, `train.compile` and "
        "`train.activation_checkpointing` work on: train without them"
    )


def prepare_layers(model: "PreTrainedModel", settings: TrainConfig, device: torch.device) -> None:
    """Make the layers compute as `compile` and `activation_checkpointing` say, before they are sharded.

    Raises UserError where layers cannot be compiled.
    """
    if settings.compile:
        check_compiler(device)
        torch.compiler.reset()  # what earlier runs of this process compiled counts against the limit
        torch._dynamo.config.recompile_limit = _VARIANTS
        for layer in layers(model):
            layer.forward = torch.compile(layer.forward, dynamic=True)
    if settings.activation_checkpointing:
        for layer in layers(model):
            layer.forward = _recomputed(layer.forward)


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile would fail: it needs a C++ compiler, and Triton on a GPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda" and not has_triton():
        raise UserError(
            "train.compile: Triton is not there, which compiles for a GPU: pip install triton, or train without"
        )
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "train.compile: there is no C++ compiler (g++) on this node: install one, or train without"
        ) from None


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass, of which a backward pass needs nothing but the inputs."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed
