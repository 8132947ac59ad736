"""What a number of seeds can show: smallest detectable difference, and seeds for a difference.

Power of Welch's t test by the noncentral t distribution (Cohen 1988), for normal runs. The reported test is the exact
permutation test of the same statistic. Its p is a multiple of the smallest one, so the test's level is the largest such
multiple within alpha: with 4 against 4 seeds 0.029, not 0.05.
"""

from math import comb

import numpy as np
from scipy.optimize import brentq
from statsmodels.stats.power import TTestIndPower

from raymdm.comparison.stats.permutation import MOST_SPLITS, RANDOM_SPLITS

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 10_000
"""More than this is too many to say."""


def detectable(
    ours_sd: float, theirs_sd: float, num_ours: int, num_theirs: int, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Smallest difference of means that the two-sided test at level `alpha` finds with probability `power`.

    In the unit of the standard deviations; 0 where both are 0. None where no difference whatever can be found: fewer
    than two seeds of either, or a smallest p of the permutation test above `alpha`: 2 / C(n + m, n), or what its random
    splits reach.
    """
    level = _attainable(num_ours, num_theirs, alpha)
    if level is None:
        return None
    error, free = _welch(ours_sd, theirs_sd, num_ours, num_theirs)
    if error == 0:
        return 0.0
    high = 1.0
    while _power(high, free, level) < power:
        high *= 2
    return float(brentq(lambda distance: _power(distance, free, level) - power, 0, high)) * error


def seeds_needed(
    difference: float, ours_sd: float, theirs_sd: float, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Fewest seeds of each method at which the two-sided test at level `alpha` finds `difference` with `power`.

    Never fewer than the permutation test needs for a p of `alpha`. None for a difference of 0, and where MOST_SEEDS do
    not suffice.
    """
    if difference == 0:
        return None

    def enough(count: int) -> bool:
        level = _attainable(count, count, alpha)
        if level is None:
            return False
        error, free = _welch(ours_sd, theirs_sd, count, count)
        return error == 0 or _power(abs(difference) / error, free, level) >= power

    # The attainable level jumps while splits are few, so that power need not rise with every seed there.
    for count in range(2, 21):
        if enough(count):
            return count
    if not enough(MOST_SEEDS):
        return None
    few, many = 20, MOST_SEEDS
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _attainable(num_ours: int, num_theirs: int, alpha: float) -> float | None:
    """Largest p within `alpha` that the permutation test can reach, or None."""
    if min(num_ours, num_theirs) < 2:
        return None
    splits = comb(num_ours + num_theirs, num_ours)
    if splits > MOST_SPLITS:
        splits = RANDOM_SPLITS + 1
    multiples = int(alpha * splits / 2 * (1 + 1e-12))
    return 2 * multiples / splits if multiples else None


def _welch(ours_sd: float, theirs_sd: float, num_ours: int, num_theirs: int) -> tuple[float, float]:
    """Standard error of the difference of means, and Welch's degrees of freedom."""
    ours, theirs = ours_sd**2 / num_ours, theirs_sd**2 / num_theirs
    if ours + theirs == 0:
        return 0.0, float(num_ours + num_theirs - 2)
    free = (ours + theirs) ** 2 / (ours**2 / (num_ours - 1) + theirs**2 / (num_theirs - 1))
    return float(np.sqrt(ours + theirs)), float(free)


def _power(distance: float, free: float, alpha: float) -> float:
    """Probability that |t| is beyond its critical value where the mean is `distance` standard errors away from 0."""
    # an effect of distance * sqrt(2) with one run of each has that noncentrality, whatever the real counts
    effect = distance * np.sqrt(2)
    above = TTestIndPower().power(effect, 1, alpha / 2, df=free, alternative="larger")
    below = TTestIndPower().power(effect, 1, alpha / 2, df=free, alternative="smaller")
    # where the noncentral t has no digits left it is NaN: far out, above in place of 1, below in place of 0
    return float(np.nan_to_num(above, nan=1.0) + np.nan_to_num(below, nan=0.0))
