"""Text from a masked diffusion model: LLaDA's sampler at temperature 0, for a batch of prompts.

Source: Nie et al., "Large Language Diffusion Models" (2025), algorithm 5 and its public `generate.py`: blocks
from left to right, low-confidence remasking.
Shape legend: B prompts, L tokens (prompt and generation), m masked tokens of the current block (the same in every
row: each step unmasks as many in all of them), H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raymdm.generation.padding import Prompts, left_pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def generate_mdm(
    model: "PreTrainedModel",
    prompts: Prompts,
    *,
    mask_id: int,
    pad_id: int,
    generation_length: int,
    steps: int,
    block_length: int,
    forbidden_ids: Sequence[int] = (),
) -> Tensor:
    """Tokens (B, generation_length) that follow the prompts, long, on the model's device; no [MASK] among them.

    Blocks are finished from left to right. Each of a block's denoising steps predicts all its masked tokens and keeps
    an equal share: those whose most probable token has the highest probability, the leftmost first where equal.

    Args:
        model: bidirectional, in evaluation mode, as `raymdm.models.load` returns it.
        prompts: B arrays of token ids; lengths may differ.
        mask_id: the [MASK] token. It is never generated: a model can assign it a probability, and a token unmasked to
            [MASK] would be a gap in the text that later steps read as still unknown.
        pad_id: fills short prompts on the left; the model does not see it.
        generation_length: tokens to generate, a multiple of `block_length`.
        steps: denoising steps in all, a multiple of the number of blocks.
        block_length: tokens a block.
        forbidden_ids: more tokens that are never generated.
    """
    blocks = generation_length // block_length
    if blocks * block_length != generation_length or steps % blocks:
        raise ValueError("generation_length must be a multiple of block_length, and steps of the number of blocks")
    if model.training:
        raise ValueError("generation needs model.eval()")
    prompt_ids, prompt_real = left_pad(prompts, pad_id, model.device)
    start = prompt_ids.shape[1]
    new = prompt_ids.new_full((len(prompts), generation_length), mask_id)
    tokens = torch.cat([prompt_ids, new], dim=1)
    real = torch.cat([prompt_real, torch.ones_like(new, dtype=torch.bool)], dim=1)
    attention_mask = None if len({len(prompt) for prompt in prompts}) == 1 else real
    never = torch.tensor(sorted({mask_id, *forbidden_ids}), device=model.device)
    for left in range(start, start + generation_length, block_length):
        masked = torch.arange(left, left + block_length, device=model.device).expand(len(prompts), -1)
        for share in transfer_counts(block_length, steps // blocks):
            if share:
                masked = _denoise(model, tokens, attention_mask, masked, share, never)
    return tokens[:, start:]


def transfer_counts(block_length: int, steps: int) -> list[int]:
    """How many of a block's tokens each step unmasks: equal shares, the remainder one each to the first steps."""
    base, remainder = divmod(block_length, steps)
    return [base + (step < remainder) for step in range(steps)]


def _denoise(
    model: "PreTrainedModel", tokens: Tensor, attention_mask: Tensor | None, masked: Tensor, share: int, never: Tensor
) -> Tensor:
    """Unmask in `tokens` (B, L), in place, `share` of the positions `masked` (B, m); return those still masked."""
    logits = _logits_at(model, tokens, attention_mask, masked)
    logits[:, :, never] = -torch.inf
    confidence, predicted = logits.softmax(dim=-1).max(dim=-1)  # (B, m)
    order = confidence.sort(dim=1, descending=True, stable=True).indices
    chosen, rest = order[:, :share], order[:, share:].sort(dim=1).values
    tokens.scatter_(1, masked.gather(1, chosen), predicted.gather(1, chosen))
    return masked.gather(1, rest)


def _logits_at(model: "PreTrainedModel", tokens: Tensor, attention_mask: Tensor | None, positions: Tensor) -> Tensor:
    """Logits (B, m, V) at `positions` (B, m) alone, in float32 or better: bf16 could not rank confident tokens."""
    padding = {}
    if attention_mask is not None:
        position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        padding = {"attention_mask": attention_mask, "position_ids": position_ids}
    hidden = model.get_decoder()(input_ids=tokens, use_cache=False, **padding).last_hidden_state  # (B, L, H)
    wanted = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
    logits: Tensor = model.get_output_embeddings()(wanted)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
