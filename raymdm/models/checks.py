"""Is a model fit for training here? Forward passes on eight tokens answer before hours are spent.

Shape legend: R rows, L tokens a row, H hidden size, V vocabulary.
"""

import inspect
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

GPU_ONLY = ("flex_attention", "flash_attention_2")
"""Attention that runs on no CPU."""
_LENGTH, _PADS = 8, 2
# A token's influence is the change of a logit it causes over the largest logit. Without a path through the network it
# is 0, or rounding noise where the experts of a mixture get other batch shapes; with one, 0.1 is usual.
_SEEN, _NOISE = 1e-6, 1e-2


def vocabulary_size(model: "PreTrainedModel") -> int:
    """Rows of the input embeddings; often a few more than the tokenizer has tokens."""
    return cast(nn.Embedding, model.get_input_embeddings()).num_embeddings


def check_tokens(model: nn.Module, largest: int) -> None:
    """Raise UserError unless the largest token id of some texts has an embedding, which an ARM's [MASK] may lack.

    A GPU would end the process. model: a causal LM, or what holds a Denoiser of one.
    """
    inner = next((part.model for part in model.modules() if isinstance(part, Denoiser)), model)
    rows = vocabulary_size(cast("PreTrainedModel", inner))
    if largest >= rows:
        raise UserError(
            f"a text holds the token {largest}, for which the model has no embedding (it has {rows}): usually the text "
            "of the mask token, which an autoregressive model never learns. Leave out such rows"
        )


def check_interface(model: "PreTrainedModel") -> None:
    """Raise UserError unless the model's decoder takes the arguments that the denoiser and the samplers pass."""
    accepted = inspect.signature(model.get_decoder().forward).parameters
    missing = [name for name in ("attention_mask", "position_ids", "use_cache") if name not in accepted]
    if missing:
        raise UserError(
            f"model.path: {type(model).__name__} is not supported, its decoder takes no {' and no '.join(missing)}. "
            "Choose a Llama-like model"
        )


def check_head(model: "PreTrainedModel") -> None:
    """Raise UserError unless output embeddings applied to the last hidden state are the model's own logits.

    Only then may the head run on the masked positions alone. Models that cap or scale their logits (Gemma 2, Cohere)
    fail: the loss would be that of another model.
    """
    ids = _tokens(model)
    with torch.no_grad(), _precision(model):
        expected = model(input_ids=ids, use_cache=False).logits
        actual = model.get_output_embeddings()(hidden_states(model, ids, None))
    # The same operations on the same shapes: equal to the last bit, or something more happens to the logits.
    if not torch.equal(actual.float(), expected.float()):
        raise UserError(
            f"model.path: {type(model).__name__} changes its logits after the output layer (capping or scaling), "
            "which raymdm does not support. Choose a model with plain logits, such as Llama or Qwen"
        )


def check_mask(config: "PreTrainedConfig", mask: int, chosen: str | None) -> None:
    """Raise UserError if a tokenizer's mask token is another than that which the model was trained with.

    Args:
        config: of the model; its `mask_token_id`, where it has one, is what the model knows.
        mask: the tokenizer's.
        chosen: the recipe's `model.tokenizer.mask_token`: who names it means it.
    """
    known = getattr(config, "mask_token_id", None)
    if known not in (None, mask) and chosen is None:
        raise UserError(
            f"the model's mask token is {known} (mask_token_id in its config.json), the tokenizer's {mask}. Set "
            "model.tokenizer.mask_token to the text of the one to use"
        )


def assert_bidirectional(model: "PreTrainedModel") -> None:
    """Raise UserError unless the first position sees the last token and none sees padding, padded or not."""
    _refuse_not_finite(model)
    for name, mask in _paddings(model):
        if not _influence_of_last_token(model, mask) > _SEEN:
            raise UserError(
                f"model.path: the attention of {type(model).__name__} cannot be made bidirectional ({name}, attention "
                f"{model.config._attn_implementation}): its first position does not see the last token. Choose another "
                "model.attn_implementation or model"
            )
        _refuse_visible_padding(model, name, mask)


def assert_causal(model: "PreTrainedModel") -> None:
    """Raise UserError if a position sees a later token or padding, padded or not."""
    _refuse_not_finite(model)
    for name, mask in _paddings(model):
        if _influence_of_last_token(model, mask) > _NOISE:
            raise UserError(
                f"model.path: {type(model).__name__} is bidirectional ({name}): the first position sees the last token "
                "and next-token training would read the answer. Give the method 'arm' a causal model: arm_model.path"
            )
        _refuse_visible_padding(model, name, mask)


def _tokens(model: "PreTrainedModel") -> torch.Tensor:
    return torch.arange(_LENGTH, device=model.device)[None] % vocabulary_size(model)


def _other(model: "PreTrainedModel", ids: torch.Tensor) -> torch.Tensor:
    return (ids + 1) % vocabulary_size(model)


def _precision(model: "PreTrainedModel") -> torch.autocast:
    """The parameters' own type, as on a CPU; bf16 for attention that only runs on GPUs: FlashAttention needs it."""
    gpu_only = model.config._attn_implementation in GPU_ONLY and model.device.type == "cuda"
    return torch.autocast(model.device.type, torch.bfloat16, enabled=gpu_only)


def _paddings(model: "PreTrainedModel") -> list[tuple[str, torch.Tensor]]:
    """Attention masks (1, L): backends take other paths with padding than without, and each can go wrong alone."""
    full = torch.ones(1, _LENGTH, dtype=torch.bool, device=model.device)
    left, right = full.clone(), full.clone()
    left[:, :_PADS] = False
    right[:, -_PADS:] = False
    return [("no padding", full), ("padding on the left", left), ("padding on the right", right)]


def _logits(model: "PreTrainedModel", ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of the real positions, (1, real, V), float32."""
    with torch.no_grad(), _precision(model):
        logits = model.get_output_embeddings()(hidden_states(model, ids, None if mask.all() else mask))
    return logits.float()[:, mask[0]]


def _influence_of_last_token(model: "PreTrainedModel", mask: torch.Tensor) -> float:
    ids = _tokens(model)
    last = int(mask[0].nonzero()[-1])
    changed = ids.clone()
    changed[:, last] = _other(model, ids)[:, last]
    before, after = _logits(model, ids, mask)[0, 0], _logits(model, changed, mask)[0, 0]
    return float((after - before).abs().max() / before.abs().max())


def _refuse_not_finite(model: "PreTrainedModel") -> None:
    """NaN answers no question: it would look like attention that sees nothing, or everything."""
    if not _logits(model, _tokens(model), _paddings(model)[0][1]).isfinite().all():
        raise UserError(
            f"model.path: {type(model).__name__} computes logits that are not finite: its weights hold such numbers, "
            f"or model.dtype {str(model.dtype).removeprefix('torch.')} cannot hold them. Use another copy or dtype"
        )


def _refuse_visible_padding(model: "PreTrainedModel", name: str, mask: torch.Tensor) -> None:
    ids = _tokens(model)
    before = _logits(model, ids, mask)
    after = _logits(model, torch.where(mask, ids, _other(model, ids)), mask)
    if (after - before).abs().max() > _NOISE * before.abs().max():
        raise UserError(
            f"model.path: {type(model).__name__} does not ignore padding tokens ({name}). Choose a model that uses "
            "its attention_mask, such as Llama or Qwen"
        )
