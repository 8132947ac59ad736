"""The training loss of a sequence, and the statistics of a batch of them.

Shape legend: B sequences, L positions, V views, R = V B model rows, M target tokens of all rows, N vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


def sequence_losses(logits: Tensor, batch: NoisedBatch, scale: Tensor) -> Tensor:
    """l(x0, t, m) of each sequence: the mean over its views of scale times the summed cross-entropy (method section 1).

    logits: (M, N) at the targets; scale: (V, B). Returns (B,) float32; a row without targets has loss 0.
    """
    cross_entropy = F.cross_entropy(logits.float(), batch.labels, reduction="none")
    views, size = scale.shape
    summed = cross_entropy.new_zeros(views * size).index_add(0, batch.rows, cross_entropy)
    return (summed.view(views, size) * scale.to(summed)).mean(0)


def autoregressive_losses(logits: Tensor, labels: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Mean next-token cross-entropy of each sequence's response, (B,): the same per-token scale as an MDM's loss.

    logits: (M, N) that predict the response tokens `labels` (M,); rows: (M,).
    """
    cross_entropy = F.cross_entropy(logits.float(), labels, reduction="none")
    count = torch.bincount(rows, minlength=num_rows).clamp(min=1)
    return cross_entropy.new_zeros(num_rows).index_add(0, rows, cross_entropy) / count


def loss_sums(losses: Tensor, weights: Tensor) -> Tensor:
    """The four sums of `LossSums`, (4,) float64 on the losses' device, so that steps and workers can be added up.

    losses, weights: (B,), l_i and w_i = 1/p(t_i).
    """
    losses, weights = losses.detach().double(), weights.double()
    w_l = weights * losses
    return torch.stack([torch.full_like(w_l[0], len(losses)), w_l.sum(), (w_l * losses).sum(), (w_l * w_l).sum()])


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

    @property
    def mean(self) -> float:
        """The unbiased estimate of the training loss."""
        return self.weighted / self.count

    @property
    def loss_variance(self) -> float:
        """The paper's online training variance (A.7.2, eq. 23); it needs two sequences or more."""
        square_of_mean = (self.weighted**2 - self.squared_weighted) / (self.count * (self.count - 1))
        return self.weighted_sq / self.count - square_of_mean

    @property
    def backprop_variance(self) -> float:
        """Var(w l), of what is really back-propagated; the unbiased sample variance."""
        return (self.squared_weighted - self.weighted**2 / self.count) / (self.count - 1)
