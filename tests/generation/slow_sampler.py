"""LLaDA's published sampler at temperature 0, written from its description: slow, and nothing left out.

Every step runs the model over the whole sequence and computes the logits of all its positions.
Shape legend: B prompts, P tokens of the longest prompt, L tokens (prompt and generation), V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def transfer_tokens(masked: int, steps: int) -> list[int]:
    """How many of a block's masked tokens each step unmasks: equal shares, the remainder one each to the first."""
    counts = [masked // steps] * steps
    for step in range(masked % steps):
        counts[step] += 1
    return counts


@torch.no_grad()
def slow_sampler(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    mask_id: int,
    pad_id: int,
    generation_length: int,
    steps: int,
    block_length: int,
    banned: Sequence[int] = (),
    shift: bool = False,
) -> Tensor:
    """Tokens (B, generation_length) long after prompts without [MASK], in one batch padded on the left.

    banned: tokens of probability 0. LLaDA bans none, so that it can keep [MASK] at a position that it "unmasks".
    shift: the logits of position i are those that the model gives at i - 1, as in Dream. Ties, which torch.topk breaks
    as it likes, go to the leftmost position.
    """
    longest = max(map(len, prompts))
    x = torch.full((len(prompts), longest + generation_length), mask_id)
    attention_mask = torch.ones_like(x)
    for row, prompt in enumerate(prompts):
        x[row, :longest] = torch.tensor([pad_id] * (longest - len(prompt)) + [int(token) for token in prompt])
        attention_mask[row, : longest - len(prompt)] = 0
    blocks = generation_length // block_length
    for block in range(blocks):
        end = longest + (block + 1) * block_length
        for count in transfer_tokens(block_length, steps // blocks):
            confidence, x0 = predictions(model, x, attention_mask, banned, shift)
            x0, confidence[x != mask_id] = torch.where(x == mask_id, x0, x), -torch.inf
            confidence[:, end:] = -torch.inf
            for row in range(len(prompts)):
                chosen = confidence[row].sort(descending=True, stable=True).indices[:count]
                x[row, chosen] = x0[row, chosen]
    return x[:, longest:]


def predictions(model, x: Tensor, attention_mask: Tensor, banned: Sequence[int], shift: bool) -> tuple[Tensor, Tensor]:
    """Probability in float64 and id of the most probable token at each position, (B, L)."""
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=x, attention_mask=attention_mask, position_ids=position_ids).logits
    if shift:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    logits[:, :, list(banned)] = -torch.inf
    x0 = logits.argmax(dim=-1)
    probability = torch.softmax(logits.to(torch.float64), dim=-1)
    return probability.gather(-1, x0[:, :, None])[:, :, 0], x0
