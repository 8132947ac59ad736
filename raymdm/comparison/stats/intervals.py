"""Intervals of one method's values and of two methods' difference, over seeds and test examples.

Intervals are t-scaled, not percentiles of replicates: those are far too short over few seeds. The mean and the
difference of means have closed forms; the median and the interquartile mean take their variances from the crossed
bootstrap (raymdm.comparison.stats.bootstrap).

Shape legend: S seeds, E test examples, R replicates. `runs` are scores (S, E), whose mean over examples is a seed's
value, or the values (S,) themselves; all finite.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import integrate, stats

LEVEL = 0.95
"""Confidence level of every interval."""

ONE_SEED = "no interval: one seed"
NO_SPREAD = "no interval: the seeds do not differ"
EXAMPLES_ALONE = "examples alone: one seed"
SEEDS_AND_EXAMPLES = "t, seeds and examples"
IF_NORMAL = "chi-squared, if runs are normal"


class Interval(NamedTuple):
    """A number and its interval."""

    value: float
    low: float | None
    """None where there is no interval."""
    high: float | None
    how: str
    """What the interval covers and how it was made, or why there is none."""


class Welch(NamedTuple):
    """Welch's t test of a difference of means over seeds."""

    interval: Interval
    p: float | None
    """Two-sided; None where there is no interval."""


def seed_values(runs: np.ndarray) -> np.ndarray:
    """One value for each seed, (S,): runs are values (S,), or scores (S, E) whose mean over examples is the value."""
    return runs if runs.ndim == 1 else runs.mean(axis=1)


def combine(value: float, components: Sequence[tuple[float, float]], level: float, how: str) -> Interval:
    """value ± t se, where se² is the sum of the components' variances.

    Degrees of freedom after Welch (1938) and Satterthwaite (1946): (Σ v)² / Σ (v² / df). Without any variance there is
    no interval.

    Arguments:
        components: (variance, degrees of freedom) of independent estimates.
    """
    total, freedom = satterthwaite(components)
    if total <= 0:
        return Interval(value, None, None, NO_SPREAD)
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total))
    return Interval(value, value - half, value + half, how)


