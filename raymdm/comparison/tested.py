"""The test of a claim about two means, over all looks of an adaptive sweep."""

from math import ceil
from typing import NamedTuple

import numpy as np

from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Pair, Sample, runs_of
from raymdm.comparison.stats.means import MeanTest, difference_test, single_run_test
from raymdm.comparison.stats.permutation import RANDOM_SPLITS
from raymdm.comparison.stats.sequential import sequential_p

ALPHA = 0.05
"""Level of the tests, of a whole family."""


class Tested(NamedTuple):
    """What a claim's test said."""

    p: float | None
    p_permutation: float | None
    p_crossed: float | None
    exact: bool
    smallest: float | None
    """The smallest p that so many seeds could have given."""
    reason: str
    """Why there is none; empty where there is."""


def over_looks(runs: Runs, pair: Pair, ours: Sample, theirs: Sample, claims: int) -> Tested:
    """The test of the means; in an adaptive sweep at every look, each with its share of alpha.

    Arguments:
        claims: size of the family, for which random splits must be many enough.
    """
    reason = _untested(runs, pair, ours, theirs)
    if reason:
        return Tested(None, None, None, False, None, reason)
    splits = max(RANDOM_SPLITS, ceil(4 * claims / ALPHA))
    if not runs.adaptive:
        found = _test(ours, theirs, splits, single_run(runs, pair, theirs))
        assert found is not None
        return Tested(found.p, found.p_permutation, found.p_crossed, found.exact, found.smallest, "")
    return _sequential(runs, pair, ours, theirs, 10 * splits)


def _untested(runs: Runs, pair: Pair, ours: Sample, theirs: Sample) -> str:
    """Why there can be no test; empty where there can."""
    sides = ((pair.label, ours), (pair.reference, theirs))
    few = [label for label, side in sides if len(side.values) < 2]
    if few:
        return f"a test needs two seeds or more, {few[0]} has one"
    if ours.repeats and theirs.repeats:
        return "the seeds do not differ within either method"
    if ours.repeats and runs.families[pair.label] == "arm":
        return f"the seeds of {pair.label} repeat one run, and so count as one"
    if runs.adaptive and not runs.looks:
        return "the sweep has not looked at its results yet"
    return ""


def single_run(runs: Runs, pair: Pair, theirs: Sample) -> bool:
    """Whether the reference is an ARM whose seeds repeat one run: a fixed number then, not a sample of several."""
    return theirs.repeats and runs.families[pair.reference] == "arm"


def _test(ours: Sample, theirs: Sample, splits: int, single: bool = False) -> MeanTest | None:
    return (single_run_test if single else difference_test)(*runs_of(ours, theirs), splits)


def _sequential(runs: Runs, pair: Pair, ours: Sample, theirs: Sample, splits: int) -> Tested:
    """A look decides nothing, with p = 1, where a side had fewer than two seeds, or where its difference pointed the
    other way than the one that is reported in the end.
    """
    sign = np.sign(ours.values.mean() - theirs.values.mean())
    single = single_run(runs, pair, theirs)
    found: list[MeanTest | None] = []
    for look in runs.looks:
        x, y = ours.at(look.seeds.get(pair.label, [])), theirs.at(look.seeds.get(pair.reference, []))
        same = len(x.values) and len(y.values) and np.sign(x.values.mean() - y.values.mean()) == sign
        found.append(_test(x, y, splits, single) if same else None)
    alphas = [look.alpha for look in runs.looks]

    def over_all(p: list[float]) -> float:
        return sequential_p(p, alphas, ALPHA)

    return Tested(
        over_all([test.p if test else 1.0 for test in found]),
        over_all([test.p_permutation if test else 1.0 for test in found]),
        None if not found or found[-1] is None else found[-1].p_crossed,
        all(test.exact for test in found if test),
        over_all([test.smallest if test else 1.0 for test in found]),
        "",
    )
