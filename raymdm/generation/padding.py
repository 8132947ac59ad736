"""Prompts of unequal length side by side.

Shape legend: B prompts, P tokens of the longest prompt.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Prompts = Sequence[np.ndarray | Tensor]


def left_pad(prompts: Prompts, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, P) long and attention mask (B, P) bool; padding on the left, so that all prompts end together."""
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    ids = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - lengths[row] :] = np.asarray(prompt)
    real = np.arange(longest) >= longest - np.asarray(lengths)[:, None]
    return torch.from_numpy(ids).to(device), torch.from_numpy(real).to(device)
