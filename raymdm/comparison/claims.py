"""Differences as claims: which are made, their tests, Holm's correction, and what the seeds could have shown.

A claim is the difference of a method to the baseline or to an ARM, in one metric, on one task. All claims of a metric
are one family.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from raymdm.comparison.document import Difference, Estimate, Finding, Power
from raymdm.comparison.metrics import p_value
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Asked, Pair, Sample, pairs, runs_of, samples
from raymdm.comparison.stats import effects, intervals, power
from raymdm.comparison.stats.means import holm
from raymdm.comparison.tested import ALPHA, over_looks, single_run

LOSSES = ("val_nll", "val_nll_equal_rows", "loss_variance", "backprop_variance")
"""Metrics of the loss, which mean something else with masks than without."""


def differences(runs: Runs, asked: Asked, level: float) -> list[Difference]:
    """All differences of the report's metric, then of the other metrics that have a better end."""
    names = [runs.metric.key, *(name for name in LOSSES if name != runs.metric.key)]
    found: list[Difference] = []
    for metric in names:
        compared = [
            (task, pair, ours, theirs)
            for task in runs.tasks
            for pair in pairs(runs, asked)
            if (metric not in LOSSES or runs.families[pair.label] == runs.families[pair.reference])
            for ours, theirs in samples(runs, task, pair, metric)
        ]
        made = [_difference(runs, metric, level, len(compared), *one) for one in compared]
        found += _decide(made, runs.looks[-1].alpha if runs.looks else ALPHA)
    return found


def _difference(
    runs: Runs, metric: str, level: float, claims: int, task: str, pair: Pair, ours: Sample, theirs: Sample
) -> Difference:
    """A difference with its tests; what depends on the whole family is filled in by `_decide`."""
    higher = bool(runs.metrics[metric].higher_is_better)
    tested = over_looks(runs, pair, ours, theirs, claims)
    welch = intervals.welch(ours.values, theirs.values, level)
    single = single_run(runs, pair, theirs)
    few = min(len(ours.values), len(theirs.values)) < 2
    partial = ours.left_out or theirs.left_out
    # a reference that repeats one run is one run: its copies must not count as so many
    reference = theirs.values[:1] if single else theirs.values
    return Difference(
        task=task,
        label=pair.label,
        reference=pair.reference,
        role=pair.role,
        metric=metric,
        seeds=(len(ours.values), len(reference)),
        common=ours.seeds if partial else [],
        difference=estimate(intervals.difference_interval(*runs_of(ours, theirs), level)),
        welch=None if few or single else estimate(welch.interval),
        effect_size=None if single else optional(effects.hedges_g(ours.values, theirs.values, level)),
        p=tested.p,
        p_permutation=tested.p_permutation,
        exact=tested.exact,
        p_welch=None if single else welch.p,
        p_crossed=tested.p_crossed,
        p_examples=_paired(ours.scores, theirs.scores),
        p_holm=None,
        claims=0,
        improvement=estimate(effects.improvement(ours.values, reference, level, higher_is_better=higher)),
        gap=effects.gap(ours.values, theirs.values, higher_is_better=higher),
        gap_back=effects.gap(theirs.values, ours.values, higher_is_better=higher),
        higher_is_better=higher,
        finding="not tested",
        why=tested.reason,
        power=None if tested.smallest is None else _power(ours.values, theirs.values, tested.smallest),
    )


def estimate(found: intervals.Interval) -> Estimate:
    return Estimate(value=found.value, low=found.low, high=found.high, how=found.how)


def optional(found: intervals.Interval | None) -> Estimate | None:
    return None if found is None else estimate(found)


def _paired(ours: np.ndarray | None, theirs: np.ndarray | None) -> float | None:
    """Paired t over examples of the means over seeds; None without scores, or where no example's difference varies."""
    if ours is None or theirs is None:
        return None
    difference = ours.mean(0) - theirs.mean(0)
    if len(difference) < 2 or np.ptp(difference) < 1e-12:
        return None
    return float(stats.ttest_1samp(difference, 0).pvalue)


def _power(ours: np.ndarray, theirs: np.ndarray, smallest: float) -> Power:
    """`alpha`, and all that depends on it, is filled in by `_decide`."""
    sds = float(np.std(ours, ddof=1)), float(np.std(theirs, ddof=1))
    return Power(smallest_p=smallest, sds=sds, detectable=None, seeds_needed=None, target=power.POWER, alpha=ALPHA)


def supported(p: Sequence[float], place: int, smallest: float) -> bool:
    """Whether the claim at `place` would have been a finding with the smallest p its seeds can reach."""
    best = [*p]
    best[place] = min(smallest, best[place])
    return holm(best)[place] <= ALPHA


def _decide(made: list[Difference], alpha: float) -> list[Difference]:
    """Holm over the family, and what each claim then is; `alpha` of the last look, for power."""
    family = [difference for difference in made if difference.p is not None]
    p = [difference.p for difference in family if difference.p is not None]
    adjusted = dict(zip(map(id, family), holm(p), strict=True))
    decided = []
    for difference in made:
        if id(difference) not in adjusted or difference.power is None:
            decided.append(difference.model_copy(update={"claims": len(family)}))
            continue
        place, p_holm = [id(claim) for claim in family].index(id(difference)), adjusted[id(difference)]
        finding = _finding(difference, p_holm, supported(p, place, difference.power.smallest_p))
        changes = {
            "p_holm": p_holm,
            "claims": len(family),
            "finding": finding,
            "why": _why(difference, p_holm, len(family), finding),
            "power": _with_alpha(difference, difference.power, alpha / len(family)),
        }
        decided.append(difference.model_copy(update=changes))
    return decided


def _finding(difference: Difference, p_holm: float, is_supported: bool) -> Finding:
    if p_holm <= ALPHA:
        return "better" if (difference.difference.value > 0) == difference.higher_is_better else "worse"
    return "not distinguishable" if is_supported else "not supported by this many seeds"


def _with_alpha(difference: Difference, found: Power, alpha: float) -> Power:
    """Against a reference that is a single run nothing is said of other numbers of seeds."""
    if min(difference.seeds) < 2:
        return found.model_copy(update={"alpha": alpha})
    changes = {
        "alpha": alpha,
        "detectable": power.detectable(*found.sds, *difference.seeds, alpha),
        "seeds_needed": power.seeds_needed(difference.difference.value, *found.sds, alpha),
    }
    return found.model_copy(update=changes)


def _why(difference: Difference, p_holm: float, claims: int, finding: Finding) -> str:
    assert difference.p is not None and difference.power is not None
    family = f", {p_value(p_holm)} after Holm over {claims} claims" if claims > 1 else ""
    unsupported = finding == "not supported by this many seeds"
    smallest = f"; so many seeds reach {p_value(difference.power.smallest_p)} at best" if unsupported else ""
    on = _on_common(difference.common) if difference.common else ""
    ours, theirs = difference.seeds
    against = (
        f"{ours} against {theirs} seeds"
        if theirs > 1
        else f"{ours} seeds against the one run that {difference.reference} repeats"
    )
    return f"{against}{on}: p {p_value(difference.p)}{family}{smallest}"


def _on_common(seeds: Sequence[int]) -> str:
    """Not the difference of the means that the methods have over all their seeds."""
    return f", on {len(seeds)} seeds, those that both have"
