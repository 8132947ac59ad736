"""Statistics over seeds: pure functions on arrays.

Shape legend: S seeds. Every function takes finite values; a caller drops nothing silently.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval."""


class Summary(NamedTuple):
    """One method's values of one metric over its seeds."""

    num_seeds: int
    mean: float
    sd: float | None
    """Sample standard deviation (ddof = 1); None for one seed."""
    low: float
    """Smallest seed."""
    high: float
    """Largest seed."""


class Difference(NamedTuple):
    """A method less the baseline."""

    mean: float
    interval: tuple[float, float] | None
    """Welch's interval at LEVEL, or None where the seeds do not allow one."""
    reason: str
    """Why there is no interval; empty where there is one."""
    gap: float
    """Worst seed of the method to the best seed of the baseline, positive where even the worst is better."""

    @property
    def distinguishable(self) -> bool:
        """Whether there is an interval and 0 is outside it."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def summarise(values: np.ndarray) -> Summary:
    """Mean, sample standard deviation and range of values (S,)."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), sd, float(np.min(values)), float(np.max(values)))


def difference(ours: np.ndarray, baseline: np.ndarray, higher_is_better: bool) -> Difference:
    """Mean of ours (S,) less mean of baseline (S',), with Welch's interval (unequal variances, unpaired)."""
    mean = float(np.mean(ours) - np.mean(baseline))
    gap = dominance(ours, baseline, higher_is_better)
    if min(len(ours), len(baseline)) < 2:
        return Difference(mean, None, "an interval needs two seeds or more of each method", gap)
    if np.ptp(ours) == 0 and np.ptp(baseline) == 0:
        return Difference(mean, None, "the seeds do not differ within either method", gap)
    with warnings.catch_warnings():
        # scipy warns when one sample is constant; its interval is then that of the other sample's spread, as wanted
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = stats.ttest_ind(ours, baseline, equal_var=False).confidence_interval(LEVEL)
    return Difference(mean, (float(interval.low), float(interval.high)), "", gap)


def dominance(ours: np.ndarray, baseline: np.ndarray, higher_is_better: bool) -> float:
    """Worst of ours against best of the baseline; positive where every seed of ours is better than all of its seeds."""
    if higher_is_better:
        return float(np.min(ours) - np.max(baseline))
    return float(np.min(baseline) - np.max(ours))


def sd_factors(count: int) -> tuple[float, float]:
    """Factors on a standard deviation of `count` >= 2 normal values that bound the true one at LEVEL (chi-squared)."""
    tail = (1 - LEVEL) / 2
    free = count - 1
    return float(np.sqrt(free / stats.chi2.ppf(1 - tail, free))), float(np.sqrt(free / stats.chi2.ppf(tail, free)))
