"""Intervals against scipy, statsmodels, tables, hand numbers and simulated coverage."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from raymdm.comparison.stats.intervals import (
    Interval,
    combine,
    difference_interval,
    expected_range,
    mean_interval,
    range_interval,
    sd_interval,
    welch,
)

OURS, THEIRS = np.array([60.0, 64.0, 68.0]), np.array([58.0, 60.0, 62.0, 61.0])


def half(interval: Interval) -> float:
    assert interval.low is not None and interval.high is not None
    assert interval.high - interval.value == pytest.approx(interval.value - interval.low)
    return interval.high - interval.value


def test_one_component_is_the_t_interval() -> None:
    found = combine(7.0, [(4.0, 5)], 0.9, "so")
    assert (found.value, found.how) == (7.0, "so")
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 5, 7.0, 2.0))


def test_components_have_satterthwaites_degrees_of_freedom() -> None:
    # (3 + 1)² / (3²/2 + 1²/10) = 16 / 4.6
    assert half(combine(0.0, [(3.0, 2), (1.0, 10)], 0.95, "")) == pytest.approx(2 * stats.t.ppf(0.975, 16 / 4.6))


def test_tiny_variances_do_not_underflow() -> None:
    assert half(combine(0.0, [(1e-200, 2)], 0.95, "")) == pytest.approx(4.3027 * 1e-100, rel=1e-4)


def test_no_variance_is_no_interval() -> None:
    assert combine(1.0, [(0.0, 2), (0.0, 9)], 0.95, "so") == (1, None, None, "no interval: the seeds do not differ")


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_of_values_is_the_ordinary_t_interval(level: float) -> None:
    bounds = stats.ttest_1samp(OURS, 0).confidence_interval(level)
    found = mean_interval(OURS, level)
    assert found.value == 64 and found.how == "t, 3 seeds"
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_mean_of_scores_that_all_examples_share_is_the_ordinary_t_interval() -> None:
    found = mean_interval(np.repeat(OURS[:, None], 50, axis=1))
    assert found.how == "t, seeds and examples"
    assert found[:3] == pytest.approx(mean_interval(OURS)[:3])


def test_mean_of_crossed_scores_by_hand() -> None:
    # Seeds' means 2.5 and 6.5: s²/S = 8/2 = 4, 1 df. Examples' means 0 and 9: 40.5/2 = 20.25, 1 df. The rest is ±1
    # everywhere: a mean square of 4/1, which over S E = 4 is 1 and leaves 19.25 for the examples.
    scores = np.array([[-1.0, 6.0], [1.0, 12.0]])
    freedom = 23.25**2 / (4**2 + 19.25**2)
    assert half(mean_interval(scores)) == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(23.25))


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 9)) + np.arange(9)
    table = pd.DataFrame([(s, e, scores[s, e]) for s in range(4) for e in range(9)], columns=["seed", "example", "y"])
    squares = anova_lm(ols("y ~ C(seed) + C(example)", table).fit())["sum_sq"].to_numpy() / [3, 8, 24]
    parts = [(squares[0] / 36, 3), ((squares[1] - squares[2]) / 36, 8)]
    assert half(mean_interval(scores)) == pytest.approx(half(combine(0.0, parts, 0.95, "")))


def test_an_examples_part_below_nothing_is_left_out() -> None:
    # Every example's mean over seeds is 0.5, so the examples' part would be 0 less the interaction.
    scores = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert mean_interval(scores)[:3] == pytest.approx(mean_interval(scores.mean(axis=1))[:3])


def test_one_seed_with_scores_has_an_interval_from_its_examples() -> None:
    scores = np.array([[0.0, 1, 1, 0, 1, 1]])
    bounds = stats.ttest_1samp(scores[0], 0).confidence_interval(0.95)
    found = mean_interval(scores)
    assert found.how == "examples alone: one seed"
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_one_seed_without_scores_has_no_interval() -> None:
    assert mean_interval(np.array([0.5])) == (0.5, None, None, "no interval: one seed")


def test_one_seed_whose_examples_do_not_differ_has_no_interval() -> None:
    assert mean_interval(np.ones((1, 9))) == (1, None, None, "no interval: one seed")


def test_equal_seeds_without_scores_have_no_interval() -> None:
    # three times 0.1 has a mean that is not 0.1
    assert mean_interval(np.full(3, 0.1))[1:] == (None, None, "no interval: the seeds do not differ")


def test_a_single_example_says_nothing_about_others() -> None:
    assert mean_interval(OURS[:, None]) == mean_interval(OURS)


def test_difference_of_values_is_welchs() -> None:
    test = stats.ttest_ind(OURS, THEIRS, equal_var=False)
    bounds = test.confidence_interval(0.95)
    for found in (difference_interval(OURS, THEIRS), welch(OURS, THEIRS).interval):
        assert found[:3] == pytest.approx((64 - 60.25, bounds.low, bounds.high))
    assert difference_interval(OURS, THEIRS).how == "t, 3 and 4 seeds"
    assert welch(OURS, THEIRS).p == pytest.approx(test.pvalue)


def test_difference_leaves_out_what_both_methods_share() -> None:
    # Scores without interaction on the same examples: the examples cancel, and Welch's interval is left.
    examples = np.random.default_rng(1).normal(0, 50, 30)
    examples -= examples.mean()
    found = difference_interval(OURS[:, None] + examples, THEIRS[:, None] + examples)
    assert found.how == "t, seeds and examples"
    assert found[:3] == pytest.approx(welch(OURS, THEIRS).interval[:3])


def test_difference_is_a_mean_against_a_method_that_knows_everything() -> None:
    # Scores less those of a method that is right everywhere: its own seeds and examples add nothing.
    scores = np.random.default_rng(2).random((3, 40))
    assert half(difference_interval(scores, np.ones((4, 40)))) == pytest.approx(half(mean_interval(scores)))


def test_difference_changes_sign_with_its_order() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random((3, 40)), rng.random((5, 40))
    one, other = difference_interval(ours, theirs), difference_interval(theirs, ours)
    assert other.value == pytest.approx(-one.value) and half(other) == pytest.approx(half(one))


def test_difference_of_single_seeds_is_a_paired_t_interval_over_examples() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = rng.random((1, 25)), rng.random((3, 25))
    bounds = stats.ttest_rel(ours[0], theirs.mean(axis=0)).confidence_interval(0.95)
    found = difference_interval(ours, theirs)
    assert found.how == "examples alone: one seed"
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_difference_with_one_seed_without_scores_has_no_interval() -> None:
    assert difference_interval(np.array([1.0]), THEIRS)[1:] == (None, None, "no interval: one seed")
    assert welch(OURS, np.array([1.0])) == ((63, None, None, "no interval: one seed"), None)


def test_scores_of_one_method_alone_are_taken_as_values() -> None:
    scores = OURS[:, None] + np.array([-1.0, 1.0])
    assert difference_interval(scores, THEIRS) == difference_interval(OURS, THEIRS)


def test_welch_with_one_constant_sample_has_the_others_interval() -> None:
    found = welch(OURS, np.full(3, 60.0)).interval
    assert half(found) == pytest.approx(half(mean_interval(OURS)))


def test_welch_of_constant_samples_has_no_interval() -> None:
    found = welch(np.full(3, 0.1), np.full(3, 0.3))
    assert found.interval[1:] == (None, None, "no interval: the seeds do not differ") and found.p is None


def test_standard_deviations_interval_has_the_tables_factors() -> None:
    # chi-squared(2): 7.3778 and 0.050636, so the factors at three seeds are √(2/7.3778) and √(2/0.050636)
    found = sd_interval(OURS)
    assert found is not None and found.value == pytest.approx(4.0) and "normal" in found.how
    assert (found.low, found.high) == pytest.approx((4 * 0.52066, 4 * 6.2847), rel=1e-4)


def test_spread_of_one_seed_is_unknown() -> None:
    assert sd_interval(np.array([1.0])) is None and range_interval(np.array([1.0])) is None


@pytest.mark.parametrize("function", [sd_interval, range_interval])
def test_spread_of_equal_seeds_has_no_interval(function) -> None:  # type: ignore[no-untyped-def]
    assert function(np.full(3, 0.1)) == (0, None, None, "no interval: the seeds do not differ")


@pytest.mark.parametrize(
    ("count", "d2"), [(2, 2 / np.sqrt(np.pi)), (3, 3 / np.sqrt(np.pi)), (5, 2.32593), (10, 3.07751), (25, 3.93063)]
)
def test_expected_range_is_that_of_control_charts(count: int, d2: float) -> None:
    assert expected_range(count) == pytest.approx(d2, abs=2e-5)


def test_range_interval_is_the_expected_range_of_the_sds_interval() -> None:
    spread, found = sd_interval(THEIRS, 0.9), range_interval(THEIRS, 0.9)
    assert spread is not None and spread.low is not None and spread.high is not None and found is not None
    # d2 of four is 2.05875
    assert found[:3] == pytest.approx((4.0, 2.05875 * spread.low, 2.05875 * spread.high), rel=1e-5)


@pytest.mark.parametrize(("sd_seed", "sd_example"), [(0.0, 0.5), (0.1, 1.0), (0.5, 0.1)])
def test_three_seeds_intervals_hold_the_truth_as_often_as_they_say(sd_seed: float, sd_example: float) -> None:
    rng = np.random.default_rng(5)
    holds = []
    for _ in range(1_000):
        shared = rng.normal(0, sd_example, 100)
        own = rng.normal(0, sd_example / 3, 100)
        ours, theirs = (rng.normal(0, sd_seed, (3, 1)) + rng.normal(0, 1, (3, 100)) + shared for _ in range(2))
        found = mean_interval(ours), difference_interval(ours + own, theirs)
        holds.append([abs(interval.value) <= half(interval) for interval in found])
    mean, difference = np.mean(holds, axis=0)
    assert 0.92 <= mean <= 0.98 and 0.92 <= difference <= 0.98


def test_intervals_over_seeds_alone_miss_what_other_examples_would_change() -> None:
    rng = np.random.default_rng(6)
    holds = []
    for _ in range(500):
        scores = rng.normal(0, 0.05, (5, 1)) + rng.normal(0, 1, 100) + rng.normal(0, 1, (5, 100))
        found = mean_interval(scores), mean_interval(scores.mean(axis=1))
        holds.append([abs(interval.value) <= half(interval) for interval in found])
    crossed, seeds_alone = np.mean(holds, axis=0)
    assert crossed > 0.92 and seeds_alone < 0.85


def test_no_warning_leaves_the_intervals() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        welch(np.full(3, 1.0), THEIRS)
        mean_interval(np.zeros((3, 5)))
    assert caught == []
