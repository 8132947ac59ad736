"""Sizes of a difference between two methods over seeds.

Shape legend: n and m seeds of the two methods.
"""

import numpy as np
from scipy import optimize, special, stats

from raymdm.comparison.stats.intervals import LEVEL, Interval, variance

FAR = 1_000.0
"""t statistics beyond which scipy's noncentral t is slow, then NaN."""


def hedges_g(ours: np.ndarray, theirs: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Hedges' g: mean of ours (n,) less mean of theirs (m,) in pooled standard deviations, corrected for few seeds.

    The correction is the exact one, Γ(f/2) / (√(f/2) Γ((f - 1)/2)) at f = n + m - 2 (Hedges 1981). The interval
    inverts the noncentral t distribution of the t statistic (Steiger & Fouladi 1997), and is corrected likewise; it
    holds for normal runs of equal variance. None below two seeds of either, or where neither method's seeds differ.
    """
    counts = (len(ours), len(theirs))
    if min(counts) < 2 or variance(ours) == variance(theirs) == 0:
        return None
    freedom = sum(counts) - 2
    squares = np.sum((ours - ours.mean()) ** 2) + np.sum((theirs - theirs.mean()) ** 2)
    standardised = float((ours.mean() - theirs.mean()) / np.sqrt(squares / freedom))
    scale = np.sqrt(counts[0] * counts[1] / sum(counts))
    correction = np.exp(special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2)
    low, high = (
        float(correction * noncentrality(standardised * scale, freedom, share) / scale)
        for share in ((1 + level) / 2, (1 - level) / 2)
    )
    return Interval(float(correction * standardised), low, high, "noncentral t, if runs are normal and as variable")


def noncentrality(observed: float, freedom: int, share: float) -> float:
    """Noncentrality of the t distribution whose cumulative probability at `observed` is `share`."""
    # P((Z + nc) / V <= t) without Z, which is little beside a large nc; V² is chi-squared over its degrees of freedom.
    tail = 1 - share if observed > 0 else share
    start = float(observed * np.sqrt(stats.chi2.ppf(tail, freedom) / freedom))
    if abs(observed) > FAR:
        return start

    def excess(noncentral: float) -> float:
        return float(stats.nct.cdf(observed, freedom, noncentral)) - share

    # Close to the answer, because far from it scipy's distribution may be NaN.
    reach = 1.0
    while excess(start - reach) < 0 or excess(start + reach) > 0:
        reach *= 2
    return float(optimize.brentq(excess, start - reach, start + reach))


def improvement(
    ours: np.ndarray, theirs: np.ndarray, level: float = LEVEL, *, higher_is_better: bool = True
) -> Interval:
    """Probability that a run of ours (n,) beats one of theirs (m,), ties as half: U / (n m) of Mann & Whitney.

    The interval is Newcombe's score interval (2006, part 2, method 5), which has a width even at 0 and 1.
    """
    better, worse = (ours, theirs) if higher_is_better else (theirs, ours)
    pairs = len(ours) * len(theirs)
    value = float(stats.mannwhitneyu(better, worse, method="asymptotic").statistic) / pairs
    quantile = float(stats.norm.ppf((1 + level) / 2))
    extra = (len(ours) + len(theirs)) / 2 - 1

    def excess(share: float) -> float:
        variance = share * (1 - share) * (1 + extra * ((1 - share) / (2 - share) + share / (1 + share))) / pairs
        return abs(value - share) - quantile * np.sqrt(variance)

    low = 0.0 if value == 0 else float(optimize.brentq(excess, 0, value - 1e-12))
    high = 1.0 if value == 1 else float(optimize.brentq(excess, value + 1e-12, 1))
    return Interval(value, low, high, f"score, {len(ours)} and {len(theirs)} seeds")


def gap(ours: np.ndarray, theirs: np.ndarray, *, higher_is_better: bool) -> float:
    """Worst of ours (n,) against best of theirs (m,); positive where all of ours are better than all of theirs."""
    if higher_is_better:
        return float(np.min(ours) - np.max(theirs))
    return float(np.min(theirs) - np.max(ours))
