"""Spread over seeds as claims."""

import numpy as np
import pytest
from made_runs import made
from scipy import stats

from raymdm.comparison.document import Spread
from raymdm.comparison.runs import Runs
from raymdm.comparison.spreads import spreads
from raymdm.comparison.stats.permutation import spread_test

EVEN = np.linspace(-1.0, 1.0, 12)


def found(runs: Runs, margin: float = 1.5) -> dict[tuple[str, str], Spread]:
    return {(s.label, s.reference): s for s in spreads(runs, (), 0.95, margin)}


def test_a_finding_needs_the_permutation_test_and_brown_forsythe() -> None:
    ours, theirs = 0.5 + 0.01 * EVEN, 0.5 + 0.05 * EVEN
    claim = found(made({"standard": theirs, "mirror": ours}))["mirror", "standard"]
    permutation = spread_test(ours, theirs)
    assert permutation and claim.p == max(permutation.p, stats.levene(ours, theirs, center="median").pvalue)
    assert (claim.finding, claim.ratio and claim.ratio.value) == ("smaller", pytest.approx(0.2))


def test_a_wider_spread_is_larger() -> None:
    runs = made({"standard": 0.5 + 0.01 * EVEN, "mirror": 0.5 + 0.05 * EVEN})
    assert found(runs)["mirror", "standard"].finding == "larger"


def test_no_difference_is_not_equivalence() -> None:
    claim = found(made({"standard": 0.5 + 0.01 * EVEN, "mirror": 0.6 + 0.01 * EVEN}))["mirror", "standard"]
    assert claim.finding == "not distinguishable"
    # 19 seeds of each would be the fewest at a factor of 1.5
    assert (claim.equivalence, claim.equivalence_seeds) == ("not supported by this many seeds", 19)


def test_equivalence_to_an_arm_within_a_stated_margin() -> None:
    runs = made({"standard": 0.5 + 0.01 * EVEN, "arm": 0.6 + 0.01 * EVEN})
    assert found(runs, margin=2.5)["standard", "arm"].equivalence == "equivalent"


def test_unequal_spread_is_not_shown_equivalent_though_the_seeds_would_do() -> None:
    runs = made({"standard": 0.5 + 0.01 * EVEN, "arm": 0.6 + 0.02 * EVEN})
    assert found(runs, margin=2.5)["standard", "arm"].equivalence == "not shown equivalent"


def test_claims_of_spread_are_a_family() -> None:
    runs = made({"standard": 0.5 + 0.05 * EVEN, "mirror": 0.5 + 0.01 * EVEN, "ema": 0.5 + 0.05 * EVEN})
    claim = found(runs)["mirror", "standard"]
    assert claim.claims == 2
    assert claim.p is not None and claim.p_holm == pytest.approx(2 * claim.p)


@pytest.mark.parametrize(
    ("values", "why"),
    [([0.5], "a spread needs two seeds or more, mirror has one"), ([0.5] * 3, "the seeds of mirror do not differ")],
)
def test_without_spread_there_is_no_test(values: list[float], why: str) -> None:
    claim = found(made({"standard": [0.5, 0.6, 0.7], "mirror": values}))["mirror", "standard"]
    assert (claim.finding, claim.equivalence, claim.p) == ("not tested", "not tested", None)
    assert claim.why == (why if len(values) > 1 else "a spread needs two seeds or more, mirror has one")


def test_three_seeds_support_no_claim_of_spread() -> None:
    claim = found(made({"standard": [0.3, 0.5, 0.7], "mirror": [0.499, 0.5, 0.501]}))["mirror", "standard"]
    assert claim.finding == "not supported by this many seeds"
