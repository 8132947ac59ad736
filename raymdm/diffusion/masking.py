"""Which tokens are masked, and what a masked token's cross-entropy weighs.

Shape legend: B sequences, L positions, V views (2 when mirrored, else 1), n eligible tokens of a sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """Masks of the views and the factor that turns a row's summed cross-entropy into its loss."""

    mask: Tensor
    """(V, B, L) bool: the tokens replaced by [MASK], which are also the targets."""
    scale: Tensor
    """(V, B) float64: 1/(t n) for Bernoulli masks, 1/k for fixed-size ones; 0 for a row with nothing to mask."""


def bernoulli_masks(u: Tensor, t: Tensor, eligible: Tensor, mirrored: bool = False) -> Masks:
    """Mask every eligible token with probability t, independently (paper, section 3).

    u: (B, L) uniform numbers in (0, 1); t: (B,) masking rates in (0, 1]; eligible: (B, L) bool.
    The mirrored view masks [u > 1 - t] with the same u (MIRROR, 3.1.2): disjoint from the first for t <= 1/2, and the
    two cover every eligible token for t >= 1/2.
    """
    rate = t[:, None]
    views = [eligible & (u < rate)]
    if mirrored:
        views.append(eligible & (u > 1 - rate))
    n = eligible.sum(1)
    scale = torch.where(n > 0, 1.0 / (t * n.clamp(min=1)), 0.0)
    return Masks(torch.stack(views), scale.expand(len(views), -1))


def fixed_size_masks(u: Tensor, t: Tensor, eligible: Tensor, mirrored: bool = False) -> Masks:
    """Mask exactly k = ceil(t n) eligible tokens, uniformly; the same expectation as Bernoulli masks with eps = 0.

    Arguments as in `bernoulli_masks`. The k tokens with the smallest u are masked; the mirrored view masks the k
    with the largest, so that one random order of the tokens serves both.
    """
    n = eligible.sum(1)
    k = torch.minimum(torch.ceil(t * n).clamp(min=1), n.to(t.dtype))
    order = torch.where(eligible, u, torch.inf).argsort(dim=1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(u.shape[1]).expand_as(order))
    views = [eligible & (rank < k[:, None])]
    if mirrored:
        views.append(eligible & (rank >= (n - k)[:, None]))
    scale = torch.where(n > 0, 1.0 / k.clamp(min=1), 0.0)
    return Masks(torch.stack(views), scale.expand(len(views), -1))


def draw_masks(kind: str, u: Tensor, t: Tensor, eligible: Tensor, mirrored: bool = False) -> Masks:
    """Masks by name: `bernoulli` or `fixed_size`."""
    draw = {"bernoulli": bernoulli_masks, "fixed_size": fixed_size_masks}[kind]
    return draw(u, t, eligible, mirrored)


def smallest_rate(kind: str) -> float:
    """eps: rates are drawn from (eps, 1]. LLaDA's 1e-3 for Bernoulli masks, whose weight 1/t has no bound at 0."""
    return {"bernoulli": 1e-3, "fixed_size": 0.0}[kind]
