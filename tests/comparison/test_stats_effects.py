"""Effect sizes against statsmodels, scipy, tables and hand numbers."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import effectsize_smd

from raymdm.comparison.stats.effects import gap, hedges_g, improvement, noncentrality

OURS, THEIRS = np.array([60.0, 64.0, 68.0]), np.array([58.0, 60.0, 62.0])


def test_hedges_g_by_hand() -> None:
    # pooled variance (16 + 4)/2 = 10; d = 4/√10; f = 4: Γ(2) / (√2 Γ(3/2)) = 1 / (√2 √π/2) = 0.797885
    found = hedges_g(OURS, THEIRS)
    assert found is not None and found.value == pytest.approx(0.797885 * 4 / np.sqrt(10), rel=1e-5)


@pytest.mark.parametrize(("counts", "tolerance"), [((3, 4), 0.01), ((10, 7), 1e-3), ((60, 50), 1e-4)])
def test_hedges_g_is_statsmodels_but_for_its_approximate_correction(counts: tuple[int, int], tolerance: float) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, counts[0]), rng.normal(0, 2, counts[1])
    samples = [(sample.mean(), sample.std(ddof=1), len(sample)) for sample in (ours, theirs)]
    found = hedges_g(ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(effectsize_smd(*samples[0], *samples[1])[0], rel=tolerance)


def test_hedges_g_excludes_0_where_students_t_does() -> None:
    # At level 1 - p of the equal-variance t test, the interval ends at 0.
    p = stats.ttest_ind(OURS, THEIRS).pvalue
    found = hedges_g(OURS, THEIRS, level=1 - p)
    assert found is not None and found.low == pytest.approx(0, abs=1e-6)


def test_hedges_g_changes_sign_with_its_order() -> None:
    one, other = hedges_g(OURS, THEIRS), hedges_g(THEIRS, OURS)
    assert one is not None and other is not None and one.low is not None and one.high is not None
    assert other[:3] == pytest.approx((-one.value, -one.high, -one.low))


def test_hedges_g_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    holds = []
    for _ in range(300):
        found = hedges_g(rng.normal(1.5, 1, 3), rng.normal(0, 1, 4))
        assert found is not None and found.low is not None and found.high is not None
        # the corrected interval holds the corrected effect; f = 5: Γ(5/2) / (√(5/2) Γ(2)) = 0.840749
        holds.append(found.low <= 0.840749 * 1.5 <= found.high)
    assert 0.92 <= np.mean(holds) <= 0.98


@pytest.mark.parametrize(("ours", "theirs"), [(OURS[:1], THEIRS), (OURS, THEIRS[:1])])
def test_hedges_g_needs_two_seeds_of_each(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert hedges_g(ours, theirs) is None


def test_hedges_g_of_constant_methods_is_unknown() -> None:
    # 0.1 + 0.2 is not 0.3, but no spread either
    assert hedges_g(np.full(3, 0.1), np.array([0.3, 0.3, 0.1 + 0.2])) is None


@pytest.mark.parametrize("observed", [-40.0, -2.0, 0.0, 3.0, 400.0])
@pytest.mark.parametrize("freedom", [2, 4, 18, 198])
@pytest.mark.parametrize("share", [0.9995, 0.975, 0.025, 0.0005])
def test_noncentrality_inverts_scipys_distribution(observed: float, freedom: int, share: float) -> None:
    found = noncentrality(observed, freedom, share)
    assert stats.nct.cdf(observed, freedom, found) == pytest.approx(share, abs=1e-7)


@pytest.mark.parametrize("freedom", [2, 18, 198])
@pytest.mark.parametrize("sign", [-1, 1])
def test_noncentrality_far_out_goes_on_from_near(freedom: int, sign: int) -> None:
    near, far = (noncentrality(sign * t, freedom, 0.975) / t for t in (999.9, 1000.1))
    assert far == pytest.approx(near, rel=1e-4)


def test_improvement_counts_pairs_and_ties_as_half() -> None:
    ours, theirs = np.array([1.0, 3, 5, 5]), np.array([2.0, 5, 0])
    wins = sum(float(x > y) + 0.5 * float(x == y) for x in ours for y in theirs)
    assert improvement(ours, theirs).value == pytest.approx(wins / 12)


def test_improvement_of_a_lower_value() -> None:
    found, turned = improvement(OURS, THEIRS, higher_is_better=False), improvement(-OURS, -THEIRS)
    assert found == turned and found.value == pytest.approx(1 - improvement(OURS, THEIRS).value)


def test_improvements_interval_solves_newcombes_equation() -> None:
    ours, theirs = np.array([1.0, 3, 5, 6]), np.array([2.0, 4, 0])
    found = improvement(ours, theirs, level=0.9)
    for bound in (found.low, found.high):
        assert bound is not None
        # N* = 3.5 - 1 and z(0.95) = 1.644854
        variance = bound * (1 - bound) * (1 + 2.5 * ((1 - bound) / (2 - bound) + bound / (1 + bound))) / 12
        assert abs(found.value - bound) == pytest.approx(1.644854 * np.sqrt(variance), rel=1e-5)
    assert found.low is not None and found.high is not None and 0 < found.low < found.value < found.high < 1


@pytest.mark.parametrize("higher", [True, False])
def test_improvement_of_separate_methods_has_a_width(higher: bool) -> None:
    found = improvement(OURS + 100, THEIRS, higher_is_better=higher)
    assert found.low is not None and found.high is not None
    assert (found.value, found.high if higher else found.low) == ((1, 1) if higher else (0, 0))
    assert 0.3 < found.high - found.low < 0.8


def test_improvement_of_one_seed_each_says_little() -> None:
    found = improvement(np.array([2.0]), np.array([1.0]))
    # N* = 0: (1 - θ)² = z² θ (1 - θ), so θ = 1 / (1 + z²)
    assert found[:3] == pytest.approx((1, 1 / (1 + 1.959964**2), 1), rel=1e-5)


def test_improvement_of_equal_runs_is_a_half() -> None:
    found = improvement(np.full(3, 0.1), np.full(4, 0.1))
    assert found.value == 0.5 and found.low is not None and found.high is not None
    assert found.low + found.high == pytest.approx(1)


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.5), (1.2, stats.norm.cdf(1.2 / np.sqrt(2)))])
def test_improvements_interval_about_holds_the_truth_as_often_as_it_says(shift: float, truth: float) -> None:
    rng = np.random.default_rng(2)
    holds = []
    for _ in range(500):
        found = improvement(rng.normal(shift, 1, 5), rng.normal(0, 1, 5))
        assert found.low is not None and found.high is not None
        holds.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(holds) <= 0.99


@pytest.mark.parametrize(("higher", "expected"), [(True, 60 - 62), (False, 58 - 68)])
def test_gap_is_worst_to_best(higher: bool, expected: float) -> None:
    assert gap(OURS, THEIRS, higher_is_better=higher) == expected