def satterthwaite(components: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of variances and its degrees of freedom; (0, 0) where none is above 0.

    Arguments:
        components: as of `combine`.
    """
    parts = [(part, df) for part, df in components if part > 0]
    total = sum(part for part, _ in parts)
    # As shares, because squares of small variances may underflow.
    return (total, 1 / sum((part / total) ** 2 / df for part, df in parts)) if parts else (0.0, 0.0)


def mean_interval(runs: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean over seeds and its t interval, from the closed form of crossed seeds and examples.

    A two-way analysis of variance without replication (Searle, Casella & McCulloch 1992, chapter 4): the mean's
    variance is σ²_seed/S + σ²_example/E + σ²_interaction/(S E). The seeds' part s²/S, with S - 1 degrees of freedom,
    holds the interaction already, so it is taken off the examples' part, the variance of the per-example means over E,
    with E - 1. Where that would be negative it is set to 0: the interval is then the ordinary t interval over seeds,
    and the variance is on average slightly too large rather than too small. Over three seeds, 0.95 intervals held the
    truth in 0.93 to 0.95 of simulations, whichever part was largest.

    One seed with scores has an interval from its examples alone, for that very run. One seed without has none.
    """
    return _over_parts([(1.0, runs)], level)


def difference_interval(ours: np.ndarray, theirs: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of ours less mean of theirs, with its t interval; the seeds are independent, the examples the same.

    As `mean_interval`, with two seeds' parts, and an examples' part from the paired per-example differences, off which
    both interactions are taken. Without scores of both methods it is Welch's interval. Where either method has a single
    seed, the interval is from the examples alone: that of a paired t test, for these very runs.
    """
    return _over_parts([(1.0, ours), (-1.0, theirs)], level)


def difference_p(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Two-sided p of `difference_interval`: it is below 1 - level exactly where the interval leaves out 0.

    None where there is no interval.
    """
    value, components, _ = _parts([(1.0, ours), (-1.0, theirs)])
    total, freedom = satterthwaite(components)
    return float(2 * stats.t.sf(abs(value) / np.sqrt(total), freedom)) if total > 0 else None


def _over_parts(parts: Sequence[tuple[float, np.ndarray]], level: float) -> Interval:
    """Interval of Σ sign x mean of each part's runs; parts are independent over seeds and share their examples."""
    value, components, how = _parts(parts)
    return combine(value, components, level, how) if components else Interval(value, None, None, how)


def _parts(parts: Sequence[tuple[float, np.ndarray]]) -> tuple[float, list[tuple[float, float]], str]:
    """Value, components for `combine` and what they cover; without components, why there are none."""
    counts = [len(runs) for _, runs in parts]
    value = float(sum(sign * seed_values(runs).mean() for sign, runs in parts))
    crossed = all(runs.ndim == 2 and runs.shape[1] > 1 for _, runs in parts)
    if min(counts) < 2 and not crossed:
        return value, [], ONE_SEED
    seeds = [(variance(seed_values(runs)) / len(runs), len(runs) - 1.0) for _, runs in parts if len(runs) > 1]
    if not crossed:
        return value, seeds, f"t, {' and '.join(map(str, counts))} seeds"

    per_example = np.sum([sign * runs.mean(axis=0) for sign, runs in parts], axis=0)
    examples = variance(per_example) / len(per_example)
    if min(counts) < 2:
        return (value, [(examples, len(per_example) - 1)], EXAMPLES_ALONE) if examples else (value, [], ONE_SEED)
    interactions = sum(_interaction(runs) / runs.size for _, runs in parts)
    return value, [*seeds, (remaining(examples, interactions), len(per_example) - 1)], SEEDS_AND_EXAMPLES


def variance(values: np.ndarray) -> float:
    """Sample variance; exactly 0 where values differ by no more than rounding."""
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return 0.0
    return float(np.var(values, ddof=1))


def _interaction(scores: np.ndarray) -> float:
    """Mean square of scores (S, E) after the seeds' and the examples' means, with (S - 1)(E - 1) degrees of freedom."""
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    return float(np.sum(rest**2)) / ((scores.shape[0] - 1) * (scores.shape[1] - 1))


def remaining(total: float, counted: float) -> float:
    """A variance less what is counted already; 0 where nothing but rounding is left."""
    rest = total - counted
    return rest if rest > 1e-12 * total else 0.0


def welch(ours: np.ndarray, theirs: np.ndarray, level: float = LEVEL) -> Welch:
    """Mean of ours (S,) less mean of theirs (S',), with Welch's interval and p over seeds alone (Welch 1947)."""
    value = float(np.mean(ours) - np.mean(theirs))
    if min(len(ours), len(theirs)) < 2:
        return Welch(Interval(value, None, None, ONE_SEED), None)
    if variance(ours) == variance(theirs) == 0:
        return Welch(Interval(value, None, None, NO_SPREAD), None)
    with warnings.catch_warnings():
        # scipy warns where one sample is constant; the interval is then that of the other's spread, as wanted.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(ours, theirs, equal_var=False)
        bounds = test.confidence_interval(level)
    how = f"Welch's t, {len(ours)} and {len(theirs)} seeds"
    return Welch(Interval(value, float(bounds.low), float(bounds.high), how), float(test.pvalue))


def sd_interval(values: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Sample standard deviation (n - 1) of values (S,), with its chi-squared interval; None for one seed."""
    free = len(values) - 1
    if free < 1:
        return None
    if variance(values) == 0:
        return Interval(0.0, None, None, NO_SPREAD)
    value = float(np.std(values, ddof=1))
    low, high = np.sqrt(free / stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], free))
    return Interval(value, float(value * low), float(value * high), IF_NORMAL)


def range_interval(values: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Largest less smallest of values (S,), with an interval for the expected range of as many normal runs.

    That expectation is `expected_range(S)` standard deviations, so its interval is that of the standard deviation,
    scaled. None for one seed.
    """
    sd = sd_interval(values, level)
    if sd is None or sd.low is None or sd.high is None:
        return sd
    factor = expected_range(len(values))
    return Interval(float(np.ptp(values)), factor * sd.low, factor * sd.high, sd.how)


@lru_cache
def expected_range(count: int) -> float:
    """Expected range of `count` standard normal values, d2 of control charts: ∫ 1 - F^n - (1 - F)^n (Tippett 1925)."""

    def integrand(x: float) -> float:
        return float(1 - stats.norm.cdf(x) ** count - stats.norm.sf(x) ** count)

    return float(2 * integrate.quad(integrand, 0, np.inf)[0])
