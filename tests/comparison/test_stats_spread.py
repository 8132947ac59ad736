import numpy as np
import pytest
from scipy import stats

from raymdm.comparison.stats.spread import (
    brown_forsythe,
    degrees,
    equivalence,
    equivalence_possible,
    equivalence_seeds,
    ratio,
)

OURS = np.array([0.61, 0.64, 0.58, 0.66])
THEIRS = np.array([0.50, 0.62, 0.71, 0.44, 0.55])


def runs_with(sd, count):
    values = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return values * sd / np.std(values, ddof=1)


class TestRatio:
    def test_value_is_that_of_the_standard_deviations(self):
        # deviations -1, 0, 1 and -3, 0, 3: sd 1 and 3
        assert ratio(np.array([4.0, 5.0, 6.0]), np.array([1.0, 4.0, 7.0])).value == pytest.approx(1 / 3)

    def test_interval_from_the_table_of_f(self):
        # 3 against 3 seeds: the 0.975 quantile of F(2, 2) is 39, so the bounds are the ratio over and times sqrt(39)
        found = ratio(np.array([4.0, 5.0, 6.0]), np.array([1.0, 4.0, 7.0]), 0.95)
        assert (found.low, found.high) == pytest.approx((1 / 3 / np.sqrt(39), np.sqrt(39) / 3), rel=1e-6)

    def test_heavy_tails_lengthen_the_interval(self):
        # nineteen runs close together and one far off, against twenty normal scores
        far = np.append(runs_with(0.1, 19), 3.0)
        found = ratio(far, runs_with(1, 20))
        plain = found.value * np.sqrt(stats.f.ppf(0.975, 19, 19))
        assert found.high > 1.3 * plain

    def test_one_is_a_bound_where_the_f_test_has_that_p(self):
        found = np.var(OURS, ddof=1) / np.var(THEIRS, ddof=1)
        p = 2 * stats.f.cdf(found, 3, 4)
        assert ratio(OURS, THEIRS, 1 - p).high == pytest.approx(1)

    def test_swapped_methods_give_the_inverse(self):
        found, swapped = ratio(OURS, THEIRS), ratio(THEIRS, OURS)
        inverse = (1 / swapped.value, 1 / swapped.high, 1 / swapped.low)
        assert (found.value, found.low, found.high) == pytest.approx(inverse)

    def test_coverage_for_normal_runs(self):
        rng = np.random.default_rng(1)
        inside = 0
        for _ in range(1000):
            found = ratio(rng.normal(0, 2, 4), rng.normal(7, 1, 6), 0.9)
            inside += found.low <= 2 <= found.high
        assert 870 < inside < 930

    @pytest.mark.parametrize("few", [[0.5], [0.1, 0.1, 0.1]])
    def test_none_without_spread(self, few):
        assert ratio(np.array(few), THEIRS) is None and ratio(OURS, np.array(few)) is None

    def test_says_what_it_assumes(self):
        assert "normal" in ratio(OURS, THEIRS).how


class TestDegrees:
    def test_one_less_than_the_seeds_without_heavy_tails(self):
        assert degrees(runs_with(1, 30), runs_with(4, 12)) == (29, 11)

    def test_by_hand(self):
        # 0, 0, 0, 0, 4 about its median 0: squares about the mean 0.8 sum to 12.8, s² = 3.2, fourth powers to 256, so
        # 256 / 3.2² = 25. Twice that, k = 10 * 50 / 64 = 7.8125, and 10 / (7.8125 - 2/4) = 1.3675
        values = np.array([0.0, 0.0, 0.0, 0.0, 4.0])
        assert degrees(values, 3 * values + 1) == pytest.approx((1.3675, 1.3675), abs=1e-4)

    def test_matches_the_variance_of_a_variance(self):
        # Laplace runs have kurtosis 6: Var(s²)/σ⁴ = (6 - 1)/n nearly, so that 2/df is 5/n
        rng = np.random.default_rng(4)
        found = [degrees(rng.laplace(size=400), rng.laplace(size=400))[0] for _ in range(50)]
        assert np.median(found) == pytest.approx(2 * 400 / 5, rel=0.15)


class TestBrownForsythe:
    def test_is_the_t_test_of_the_distances_to_the_median(self):
        ours, theirs = np.abs(OURS - np.median(OURS)), np.abs(THEIRS - np.median(THEIRS))
        assert brown_forsythe(OURS, THEIRS) == pytest.approx(stats.ttest_ind(ours, theirs).pvalue)

    def test_undefined_for_two_runs_of_each(self):
        assert brown_forsythe(np.array([0.1, 0.2]), np.array([0.1, 0.7])) is None

    def test_undefined_for_one_run(self):
        assert brown_forsythe(np.array([0.1]), THEIRS) is None

    def test_undefined_where_no_run_differs(self):
        assert brown_forsythe(np.full(3, 0.1), np.full(4, 0.2)) is None

    def test_one_constant_method_is_tested(self):
        assert 0 < brown_forsythe(np.full(5, 0.1), THEIRS) < 0.05


