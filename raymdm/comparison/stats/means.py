"""The test that a claim about two means rests on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raymdm.comparison.stats.intervals import welch
from raymdm.comparison.stats.permutation import mean_test


class MeanTest(NamedTuple):
    """Two tests of equal means, two-sided."""

    p: float
    """The larger of the two."""
    p_permutation: float
    p_welch: float
    exact: bool
    """Whether the permutation test took all splits."""
    smallest: float
    """The smallest p that so many seeds could have given."""


def difference_test(ours: np.ndarray, theirs: np.ndarray) -> MeanTest | None:
    """Test of equal means of ours (n,) and theirs (m,); None below two seeds of either.

    p is the larger one of the permutation test's and of Welch's t test's. The first needs no normal runs, but with few
    seeds it takes a difference of spread for one of means; the second is right there, but trusts three seeds with a
    p that no three seeds can give. Methods that reduce variance differ in spread, so a finding needs both.
    """
    permutation = mean_test(ours, theirs)
    if permutation is None:
        return None
    p_welch = welch(ours, theirs).p
    if p_welch is None:  # neither method's seeds differ
        p_welch = 0.0 if np.mean(ours) != np.mean(theirs) else 1.0
    return MeanTest(max(permutation.p, p_welch), permutation.p, p_welch, permutation.exact, permutation.smallest)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979): the k-th smallest of m times m - k + 1, none below one before it."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted.tolist()
