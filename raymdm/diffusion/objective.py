"""The training loss of a sequence, and the statistics of a batch of them.

Shape legend: B sequences, L positions, V views, D rates a sequence, R = V B model rows, M target tokens of all rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raymdm.diffusion.masking import Masks


class NoisedBatch(NamedTuple):
    """What the model sees: R rows, the views one after the other."""

    input_ids: Tensor
    """(R, L) long, masked tokens replaced."""
    targets: Tensor
    """(R, L) bool: the masked tokens."""
    labels: Tensor
    """(M,) long: the clean tokens at the targets, row by row."""
    rows: Tensor
    """(M,) long: the row of each target."""


def noise(input_ids: Tensor, masks: Masks, mask_id: int) -> NoisedBatch:
    """Build x_t for every view. input_ids: (B, L) clean tokens."""
    targets = masks.mask.flatten(0, 1)
    clean = input_ids.repeat(len(masks.mask), 1)
    return NoisedBatch(clean.masked_fill(targets, mask_id), targets, clean[targets], targets.nonzero()[:, 0])


def sequence_losses(cross_entropy: Tensor, batch: NoisedBatch, masks: Masks) -> Tensor:
    """l(x0, t, m) of each sequence and each of its rates, (D, B) float32: weighted sums of cross-entropies.

    cross_entropy: (M,) of the targets, in the order of `batch.labels`. A row without targets adds 0.
    """
    weight = masks.weight[:, masks.mask].to(cross_entropy)
    size = masks.mask.shape[1]
    losses = cross_entropy.new_zeros(len(weight), size)
    return losses.index_add(1, batch.rows % size, weight * cross_entropy)


def autoregressive_losses(cross_entropy: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Mean next-token cross-entropy of each sequence's response, (B,): the same per-token scale as an MDM's loss.

    cross_entropy: (M,) of the response tokens; rows: (M,), the row of each.
    """
    count = torch.bincount(rows, minlength=num_rows).clamp(min=1)
    return cross_entropy.new_zeros(num_rows).index_add(0, rows, cross_entropy) / count


def loss_sums(losses: Tensor, weights: Tensor, reported: Tensor | None = None) -> Tensor:
    """The six sums of `LossSums`, (6,) float64 on the losses' device, so that steps and workers can be added up.

    losses, weights: (D, B), l_i and w_i = 1/p(t_i). A sequence with several rates counts as one draw: its w l and w l^2
    are the means over its rates. reported: (D, B), the losses to report where they are not those that carry the
    gradient (EMA).
    """
    weights, carried = weights.double(), losses.detach().double()
    told = carried if reported is None else reported.detach().double()
    w_l, w_carried = (weights * told).mean(0), (weights * carried).mean(0)
    return torch.stack(
        [
            torch.full_like(w_l[0], len(w_l)),
            w_l.sum(),
            (weights * told**2).mean(0).sum(),
            (w_l * w_l).sum(),
            w_carried.sum(),
            (w_carried * w_carried).sum(),
        ]
    )


@dataclass(frozen=True)
class LossSums:
    """Sums over sequences from which the online variances follow."""

    count: float
    weighted: float
    """sum of w l"""
    weighted_sq: float
    """sum of w l^2"""
    squared_weighted: float
    """sum of w^2 l^2"""
    carried: float
    """sum of w l, of the losses that carry the gradient"""
    squared_carried: float
    """sum of w^2 l^2, of the losses that carry the gradient"""

    @property
    def mean(self) -> float:
        """The unbiased estimate of the training loss."""
        return self.weighted / self.count

    @property
    def loss_variance(self) -> float:
        """The paper's online training variance (A.7.2, eq. 23) of the reported loss; needs two sequences or more.

        It estimates the variance of a loss at one uniform rate, whatever density drew the rates: the choice of p(t)
        does not show in it, nor that a sequence with several rates averages over them.
        """
        square_of_mean = (self.weighted**2 - self.squared_weighted) / (self.count * (self.count - 1))
        return self.weighted_sq / self.count - square_of_mean

    @property
    def backprop_variance(self) -> float:
        """Var(w l) over sequences, of what is really back-propagated; the unbiased sample variance."""
        return (self.squared_carried - self.carried**2 / self.count) / (self.count - 1)
