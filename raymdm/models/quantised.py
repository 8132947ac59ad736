"""Frozen weights in 4 bits: NF4 with quantised scales, as QLoRA has it (Dettmers et al. 2023), by bitsandbytes.

bitsandbytes is imported inside the functions that need it: it is optional, and takes seconds.
"""

import importlib.util
import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from raymdm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 64
"""Weights that share a scale."""
_MARK = "base_quantization"
"""Field of the model's config.json that says so."""


def quantise(model: "PreTrainedModel") -> None:
    """Turn all linear layers but the output layer into frozen 4-bit ones, in place, one after the other.

    They compute in the type of their input, under autocast in autocast's, on CPUs and GPUs. `model.config` notes it,
    and hands the note on to config.json. Rounding is done on the GPU where there is one: a CPU takes about a minute
    for half a billion weights.

    Raises:
        UserError: bitsandbytes is not installed, a layer's rows do not hold whole blocks, or there are no numbers.
    """
    import_bitsandbytes()
    head = model.get_output_embeddings()
    layers: list[tuple[str, nn.Linear]] = [
        (name, layer)
        for name, layer in cast(nn.Module, model).named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    ]
    if model.device.type == "meta":
        raise UserError(
            "model.adapter.kind: qlora needs the whole model in each worker. Use train.parallel: ddp, or lora"
        )
    for name, layer in layers:
        if layer.in_features % BLOCK:  # on CPUs bitsandbytes 0.50 reads the scales of such rows wrongly
            raise UserError(
                f"model.adapter.kind: qlora rounds {BLOCK} weights of a row together, and {name} has rows of "
                f"{layer.in_features}. Use lora with this model"
            )
    for name, layer in layers:
        cast(nn.Module, model).set_submodule(name, _in_4_bits(layer))
    setattr(model.config, _MARK, "nf4")


def is_quantised(config: Any) -> bool:
    """Whether a model's config says that its linear layers are in 4 bits."""
    return getattr(config, _MARK, None) == "nf4"


def dequantise(model: "PreTrainedModel") -> None:
    """Turn 4-bit layers back into plain ones of their original type, in place; rounded to 4 bits they stay."""
    for name, layer in list(cast(nn.Module, model).named_modules()):
        if hasattr(layer, "quant_state"):
            cast(nn.Module, model).set_submodule(name, plain_linear(layer, dense_weight(layer)))
    if is_quantised(model.config):
        delattr(model.config, _MARK)


def dense_weight(layer: nn.Module) -> Tensor:
    """The weight (out, in) of a plain or 4-bit linear layer in its original type."""
    if not hasattr(layer, "quant_state"):
        return cast(Tensor, layer.weight).detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(cast(Tensor, layer.weight).data, cast(Any, layer).quant_state)


def plain_linear(layer: nn.Module, weight: Tensor) -> nn.Linear:
    """A linear layer with this weight (out, in), and the bias of `layer`."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight)
    if layer.bias is not None:
        plain.bias = nn.Parameter(cast(Tensor, layer.bias).detach())
    return plain


def import_bitsandbytes() -> None:
    """Import bitsandbytes without code from a hub, which it fetches for some CPUs where the package `kernels` is.

    Raises UserError where it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "model.adapter.kind: qlora needs bitsandbytes, which is not installed: pip install 'raymdm[quantized]'"
        )
    if "bitsandbytes" in sys.modules:
        return
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it would complain of the lack
    hub = {"kernels": sys.modules.get("kernels")}
    sys.modules["kernels"] = cast(Any, None)  # an import of it fails
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        sys.modules.update({name: module for name, module in hub.items() if module is not None})


def _in_4_bits(layer: nn.Linear) -> nn.Module:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    quantised = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4", device="meta")
    quantised.bias = layer.bias
    weight = Params4bit(layer.weight.data, requires_grad=False, blocksize=BLOCK, quant_type="nf4", module=quantised)
    rounding = "cuda" if torch.cuda.is_available() else layer.weight.device
    quantised.weight = cast(Any, weight).to(rounding).to(layer.weight.device)
    quantised.requires_grad_(False)
    quantised.compute_type_is_set = True  # and is none: it would stick to what the first input is
    # Some CPUs would repack the weight in the first evaluation, in which form it has no gradient.
    quantised.support_avx512bf16_for_cpu = False
    quantised.register_forward_pre_hook(_autocast)
    return cast(nn.Module, quantised)


def _autocast(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Autocast makes a linear layer compute in a lower precision, but knows nothing of bitsandbytes'."""
    (x,) = args
    device = x.device.type
    return (x.to(torch.get_autocast_dtype(device)),) if torch.is_autocast_enabled(device) else (x,)
