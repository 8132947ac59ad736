"""Moments of the loss over sequences, rates and masks, and the decomposition A + B + C (paper, eq. 2).

Shape legend: M sequences, T rates, K masks a (sequence, rate).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Decomposition(NamedTuple):
    """Variance of a sequence's loss by source (squared nats a token); a term may come out slightly negative."""

    masks: float
    """A, masking pattern noise."""
    rate: float
    """B, masking rate noise."""
    data: float
    """C, data noise."""

    @property
    def total(self) -> float:
        return self.masks + self.rate + self.data


def decompose(losses: np.ndarray) -> Decomposition:
    """A, B and C by nested analysis of variance; each is unbiased (method section 2).

    losses: (M, T, K) weighted losses, rates drawn independently from the sampler under study; M, T, K >= 2.
    """
    _, num_rates, num_masks = losses.shape
    masks = losses.var(axis=2, ddof=1).mean()
    by_rate = losses.mean(axis=2)
    within = by_rate.var(axis=1, ddof=1).mean()
    data = by_rate.mean(axis=1).var(ddof=1) - within / num_rates
    return Decomposition(float(masks), float(within - masks / num_masks), float(data))


@dataclass(frozen=True)
class GridMoments:
    """Per (sequence, rate of the grid) moments of the unweighted loss l, from K masks."""

    count: np.ndarray
    """(M, T) masks."""
    sum: np.ndarray
    """(M, T) sum of l."""
    sum_sq: np.ndarray
    """(M, T) sum of l^2."""

    @property
    def root_second_moment(self) -> np.ndarray:
        """w_j = sqrt(mean of l^2 over sequences and masks), (T,): the plain second moment of eq. 4."""
        return np.sqrt(self.sum_sq.sum(0) / self.count.sum(0))

    @property
    def mean(self) -> np.ndarray:
        """g(x0, t_j), (M, T)."""
        return self.sum / self.count

    @property
    def variance(self) -> np.ndarray:
        """v(x0, t_j), (M, T), unbiased; needs two masks or more."""
        return np.maximum(self.sum_sq - self.sum**2 / self.count, 0) / (self.count - 1)


def decompose_on_grid(moments: GridMoments, width: np.ndarray, p: np.ndarray, eps: float) -> Decomposition:
    """A, B and C of the loss weighed for a density p(t), by quadrature over the grid of a calibration.

    width, p: (T,) quadrature widths and density at the grid's rates. One calibration serves every density.
    """
    g, v = moments.mean, moments.variance
    base = width / (1 - eps)
    weight = 1 / ((1 - eps) * p)
    masks = (v * weight * base).sum(1).mean()
    square = g**2 - v / moments.count
    mean = (g * base).sum(1)
    noise_of_mean = (v / moments.count * base**2).sum(1)
    rate = ((square * weight * base).sum(1) - (mean**2 - noise_of_mean)).mean()
    data = mean.var(ddof=1) - noise_of_mean.mean()
    return Decomposition(float(masks), float(rate), float(data))