class TestEquivalence:
    def test_is_the_interval_inside_the_margin(self):
        rng = np.random.default_rng(2)
        outcomes = []
        for _ in range(300):
            ours, theirs = rng.normal(size=30), rng.normal(size=25)
            interval = ratio(ours, theirs, 0.9)
            outcomes.append(1 / 1.5 < interval.low and interval.high < 1.5)
            assert equivalence(ours, theirs, 1.5, 0.05).equivalent == outcomes[-1]
        assert 0 < sum(outcomes) < 300

    def test_p_by_hand(self):
        # 3 against 3 seeds, F(2, 2): P(F <= x) = x / (1 + x). At a ratio of 1 and margin 2 both p are
        # (1/4) / (5/4) = 0.2
        same = np.array([1.0, 2.0, 3.0])
        assert equivalence(same, same + 5, 2.0).p == pytest.approx(0.2)

    def test_p_is_the_larger_of_both_sides(self):
        # ratio 2 at margin 4: to the upper bound x = (2/4)², p = 0.25 / 1.25; to the lower one x = (2 * 4)², p = 1/65
        ours, theirs = np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
        assert equivalence(ours, theirs, 4.0).p == pytest.approx(0.2)
        assert equivalence(theirs, ours, 4.0).p == pytest.approx(0.2)

    def test_true_ratio_at_the_margin_is_seldom_called_equivalent(self):
        rng = np.random.default_rng(3)
        called = sum(equivalence(rng.normal(0, 1.5, 40), rng.normal(size=40)).equivalent for _ in range(1000))
        assert 30 < called < 70

    def test_skewed_runs_at_the_margin_are_seldom_called_equivalent(self):
        rng = np.random.default_rng(3)
        skewed = np.exp(0.7 * rng.normal(size=(600, 2, 100)))
        called = sum(equivalence(1.5 * ours, theirs).equivalent for ours, theirs in skewed)
        plain = np.var(1.5 * skewed[:, 0], axis=1) / np.var(skewed[:, 1], axis=1)
        by_f = np.maximum(stats.f.cdf(plain / 2.25, 99, 99), stats.f.sf(plain * 2.25, 99, 99)) <= 0.05
        assert called < 50 < 100 < by_f.sum()

    def test_no_p_without_spread(self):
        assert equivalence(np.full(3, 0.5), THEIRS) == (None, False)

    def test_margin_of_one_is_a_bug(self):
        with pytest.raises(AssertionError):
            equivalence(OURS, THEIRS, 1.0)


class TestSeeds:
    @pytest.mark.parametrize(("margin", "alpha"), [(1.5, 0.05), (2.0, 0.05), (1.2, 0.01), (10.0, 0.05)])
    def test_equal_spread_is_shown_from_that_number_on(self, margin, alpha):
        count = equivalence_seeds(margin, alpha)
        assert equivalence(runs_with(1, count), runs_with(1, count), margin, alpha).equivalent
        assert not equivalence(runs_with(1, count - 1), runs_with(1, count - 1), margin, alpha).equivalent

    def test_quantile_of_f(self):
        count = equivalence_seeds(1.5, 0.05)
        assert stats.f.ppf(0.95, count - 1, count - 1) <= 1.5**2 < stats.f.ppf(0.95, count - 2, count - 2)

    def test_two_seeds_suffice_for_a_wide_margin(self):
        # the 0.95 quantile of F(1, 1) is 161.4, its root 12.7
        assert equivalence_seeds(13.0) == 2 and equivalence_seeds(12.0) == 3

    def test_unequal_counts_are_searched_over_every_ratio(self):
        best = [equivalence(runs_with(r, 60), runs_with(1, 9)).p for r in np.geomspace(0.6, 1.6, 200)]
        assert (min(best) <= 0.05) == equivalence_possible(60, 9)
        best = [equivalence(runs_with(r, 60), runs_with(1, 14)).p for r in np.geomspace(0.6, 1.6, 200)]
        assert (min(best) <= 0.05) == equivalence_possible(60, 14)
        assert equivalence_possible(60, 14) != equivalence_possible(60, 9)

    def test_impossible_with_one_seed(self):
        assert not equivalence_possible(1, 100, 5.0)
