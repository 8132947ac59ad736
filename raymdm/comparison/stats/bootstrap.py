"""The crossed bootstrap over seeds and test examples.

Every run of a task is scored on the same examples, so seeds and examples are crossed, not nested: one replicate draws
one set of examples for all seeds and all methods, and for each method its own seeds (Owen 2007, "The pigeonhole
bootstrap"). Examples drawn anew for every seed would average the examples' noise away over seeds, and intervals from
them would be too short.

Shape legend: S seeds, E test examples, R replicates, T thresholds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from raymdm.comparison.stats.intervals import (
    LEVEL,
    ONE_SEED,
    Interval,
    combine,
    mean_interval,
    remaining,
    seed_values,
    variance,
)

REPLICATES = 2_000

Statistic = Callable[[np.ndarray], np.ndarray]
"""Reduces the last axis, which holds the seeds."""


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return np.mean(values, axis=-1)


def median(values: np.ndarray) -> np.ndarray:
    """Median over the last axis."""
    return np.median(values, axis=-1)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis (Agarwal et al. 2021).

    A quarter of the runs is cut off at each end, whole runs only: below four runs it is the mean.
    """
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def sd(values: np.ndarray) -> np.ndarray:
    """Sample standard deviation (n - 1) over the last axis, which needs two seeds or more."""
    return np.std(values, axis=-1, ddof=1)


def example_weights(num_examples: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Share of each example in each replicate: multinomial counts over E, (E, R) float32.

    One array serves all seeds and all methods of a task.
    """
    weights = np.empty((num_examples, replicates), np.float32)
    for replicate in range(replicates):
        drawn = rng.integers(num_examples, size=num_examples)
        weights[:, replicate] = np.bincount(drawn, minlength=num_examples)
    weights /= num_examples
    return weights


def seed_draws(num_seeds: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of one method's seeds, drawn with replacement: (R, S)."""
    return rng.integers(num_seeds, size=(replicates, num_seeds))


def resampled(runs: np.ndarray, draws: np.ndarray | None, weights: np.ndarray | None) -> np.ndarray:
    """Values of the drawn seeds on each replicate's examples: (R, S).

    Arguments:
        runs: scores (S, E), or values (S,), which are taken as they are.
        draws: (R, S) of `seed_draws`, or None to keep every seed as it is.
        weights: (E, R) of `example_weights`, or None to keep every example as it is. Must be None for values.

    Raises ValueError where there is nothing to resample, or weights come with values.
    """
    if draws is None and weights is None:
        raise ValueError("draws or weights must be given")
    if weights is not None and runs.ndim == 1:
        raise ValueError("values of seeds have no examples to resample: weights must be None")
    if weights is None:
        return seed_values(runs)[draws]
    # Centred, so that float32 costs no digits where the spread is small beside the mean.
    centre = runs.mean()
    values = (runs - centre).astype(np.float32) @ weights
    replicates = values.T.astype(np.float64) + centre
    return replicates if draws is None else np.take_along_axis(replicates, draws, axis=1)


def statistic_interval(
    statistic: Statistic,
    runs: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray | None,
    level: float = LEVEL,
) -> Interval:
    """A statistic of the seeds' values, with a t interval whose variances are the crossed bootstrap's.

    The seeds' part is the variance over replicates of the seeds alone, times S / (S - 1). The examples' part is that of
    the examples alone, less the interaction, which the seeds' part holds too: the variance of both, less those of
    either alone, times S / (S - 1). (The variance of both counts the interaction three times, Owen 2007: intervals from
    it as it is held the truth in 0.98 to 1.00 of simulations meant for 0.95, and these in 0.94 to 0.975.) Parts below 0
    are set to 0. Where the statistic is the mean, it has the mean's interval.

    Arguments:
        statistic: reduces the last axis, such as `median`.
        draws: (R, S).
        weights: (E, R); unused for values.
    """
    num_seeds = len(runs)
    if _is_mean(statistic, num_seeds):
        return mean_interval(runs, level)
    value = float(statistic(seed_values(runs)))
    if num_seeds < 2:
        return Interval(value, None, None, ONE_SEED)
    seeds = variance(statistic(resampled(runs, draws, None)))
    unbiased = num_seeds / (num_seeds - 1)
    components = [(seeds * unbiased, num_seeds - 1)]
    if runs.ndim == 1 or weights is None:
        return combine(value, components, level, f"t with bootstrap variance, {num_seeds} seeds")
    examples = variance(statistic(resampled(runs, None, weights)))
    both = variance(statistic(resampled(runs, draws, weights)))
    interaction = max(0.0, both - seeds - examples) * unbiased
    components.append((remaining(examples, interaction), runs.shape[1] - 1))
    return combine(value, components, level, "t with bootstrap variance, seeds and examples")


def _is_mean(statistic: Statistic, num_seeds: int) -> bool:
    """Whether the statistic of so many seeds is their mean, which has a closed form."""
    return statistic is mean or (statistic is median and num_seeds < 3) or (statistic is iqm and num_seeds < 4)


class Band(NamedTuple):
    """A performance profile with its pointwise band; each (T,)."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def profile(
    runs: np.ndarray,
    thresholds: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray | None,
    level: float = LEVEL,
) -> Band:
    """Share of runs whose value is above each threshold (Agarwal et al. 2021, "Deep RL at the edge of the statistical
    precipice"), with a pointwise percentile band from the replicates.

    Percentile bands over few seeds are too short: at three seeds, 0.95 bands hold a share of 0.5 in 0.75 of samples.
    With one seed and no scores the band has no width. A value on a threshold is not above it.

    Arguments:
        runs: scores (S, E) or values (S,).
        thresholds: (T,).
        draws: (R, S).
        weights: (E, R), or None.
    """
    # Above by more than rounding: replicates have single precision, and accuracies often lie on thresholds.
    bounds = np.asarray(thresholds) + 1e-6 * np.ptp(runs)
    replicates = resampled(runs, draws, weights)
    shares = np.stack([(replicates > bound).mean(axis=1) for bound in bounds], axis=1)
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band((seed_values(runs)[:, None] > bounds).mean(axis=0), low, high)
