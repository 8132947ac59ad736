from math import comb

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import tt_ind_solve_power

from raymdm.comparison.stats.power import MOST_SEEDS, detectable, seeds_needed


def simulated_power(difference, sds, counts, alpha, simulations=40_000):
    """Share of Welch's t tests on normal runs with p within alpha."""
    rng = np.random.default_rng(5)
    ours = rng.normal(difference, sds[0], (simulations, counts[0]))
    theirs = rng.normal(0, sds[1], (simulations, counts[1]))
    return np.mean(stats.ttest_ind(ours, theirs, axis=1, equal_var=False).pvalue <= alpha)


class TestDetectable:
    def test_equal_spread_as_statsmodels_has_it(self):
        # 184,756 splits: the attainable level is alpha to four digits
        effect = tt_ind_solve_power(nobs1=10, alpha=0.05, power=0.8)
        assert detectable(0.02, 0.02, 10, 10) == pytest.approx(0.02 * effect, rel=1e-3)

    def test_unit_is_the_root_of_the_mean_variance(self):
        # sds 1 and 1 of equal counts, and 0.6 and sqrt(2 - 0.36): the same mean variance, fewer degrees of freedom
        equal, unequal = detectable(1, 1, 50, 50), detectable(0.6, np.sqrt(2 - 0.36), 50, 50)
        assert equal < unequal < 1.02 * equal

    def test_unequal_spread_and_counts_by_simulation(self):
        found = detectable(3.0, 1.0, 8, 14, alpha=0.05)
        assert simulated_power(found, (3.0, 1.0), (8, 14), 0.05) == pytest.approx(0.8, abs=0.01)

    def test_level_is_the_largest_that_the_splits_allow(self):
        # C(8, 4) = 70 splits: p = 2/70 = 0.029, then 4/70 = 0.057
        assert detectable(1, 1, 4, 4, 0.05) == pytest.approx(tt_ind_solve_power(nobs1=4, alpha=2 / 70, power=0.8))

    @pytest.mark.parametrize(("counts", "alpha"), [((3, 3), 0.05), ((4, 4), 0.025), ((1, 50), 0.05), ((5, 5), 0.005)])
    def test_none_where_no_difference_can_be_found(self, counts, alpha):
        assert detectable(1, 1, *counts, alpha) is None

    def test_alpha_that_is_just_reached(self):
        assert detectable(1, 1, 3, 3, 0.1) is not None

    @pytest.mark.parametrize("counts", [(2, 100), (3, 30), (100, 100)])
    @pytest.mark.parametrize("sds", [(1e-6, 1e-9), (1.0, 0.0), (0.0, 1.0), (1e6, 1.0)])
    def test_extreme_spread_gives_a_number(self, counts, sds):
        # near 4 standard errors where the degrees of freedom are many, thousands where they are one
        found = detectable(*sds, *counts, alpha=0.001)
        error = np.sqrt(sds[0] ** 2 / counts[0] + sds[1] ** 2 / counts[1])
        assert 3 * error < found < 2000 * error

    def test_zero_spread_finds_everything(self):
        assert detectable(0, 0, 5, 5) == 0

    def test_falls_with_seeds_and_rises_with_power(self):
        found = [detectable(1, 1, count, count) for count in (4, 5, 6, 8, 10, 20, 100)]
        assert found == sorted(found, reverse=True)
        assert detectable(1, 1, 6, 6, power=0.9) > detectable(1, 1, 6, 6, power=0.8)


class TestSeedsNeeded:
    def test_equal_spread_as_statsmodels_has_it(self):
        # an effect of 0.5: 63.77 by statsmodels, the textbook's 64
        assert tt_ind_solve_power(effect_size=0.5, alpha=0.05, power=0.8) == pytest.approx(63.77, abs=0.01)
        assert seeds_needed(0.5, 1, 1) == 64

    @pytest.mark.parametrize("difference", [0.05, 0.3, 1.0, 2.0])
    def test_is_the_first_to_detect_the_difference(self, difference):
        count = seeds_needed(difference, 1, 1.4)
        assert detectable(1, 1.4, count, count) <= difference < detectable(1, 1.4, count - 1, count - 1)

    @pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
    @pytest.mark.parametrize("difference", [50.0, 1e6])
    def test_never_fewer_than_the_permutation_test_needs(self, difference, alpha):
        count = seeds_needed(difference, 1, 1, alpha)
        assert 2 / comb(2 * count, count) <= alpha < 2 / comb(2 * count - 2, count - 1)

    def test_sign_does_not_matter(self):
        assert seeds_needed(-0.7, 1, 1) == seeds_needed(0.7, 1, 1)

    @pytest.mark.parametrize("difference", [0.0, 0.001, 1e-12])
    def test_none_for_nothing_and_for_next_to_nothing(self, difference):
        assert seeds_needed(difference, 1, 1) is None

    def test_just_within_the_limit(self):
        edge = detectable(1, 1, MOST_SEEDS, MOST_SEEDS)
        assert seeds_needed(edge * 1.00001, 1, 1) == MOST_SEEDS and seeds_needed(edge * 0.9999, 1, 1) is None

    def test_zero_spread_needs_what_the_permutation_test_needs(self):
        assert seeds_needed(0.1, 0, 0) == 4
