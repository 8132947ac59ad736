"""The test that a claim about two means rests on.

Shape legend: n and m seeds, E test examples. Runs are scores (n, E), or the values (n,) themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from raymdm.comparison.stats.intervals import difference_p, seed_values, variance, welch
from raymdm.comparison.stats.permutation import RANDOM_SPLITS, mean_test


class MeanTest(NamedTuple):
    """Tests of equal means, two-sided."""

    p: float
    """The largest of them."""
    p_permutation: float
    p_welch: float
    """Or, against a single run, that of the one-sample t test."""
    p_crossed: float | None
    """Over seeds and examples; None without scores of both."""
    exact: bool
    """Whether the permutation test took all splits."""
    smallest: float
    """The smallest p that so many seeds could have given."""


def difference_test(ours: np.ndarray, theirs: np.ndarray, random_splits: int = RANDOM_SPLITS) -> MeanTest | None:
    """Test of equal means of our runs and theirs; None below two seeds of either.

    p is the largest one of two or three tests'. The permutation test needs no normal runs, but with few seeds it takes
    a difference of spread for one of means. Welch's t test is right there, but trusts three seeds with a p that no
    three seeds can give. Methods that reduce variance differ in spread, so a finding needs both. Both are about these
    test examples; where there are scores, a finding must hold for others too, so that it never stands beside an
    interval that holds 0.
    """
    x, y = seed_values(ours), seed_values(theirs)
    permutation = mean_test(x, y, random_splits)
    if permutation is None:
        return None
    p_welch = welch(x, y).p
    if p_welch is None:  # neither method's seeds differ
        p_welch = 0.0 if x.mean() != y.mean() else 1.0
    p_crossed = difference_p(ours, theirs) if ours.ndim == theirs.ndim == 2 else None
    largest = max(permutation.p, p_welch, p_crossed or 0.0)
    return MeanTest(largest, permutation.p, p_welch, p_crossed, permutation.exact, permutation.smallest)


def single_run_test(ours: np.ndarray, theirs: np.ndarray, random_splits: int = RANDOM_SPLITS) -> MeanTest | None:
    """Test that the mean of our runs is that of a reference whose runs all repeat one; None below two seeds of ours.

    As `difference_test`, with flipped signs of the differences in place of splits (for runs that lie symmetrically
    about their mean; exact where 2^n is at most `random_splits`) and the one-sample t test in place of Welch's.
    """
    differences = seed_values(ours) - seed_values(theirs)[0]
    if len(differences) < 2 or variance(differences) == 0:
        return None
    exact = 2 ** len(differences) <= random_splits
    flipped = stats.permutation_test(
        (differences,), _t, permutation_type="samples", n_resamples=random_splits, vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    p_t = float(stats.ttest_1samp(differences, 0).pvalue)
    p_crossed = difference_p(ours, theirs) if ours.ndim == theirs.ndim == 2 else None
    smallest = 2.0 ** (1 - len(differences)) if exact else 2 / (random_splits + 1)
    return MeanTest(max(flipped, p_t, p_crossed or 0.0), float(flipped), p_t, p_crossed, exact, smallest)


def _t(values: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.mean(values, axis=axis) / np.std(values, axis=axis, ddof=1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979): the k-th smallest of m times m - k + 1, none below one before it."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted.tolist()
