"""Differences as claims: which are made, their tests, Holm's correction, and what the seeds could have shown.

A claim is the difference of a method to the baseline or to an ARM, in one metric, on one task. All claims of a metric
are one family.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from raymdm.comparison.document import Difference, Estimate, Finding, Power, Role
from raymdm.comparison.metrics import p_value
from raymdm.comparison.runs import Runs
from raymdm.comparison.stats import effects, intervals, power
from raymdm.comparison.stats.means import difference_test, holm
from raymdm.comparison.stats.sequential import sequential_p

ALPHA = 0.05
"""Level of the tests, of a whole family."""

LOSSES = ("val_nll", "val_nll_equal_rows", "loss_variance", "backprop_variance")
"""Metrics of the loss, which mean something else with masks than without."""

Asked = Sequence[tuple[str, ...]]
"""Pairs of labels that somebody wants compared, in either order."""


class Pair(NamedTuple):
    """A method, what it is compared to, and why."""

    label: str
    reference: str
    role: Role


class Sample(NamedTuple):
    """One side of a comparison."""

    seeds: list[int]
    values: np.ndarray
    """(S,)."""
    scores: np.ndarray | None
    """(S, E), of the same seeds; None where they are not known or the metric is not their mean."""


class Tested(NamedTuple):
    """The test of a claim over seeds, over all looks of an adaptive sweep."""

    p: float | None
    p_permutation: float | None
    exact: bool
    smallest: float | None
    """The smallest p that so many seeds could have given."""
    reason: str
    """Why there is none; empty where there is."""


def pairs(runs: Runs, asked: Asked = ()) -> list[Pair]:
    """Every method to the baseline and to each ARM, then what was asked for besides."""
    if runs.baseline is None:
        return []
    found = [
        Pair(label, runs.baseline, "baseline")
        for label in runs.labels
        if label != runs.baseline and (runs.families[label] == "mdm" or runs.families[runs.baseline] == "arm")
    ]
    found += [
        Pair(label, arm, "arm")
        for arm in runs.arms
        for label in runs.labels
        if runs.families[label] == "mdm" and arm != runs.baseline
    ]
    known = {frozenset(pair[:2]) for pair in found}
    for two in asked:
        if len(two) == 2 and set(two) <= {*runs.labels} and frozenset(two) not in known:
            known.add(frozenset(two))
            found.append(Pair(two[0], two[1], "asked"))
    return found


def differences(runs: Runs, asked: Asked, level: float) -> list[Difference]:
    """All differences of the report's metric, then of the other metrics that have a better end."""
    names = [runs.metric.key, *(name for name in LOSSES if name != runs.metric.key)]
    found: list[Difference] = []
    for metric in names:
        made = [
            _difference(runs, task, pair, metric, ours, theirs, level)
            for task in runs.tasks
            for pair in pairs(runs, asked)
            if (metric not in LOSSES or runs.families[pair.label] == runs.families[pair.reference])
            for ours, theirs in samples(runs, task, pair, metric)
        ]
        found += _decide(made)
    return found


def samples(runs: Runs, task: str, pair: Pair, metric: str) -> Iterator[tuple[Sample, Sample]]:
    """The two sides, on the seeds that both have; nothing where a side has no run or one that is not finite.

    Seeds that were chosen apart (no seed in common), or added as needed, are all used.
    """
    ours, theirs = runs.values(task, pair.label, metric), runs.values(task, pair.reference, metric)
    if not ours or not theirs or not np.isfinite([*ours.values(), *theirs.values()]).all():
        return
    if (len(ours), len(theirs)) != (runs.num_runs(task, pair.label), runs.num_runs(task, pair.reference)):
        return  # a mean without the run that did not report the metric would flatter its method
    common = [] if runs.looks else [seed for seed in ours if seed in theirs]
    sides = [
        _sample(runs, task, label, metric, {seed: values[seed] for seed in common or values})
        for label, values in ((pair.label, ours), (pair.reference, theirs))
    ]
    yield sides[0], sides[1]


