"""Spread over seeds: ratio of standard deviations, a test that they differ, a test that they are equivalent.

A variance of runs with heavy tails is worth fewer runs than it has, so F with n - 1 degrees of freedom would call their
ratio too precise, and more so the more seeds there are. The degrees are lowered by the kurtosis that the runs show.
benchmarks/interval_coverage.py measures both.

Shape legend: S and S' seeds. Every function takes finite values.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from raymdm.comparison.stats.intervals import LEVEL, Interval, variance

MARGIN = 1.5
"""Standard deviations are equivalent where their ratio is between 1/MARGIN and MARGIN."""
ALPHA = 0.05


class Equivalence(NamedTuple):
    """Two one-sided tests that a ratio of standard deviations lies within a margin."""

    p: float | None
    """The larger of the two; None where the ratio is undefined."""
    equivalent: bool


def ratio(ours: np.ndarray, theirs: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Standard deviation of ours (S,) over that of theirs (S',), with an F interval.

    Exact for normal runs but for what their kurtosis shows by chance, which makes it slightly longer. With few seeds
    the kurtosis shows little, and the interval of a skewed method stays too short.

    None where either has one seed or no spread.
    """
    if not (_spread(ours) and _spread(theirs)):
        return None
    value = _ratio(ours, theirs)
    tails = stats.f.ppf(np.array([(1 + level) / 2, (1 - level) / 2]), *degrees(ours, theirs))
    low, high = value / np.sqrt(tails)
    return Interval(value, float(low), float(high), "F, if runs are near normal")


def degrees(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom of the variances of ours (S,) and theirs (S',): n - 1, or fewer where tails are heavy.

    2 n / (k - (n - 3) / (n - 1)) matches the variance of s² at kurtosis k (Shoemaker 2003), which is pooled over the
    two methods, each in its own standard deviations about its trimmed mean (Bonett 2006). Both must have spread.
    """
    counts = len(ours), len(theirs)
    fourth = sum(float(np.sum((v - _centre(v)) ** 4) / np.var(v, ddof=1) ** 2) for v in (ours, theirs))
    kurtosis = sum(counts) * fourth / (sum(counts) - 2) ** 2
    first, second = (min(n - 1.0, 2 * n / max(kurtosis - (n - 3) / (n - 1), 1e-12)) for n in counts)
    return first, second


def brown_forsythe(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """p of equal spread of ours (S,) and theirs (S',), from deviations to the medians (Brown and Forsythe 1974).

    None where either has one seed, or where the deviations do not vary within either: two runs lie equally far from
    their median, so one method at least needs three.
    """
    if min(len(ours), len(theirs)) < 2 or not (_deviations_vary(ours) or _deviations_vary(theirs)):
        return None
    return float(stats.levene(ours, theirs, center="median").pvalue)


def equivalence(ours: np.ndarray, theirs: np.ndarray, margin: float = MARGIN, alpha: float = ALPHA) -> Equivalence:
    """Whether the true ratio of standard deviations of ours (S,) and theirs (S',) lies within (1/margin, margin).

    Two one-sided F tests (Schuirmann 1987, for variances) with `degrees`: one that the ratio is `margin` or more, one
    that it is 1/`margin` or less. Both have to be rejected, so p is the larger. The same as the ratio's interval at
    level 1 - 2 `alpha` inside the margin.
    """
    assert margin > 1, "a margin is a ratio above 1"
    if not (_spread(ours) and _spread(theirs)):
        return Equivalence(None, False)
    observed = stats.f(*degrees(ours, theirs))
    squared = _ratio(ours, theirs) ** 2
    p = float(max(observed.cdf(squared / margin**2), observed.sf(squared * margin**2)))
    return Equivalence(p, p <= alpha)


def smallest_equivalence_p(num_ours: int, num_theirs: int, margin: float = MARGIN) -> float:
    """The smallest p of `equivalence` that any observed ratio at so many seeds could give; 1 below two of either.

    It is at the ratio where the two one-sided p are equal: 1 with as many seeds of each. Heavy tails take more seeds.
    """
    assert margin > 1, "a margin is a ratio above 1"
    if min(num_ours, num_theirs) < 2:
        return 1.0
    observed = stats.f(num_ours - 1, num_theirs - 1)

    def excess(log_squared: float) -> float:
        squared = np.exp(log_squared)
        return float(observed.cdf(squared / margin**2) - observed.sf(squared * margin**2))

    balanced = np.exp(optimize.brentq(excess, -20, 20))
    return float(observed.cdf(balanced / margin**2))


def equivalence_possible(num_ours: int, num_theirs: int, margin: float = MARGIN, alpha: float = ALPHA) -> bool:
    """Whether any observed ratio at so many seeds would show equivalence; see `smallest_equivalence_p`."""
    return smallest_equivalence_p(num_ours, num_theirs, margin) <= alpha


def equivalence_seeds(margin: float = MARGIN, alpha: float = ALPHA) -> int:
    """Fewest seeds of each at which an observed ratio of 1 would show equivalence, without heavy tails."""
    enough = 2
    while not equivalence_possible(enough, enough, margin, alpha):
        enough *= 2
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        if equivalence_possible(middle, middle, margin, alpha):
            enough = middle
        else:
            few = middle
    return enough


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.std(ours, ddof=1) / np.std(theirs, ddof=1))


def _centre(values: np.ndarray) -> float:
    """Mean without a share 1 / (2 sqrt(n - 4)) at each end; of four or fewer all count."""
    number = len(values)
    cut = int(number / 2 / np.sqrt(number - 4)) if number > 4 else 0
    return float(np.mean(np.sort(values)[cut : number - cut]))


def _spread(values: np.ndarray) -> bool:
    return len(values) > 1 and variance(values) > 0


def _deviations_vary(values: np.ndarray) -> bool:
    """Whether the distances to the median differ by more than rounding."""
    distances = np.abs(values - np.median(values))
    return bool(np.ptp(distances) > 1e-12 * np.max(np.abs(values)))
