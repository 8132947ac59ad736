"""Two-sided permutation tests over seeds.

Shape legend: n and m seeds of the two methods, N = n + m, P splits.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

MOST_SPLITS = 200_000
"""Up to here all splits are enumerated: 10 against 10 seeds have 184,756."""
RANDOM_SPLITS = 9_999
CHUNK = 20_000
"""Splits whose statistics are computed at once."""
SEED = 20_251_118
TIE = 1e-9
"""Statistics this close, relative to the observed one or to 1, are ties. Values such as 0.615 are rounded, and their
small differences much more so."""
ROUNDING = 1e-12
"""Differences this small, relative to the largest value, are 0."""
SQUARES = 1e-14
"""Sums of squares this small, relative to those of all runs, are rounding: those of a side whose runs agree."""


class Permutation(NamedTuple):
    """A permutation test's result."""

    p: float
    exact: bool
    """Whether all splits were enumerated."""
    smallest: float
    """The smallest p the test could have given."""


def smallest_p(num_ours: int, num_theirs: int) -> float:
    """The smallest two-sided p of an exact test: 2 / C(n + m, n), at most 1."""
    return min(1.0, 2 / comb(num_ours + num_theirs, num_ours))


def mean_test(ours: np.ndarray, theirs: np.ndarray, random_splits: int = RANDOM_SPLITS) -> Permutation | None:
    """Test of equal means of ours (n,) and theirs (m,), by Welch's t; None below two seeds of either.

    Exact where the methods differ in nothing. Because the statistic is studentised, it also holds for many seeds when
    only the means are equal (Janssen 1997; Chung & Romano 2013). With few seeds and unequal variances it rejects too
    often, least so with equal counts; its size at alpha 0.05 over normal runs of equal means, in 1,500 simulations,
    where theirs have 1, 2 or 4 times the standard deviation of ours (Welch's t test stays within 0.04 and 0.065):

        n, m      x 1    x 2    x 4
        5, 5      0.05   0.06   0.08
        10, 10    0.05   0.05   0.06
        7, 5      0.05   0.08   0.09
        20, 5     0.05   0.11   0.18
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    return _two_sided(welch_t, np.concatenate([ours, theirs]), splits(len(ours), len(theirs), random_splits))


def spread_test(ours: np.ndarray, theirs: np.ndarray, random_splits: int = RANDOM_SPLITS) -> Permutation | None:
    """Test of equal spread of ours (n,) and theirs (m,), whose centres may differ; None below two seeds of either.

    The runs' deviations from their own method's mean are permuted; the statistic is the log ratio of the two sample
    variances of each split. Deviations are not quite exchangeable, so the test is not exact; its size over normal runs
    of equal variance and different means, in 1,000 to 3,000 simulations, at alpha 0.05 and 0.10:

        n, m      this test     |deviation|, mean   |deviation|, median
        3, 3      0    0.065    0      0.17         0      0
        4, 4      0.03 0.09     0.07   0.14         0.08   0.11
        5, 5      0.05 0.10     0.08   0.14         0.00   0.02
        3, 10     0.05 0.11     0.08   0.15         0.04   0.07
        10, 10    0.04 0.10     0.06   0.12         0.04   0.08

    Permuting absolute deviations from means rejects too often, and from medians hardly ever with odd counts, where each
    method has a deviation of 0 by construction. Skewed runs are rejected too often here too (exponential ones 0.13 and
    0.19 at five seeds); runs with long tails on both sides are not (Student's t with 4 degrees 0.05 and 0.12).
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    deviations = np.concatenate([_deviations(ours), _deviations(theirs)])
    return _two_sided(log_variance_ratio, deviations, splits(len(ours), len(theirs), random_splits))


def _deviations(values: np.ndarray) -> np.ndarray:
    """Values less their mean; exactly 0 where only rounding differs."""
    deviations = values - values.mean()
    deviations[np.abs(deviations) <= ROUNDING * np.abs(values).max()] = 0.0
    return deviations


@lru_cache(maxsize=32)
def splits(num_ours: int, num_theirs: int, random_splits: int = RANDOM_SPLITS) -> np.ndarray:
    """Which of the N runs are ours in each split, (P, N) bool; the first is as observed.

    All of them where there are at most MOST_SPLITS, else the observed and so many random ones from a constant seed. The
    observed split among random ones is the correction of Phipson & Smyth (2010): p is never 0.
    """
    total = num_ours + num_theirs
    count = comb(total, num_ours)
    if count <= MOST_SPLITS:
        chosen = np.array(list(combinations(range(total), num_ours)))
        masks = np.zeros((count, total), bool)
        np.put_along_axis(masks, chosen, True, axis=1)
    else:
        masks = np.tile(np.arange(total) < num_ours, (random_splits + 1, 1))
        np.random.default_rng([SEED, num_ours, num_theirs]).permuted(masks[1:], axis=1, out=masks[1:])
    masks.flags.writeable = False
    return masks


def welch_t(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Welch's t of values (N,) for each split of masks (P, N): (P,).

    A difference over no variance is ±inf, and no difference over no variance 0.
    """
    ours, theirs = _groups(values, masks)
    difference = ours.mean - theirs.mean
    difference[np.abs(difference) <= ROUNDING * np.abs(values).max()] = 0.0
    errors = ours.variance / ours.number + theirs.variance / theirs.number
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.sqrt(errors))


def log_variance_ratio(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Log of our sample variance over theirs, of values (N,) for each split of masks (P, N): (P,).

    A variance over none is ±inf, and none over none 0.
    """
    ours, theirs = (group.variance for group in _groups(values, masks))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((ours == 0) & (theirs == 0), 0.0, np.log(ours) - np.log(theirs))


class _Group(NamedTuple):
    """One side of every split."""

    number: int
    mean: np.ndarray
    """(P,), of values less their mean over both sides."""
    variance: np.ndarray
    """Sample variance (P,), 0 up to rounding."""


def _groups(values: np.ndarray, masks: np.ndarray) -> tuple[_Group, _Group]:
    """Our side and theirs, from one product of masks (P, N) with the centred values (N,) and their squares."""
    centred = values - values.mean()
    moments = np.stack([centred, centred**2], axis=1)
    sums, num_ours = masks.astype(np.float64) @ moments, int(masks[0].sum())
    nothing = max(SQUARES * moments[:, 1].sum(), (ROUNDING * np.abs(values).max()) ** 2)

    def group(count: int, total: np.ndarray) -> _Group:
        mean = total[:, 0] / count
        squares = total[:, 1] - count * mean**2
        return _Group(count, mean, np.where(squares <= nothing, 0.0, squares) / (count - 1))

    return group(num_ours, sums), group(len(values) - num_ours, moments.sum(axis=0) - sums)


def _two_sided(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], values: np.ndarray, masks: np.ndarray
) -> Permutation:
    """Twice the smaller one-sided p, at most 1, of values (N,) over the splits (P, N), the first the observed one."""
    found = np.concatenate([statistic(values, masks[at : at + CHUNK]) for at in range(0, len(masks), CHUNK)])
    margin = 0.0 if np.isinf(found[0]) else TIE * max(1.0, abs(found[0]))
    share = min(np.mean(found <= found[0] + margin), np.mean(found >= found[0] - margin))
    num_ours, total = int(masks[0].sum()), len(values)
    exact = comb(total, num_ours) <= MOST_SPLITS
    smallest = smallest_p(num_ours, total - num_ours) if exact else 2 / len(masks)
    return Permutation(min(1.0, 2 * float(share)), exact, smallest)
