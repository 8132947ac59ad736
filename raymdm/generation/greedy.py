"""Text from an autoregressive model, and text from token ids.

Shape legend: B prompts, P tokens of the longest prompt.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from raymdm.generation.padding import Prompts, left_pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()  # under inference_mode autocast would cast all weights again in each forward pass
def generate_arm(
    model: "PreTrainedModel", prompts: Prompts, *, stop_ids: Collection[int], pad_id: int, max_new_tokens: int
) -> Tensor:
    """The most probable next token, again and again: (B, at most max_new_tokens) long, on the model's device.

    Each row ends with a stop token, then `pad_id`, or at the limit. The generation settings that a model repository
    ships (repetition penalty, sampling) are not used.

    Args:
        model: causal, in evaluation mode, as `raymdm.models.load` returns it.
        prompts: B arrays of one token id or more; lengths may differ.
        stop_ids: tokens that end a row, one or more.
        pad_id: fills short prompts on the left, unseen by the model, and finished rows on the right.
        max_new_tokens: longest generation (tokens).
    """
    from transformers import GenerationConfig

    if model.training:
        raise ValueError("generation needs model.eval()")
    input_ids, real = left_pad(prompts, pad_id, model.device)
    greedy = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids),
        pad_token_id=pad_id,
    )
    # transformers fills what is not set here from the model's own settings, so these are put aside.
    own, model.generation_config = model.generation_config, greedy
    try:
        output = cast(Any, model).generate(input_ids, attention_mask=real, use_cache=True)
    finally:
        model.generation_config = own
    return cast(Tensor, output)[:, input_ids.shape[1] :]


def decode(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int] | Tensor, stop_ids: Collection[int]
) -> tuple[str, int]:
    """A generation's text, and its length in tokens, both up to the first stop token (left out); `ids` is one row."""
    row = [int(token) for token in ids]
    length = next((i for i, token in enumerate(row) if token in stop_ids), len(row))
    return cast(str, tokenizer.decode(row[:length], skip_special_tokens=True)), length