def _sample(runs: Runs, task: str, label: str, metric: str, values: dict[int, float]) -> Sample:
    seeds = list(values)
    scores = runs.scores.get((task, label)) if metric == "accuracy" else None
    if scores is None:
        return Sample(seeds, np.array(list(values.values())), None)
    chosen = scores.values[[scores.seeds.index(seed) for seed in seeds]]
    return Sample(seeds, np.array(list(values.values())), chosen)


def over_looks(runs: Runs, pair: Pair, ours: Sample, theirs: Sample) -> Tested:
    """The test of the means; in an adaptive sweep at every look, each with its share of alpha."""
    sides = ((pair.label, ours.values), (pair.reference, theirs.values))
    few = [label for label, values in sides if len(values) < 2]
    if few:
        return Tested(None, None, False, None, f"a test needs two seeds or more, {few[0]} has one")
    still = [label for label, values in sides if np.ptp(values) == 0]
    if len(still) == 2:
        return Tested(None, None, False, None, "the seeds do not differ within either method")
    if still and runs.families[still[0]] == "arm":
        return Tested(None, None, False, None, f"the seeds of {still[0]} repeat one run, and so count as one")
    if not runs.looks:
        found = difference_test(ours.values, theirs.values)
        assert found is not None
        return Tested(found.p, found.p_permutation, found.exact, found.smallest, "")
    return _sequential(runs, pair, ours.values, theirs.values)


def _sequential(runs: Runs, pair: Pair, ours: np.ndarray, theirs: np.ndarray) -> Tested:
    """A look at which a side had fewer than two seeds decides nothing: its p is 1."""
    at_looks = [
        difference_test(ours[: look.runs.get(pair.label, 0)], theirs[: look.runs.get(pair.reference, 0)])
        for look in runs.looks
    ]
    alphas = [look.alpha for look in runs.looks]

    def over_all(p: list[float]) -> float:
        return sequential_p(p, alphas, ALPHA)

    return Tested(
        over_all([found.p if found else 1.0 for found in at_looks]),
        over_all([found.p_permutation if found else 1.0 for found in at_looks]),
        all(found.exact for found in at_looks if found),
        over_all([found.smallest if found else 1.0 for found in at_looks]),
        "",
    )


def _difference(
    runs: Runs, task: str, pair: Pair, metric: str, ours: Sample, theirs: Sample, level: float
) -> Difference:
    """A difference with its tests; what depends on the whole family is filled in by `_decide`."""
    higher = bool(runs.metrics[metric].higher_is_better)
    crossed = ours.scores is not None and theirs.scores is not None
    found = intervals.difference_interval(
        ours.scores if crossed and ours.scores is not None else ours.values,
        theirs.scores if crossed and theirs.scores is not None else theirs.values,
        level,
    )
    welch, tested = intervals.welch(ours.values, theirs.values, level), over_looks(runs, pair, ours, theirs)
    few = min(len(ours.values), len(theirs.values)) < 2
    return Difference(
        task=task,
        label=pair.label,
        reference=pair.reference,
        role=pair.role,
        metric=metric,
        seeds=(len(ours.values), len(theirs.values)),
        difference=estimate(found),
        welch=None if few else estimate(welch.interval),
        effect_size=optional(effects.hedges_g(ours.values, theirs.values, level)),
        p=tested.p,
        p_permutation=tested.p_permutation,
        exact=tested.exact,
        p_welch=welch.p,
        p_examples=_paired(ours.scores, theirs.scores),
        p_holm=None,
        claims=0,
        improvement=estimate(effects.improvement(ours.values, theirs.values, level, higher_is_better=higher)),
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


def _decide(made: list[Difference]) -> list[Difference]:
    """Holm over the family, and what each claim then is."""
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
            "power": _with_alpha(difference, difference.power, ALPHA / len(family)),
        }
        decided.append(difference.model_copy(update=changes))
    return decided


def _finding(difference: Difference, p_holm: float, is_supported: bool) -> Finding:
    if p_holm <= ALPHA:
        return "better" if (difference.difference.value > 0) == difference.higher_is_better else "worse"
    return "not distinguishable" if is_supported else "not supported by this many seeds"


def _with_alpha(difference: Difference, found: Power, alpha: float) -> Power:
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
    return f"{difference.seeds[0]} against {difference.seeds[1]} seeds: p {p_value(difference.p)}{family}{smallest}"
