"""Spread over seeds as claims: whether a method's runs lie closer together than a reference's, or as close."""

import numpy as np

from raymdm.comparison.claims import optional, supported
from raymdm.comparison.document import EquivalenceFinding, Spread, SpreadFinding
from raymdm.comparison.metrics import p_value
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Asked, Pair, pairs, samples
from raymdm.comparison.stats import permutation, spread
from raymdm.comparison.stats.intervals import variance
from raymdm.comparison.stats.means import holm
from raymdm.comparison.tested import ALPHA


def spreads(runs: Runs, asked: Asked, level: float, margin: float) -> list[Spread]:
    """Of the report's metric; differences of spread are one family for Holm's correction, equivalences another."""
    metric = runs.metric.key
    made = [
        _spread(runs, task, pair, ours.values, theirs.values, level, margin)
        for task in runs.tasks
        for pair in pairs(runs, asked)
        for ours, theirs in samples(runs, task, pair, metric)
    ]
    return _decide(made)


def _spread(
    runs: Runs, task: str, pair: Pair, ours: np.ndarray, theirs: np.ndarray, level: float, margin: float
) -> Spread:
    reason = _untested(pair, ours, theirs)
    tested = None if reason else permutation.spread_test(ours, theirs)
    brown_forsythe = None if reason else spread.brown_forsythe(ours, theirs)
    return Spread(
        task=task,
        label=pair.label,
        reference=pair.reference,
        role=pair.role,
        metric=runs.metric.key,
        seeds=(len(ours), len(theirs)),
        ratio=optional(spread.ratio(ours, theirs, level)),
        # long tails make the first reject too often, few seeds the second too seldom: a finding needs both
        p=max(tested.p, 1.0 if brown_forsythe is None else brown_forsythe) if tested else None,
        p_permutation=tested.p if tested else None,
        exact=bool(tested and tested.exact),
        p_brown_forsythe=brown_forsythe,
        p_holm=None,
        claims=0,
        smallest_p=tested.smallest if tested else None,
        finding="not tested",
        margin=margin,
        p_equivalence=None if reason else spread.equivalence(ours, theirs, margin, ALPHA).p,
        p_equivalence_holm=None,
        equivalence="not tested",
        equivalence_seeds=None,
        why=reason,
    )


def _untested(pair: Pair, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Why spreads cannot be compared; empty where they can."""
    for label, values in ((pair.label, ours), (pair.reference, theirs)):
        if len(values) < 2:
            return f"a spread needs two seeds or more, {label} has one"
        if variance(values) == 0:
            return f"the seeds of {label} do not differ"
    return ""


def _decide(made: list[Spread]) -> list[Spread]:
    """Holm over each family, and what each claim then is."""
    family = [found for found in made if found.p is not None]
    p = [found.p for found in family if found.p is not None]
    p_equivalence = [1.0 if found.p_equivalence is None else found.p_equivalence for found in family]
    adjusted, equivalences = holm(p), holm(p_equivalence)
    decided = []
    for found in made:
        place = next((place for place, claim in enumerate(family) if claim is found), None)
        if place is None:
            decided.append(found.model_copy(update={"claims": len(family)}))
            continue
        alpha = ALPHA / len(family)
        seeds = spread.equivalence_seeds(found.margin, alpha)
        finding = _finding(
            found, adjusted[place], found.smallest_p is not None and supported(p, place, found.smallest_p)
        )
        possible = supported(p_equivalence, place, spread.smallest_equivalence_p(*found.seeds, found.margin))
        changes = {
            "p_holm": adjusted[place],
            "claims": len(family),
            "finding": finding,
            "p_equivalence_holm": equivalences[place],
            "equivalence": _equivalence(equivalences[place], possible),
            "equivalence_seeds": seeds,
            "why": _why(found, adjusted[place], equivalences[place], seeds, len(family)),
        }
        decided.append(found.model_copy(update=changes))
    return decided


def _finding(found: Spread, p_holm: float, is_supported: bool) -> SpreadFinding:
    if p_holm <= ALPHA and found.ratio is not None:
        return "smaller" if found.ratio.value < 1 else "larger"
    return "not distinguishable" if is_supported else "not supported by this many seeds"


def _equivalence(p_holm: float, possible: bool) -> EquivalenceFinding:
    if p_holm <= ALPHA:
        return "equivalent"
    return "not shown equivalent" if possible else "not supported by this many seeds"


def _why(found: Spread, p_holm: float, p_equivalence: float, seeds: int, claims: int) -> str:
    assert found.p is not None and found.p_equivalence is not None
    tests = ((found.p, p_holm), (found.p_equivalence, p_equivalence))
    after = f" after Holm over {claims} claims"
    differ, same = (p_value(p) + (f", {p_value(adjusted)}{after}" if claims > 1 else "") for p, adjusted in tests)
    return (
        f"difference of spread: p {differ}; equivalence within a factor of {found.margin:g}: p {same}, which takes "
        f"{seeds} seeds of each or more"
    )
