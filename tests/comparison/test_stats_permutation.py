"""Permutation tests against scipy's, hand enumeration and simulated size."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy import stats

from raymdm.comparison.stats.permutation import (
    RANDOM_SPLITS,
    log_variance_ratio,
    mean_test,
    smallest_p,
    splits,
    spread_test,
    welch_t,
)


def test_all_splits_of_ten_against_ten_are_enumerated() -> None:
    masks = splits(10, 10)
    assert masks.shape == (184_756, 20)
    assert (masks.sum(axis=1) == 10).all()
    assert len(np.unique(np.packbits(masks, axis=1), axis=0)) == 184_756


@pytest.mark.parametrize("counts", [(2, 3), (10, 10), (11, 10), (40, 7)])
def test_the_first_split_is_the_observed_one(counts: tuple[int, int]) -> None:
    assert splits(*counts)[0].tolist() == [True] * counts[0] + [False] * counts[1]


def test_more_seeds_have_random_splits() -> None:
    masks = splits(11, 10)
    assert masks.shape == (RANDOM_SPLITS + 1, 21) and (masks.sum(axis=1) == 11).all()
    # each run is ours in 11 of 21 splits
    assert masks.mean(axis=0) == pytest.approx(np.full(21, 11 / 21), abs=0.025)


@pytest.mark.parametrize(("counts", "p"), [((1, 1), 1.0), ((3, 3), 0.1), ((5, 5), 2 / 252), ((2, 4), 2 / 15)])
def test_smallest_p(counts: tuple[int, int], p: float) -> None:
    assert smallest_p(*counts) == pytest.approx(p)


def scipys(ours: np.ndarray, theirs: np.ndarray) -> float:
    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return stats.ttest_ind(x, y, equal_var=False, axis=axis).statistic

    test = stats.permutation_test((ours, theirs), statistic, vectorized=True, n_resamples=np.inf, axis=-1)
    return float(test.pvalue)


@pytest.mark.parametrize("counts", [(3, 3), (3, 5), (5, 4), (6, 6)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_exact_p_is_scipys(counts: tuple[int, int], shift: float) -> None:
    rng = np.random.default_rng([*counts, int(shift)])
    ours, theirs = rng.normal(shift, 1, counts[0]), rng.normal(0, 2, counts[1])
    found = mean_test(ours, theirs)
    assert found == (pytest.approx(scipys(ours, theirs), rel=1e-12), True, smallest_p(*counts))


@pytest.mark.parametrize("seed", range(4))
def test_exact_p_with_ties_is_scipys(seed: int) -> None:
    # eighths have no rounding, and all six or more differ enough that no split is constant within both groups
    rng = np.random.default_rng(seed)
    ours, theirs = (rng.choice(12, 5, replace=False) / 8 + shift for shift in (0, 0.5))
    found = mean_test(ours, theirs)
    assert found is not None and found.p == pytest.approx(scipys(ours, theirs), rel=1e-12)


def test_rounded_values_tie_as_whole_numbers_do() -> None:
    ours, theirs = np.array([123.0, 124, 124, 126, 127]), np.array([121.0, 122, 124, 123, 125])
    assert mean_test(ours / 200, theirs / 200) == mean_test(ours, theirs)


def test_separate_samples_have_the_smallest_p() -> None:
    found = mean_test(np.array([4.0, 5, 7]), np.array([1.0, 2, 3]))
    assert found == (pytest.approx(0.1), True, 0.1)


def test_equal_samples_have_p_1() -> None:
    assert mean_test(np.array([1.0, 2, 4]), np.array([1.0, 2, 4])) == (1, True, 0.1)


def test_constant_samples_that_differ_have_the_smallest_p() -> None:
    # Of 20 splits only the observed one and its mirror have no variance: t is +inf and -inf.
    assert mean_test(np.full(3, 0.3), np.full(3, 0.1)) == (pytest.approx(0.1), True, 0.1)


def test_all_runs_equal_have_p_1() -> None:
    assert mean_test(np.full(3, 0.1), np.full(4, 0.1)) == (1, True, smallest_p(3, 4))


@pytest.mark.parametrize("test", [mean_test, spread_test])
def test_one_seed_has_no_test(test) -> None:  # type: ignore[no-untyped-def]
    assert test(np.array([1.0]), np.array([2.0, 3.0])) is None
    assert test(np.array([2.0, 3.0]), np.array([1.0])) is None


@pytest.mark.parametrize("test", [mean_test, spread_test])
@pytest.mark.parametrize("counts", [(4, 6), (7, 7)])
def test_order_of_methods_and_common_scale_do_not_matter(test, counts) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, counts[0]), rng.normal(0, 3, counts[1])
    assert test(theirs, ours).p == pytest.approx(test(ours, theirs).p)
    assert test(1e-3 * ours + 7, 1e-3 * theirs + 7).p == pytest.approx(test(ours, theirs).p)


def test_random_splits_come_near_the_t_tests_p_and_are_repeatable() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.3, 1, 60), rng.normal(0, 1, 50)
    found = mean_test(ours, theirs)
    assert found is not None and not found.exact
    assert found.p == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue, abs=0.015)
    assert mean_test(ours, theirs) == found


@pytest.mark.parametrize(("test", "centre", "sd"), [(mean_test, 100, 1), (spread_test, 0, 500)])
def test_random_splits_never_give_p_0(test, centre, sd) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    found = test(rng.normal(centre, sd, 30), rng.normal(0, 1, 30))
    assert found == (pytest.approx(2 / (RANDOM_SPLITS + 1)), False, 2 / (RANDOM_SPLITS + 1))


def test_t_of_every_split_is_scipys() -> None:
    values = np.random.default_rng(3).normal(5, 1, 7)
    masks = splits(3, 4)
    by_scipy = [stats.ttest_ind(values[mask], values[~mask], equal_var=False).statistic for mask in masks]
    assert welch_t(values, masks) == pytest.approx(np.array(by_scipy))


def test_t_without_variance_is_infinite_or_0() -> None:
    masks = np.array([[True, True, False, False], [False, False, True, True]])
    assert welch_t(np.array([0.3, 0.3, 0.1, 0.1]), masks).tolist() == [np.inf, -np.inf]
    assert welch_t(np.array([0.1, 0.1, 0.1, 0.1]), masks).tolist() == [0, 0]


@pytest.mark.parametrize(("counts", "ratio", "most"), [((5, 5), 1, 0.065), ((6, 6), 2, 0.08)])
def test_mean_test_about_holds_its_level(counts: tuple[int, int], ratio: float, most: float) -> None:
    rng = np.random.default_rng(4)
    found = [mean_test(rng.normal(0, 1, counts[0]), rng.normal(0, ratio, counts[1])) for _ in range(1_000)]
    assert np.mean([test is not None and test.p <= 0.05 for test in found]) < most


def test_studentising_helps_where_the_smaller_method_varies_more() -> None:
    rng = np.random.default_rng(8)
    masks = splits(20, 5)
    rejected = []
    for _ in range(60):
        ours, theirs = rng.normal(0, 1, 20), rng.normal(0, 4, 5)
        differences = masks @ np.concatenate([ours, theirs])
        plain = 2 * min(np.mean(differences <= differences[0]), np.mean(differences >= differences[0]))
        found = mean_test(ours, theirs)
        rejected.append([found is not None and found.p <= 0.05, plain <= 0.05])
    studentised, plain = np.mean(rejected, axis=0)
    assert studentised < plain - 0.03


def test_spread_is_a_permutation_of_deviations_from_own_means() -> None:
    ours, theirs = np.array([10.0, 11, 15, 12]), np.array([1.0, 9, -6, 3, 2])
    pooled = np.concatenate([ours - 12, theirs - 1.8])
    ratios = []
    for chosen in combinations(range(9), 4):
        rest = [index for index in range(9) if index not in chosen]
        ratios.append(np.var(pooled[list(chosen)], ddof=1) / np.var(pooled[rest], ddof=1))
    by_hand = 2 * min(np.mean(np.array(ratios) <= ratios[0] + 1e-12), np.mean(np.array(ratios) >= ratios[0] - 1e-12))
    found = spread_test(ours, theirs)
    assert found == (pytest.approx(by_hand), True, 2 / comb(9, 4))


def test_variance_ratio_without_variance_is_infinite_or_0() -> None:
    masks = np.array([[True, True, False, False], [False, False, True, True]])
    assert log_variance_ratio(np.array([0.1, 0.2, 0.3, 0.3]), masks).tolist() == [np.inf, -np.inf]
    assert log_variance_ratio(np.array([0.1, 0.1, 0.3, 0.3]), masks).tolist() == [0, 0]
    assert log_variance_ratio(np.array([0.0, 2.0, 5.0, 6.0]), masks) == pytest.approx([np.log(4), -np.log(4)])


def test_spread_does_not_see_the_centres() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0, 1, 5), rng.normal(0, 3, 6)
    near, far = spread_test(ours, theirs), spread_test(ours + 1_000, theirs)
    assert near is not None and far is not None and near.p == pytest.approx(far.p)


def test_constant_methods_do_not_differ_in_spread() -> None:
    # three times 0.1 has a mean that is not 0.1
    assert spread_test(np.full(3, 0.1), np.full(3, 0.3)) == (1, True, 0.1)


def test_a_constant_method_against_one_that_varies_has_the_smallest_p() -> None:
    assert spread_test(np.full(3, 0.1), np.array([1.0, 2, 4])) == (pytest.approx(0.1), True, 0.1)


@pytest.mark.parametrize(("counts", "alpha"), [((3, 3), 0.1), ((5, 5), 0.05), ((5, 5), 0.1), ((4, 8), 0.05)])
def test_spread_test_about_holds_its_level_over_normal_runs(counts: tuple[int, int], alpha: float) -> None:
    rng = np.random.default_rng(6)
    found = [spread_test(rng.normal(0, 1, counts[0]), rng.normal(3, 1, counts[1])) for _ in range(1_000)]
    assert np.mean([test is not None and test.p <= alpha + 1e-9 for test in found]) < alpha + 0.02


def test_spread_test_finds_a_large_ratio() -> None:
    rng = np.random.default_rng(7)
    found = [spread_test(rng.normal(0, 1, 5), rng.normal(3, 5, 5)) for _ in range(300)]
    assert np.mean([test is not None and test.p <= 0.05 for test in found]) > 0.45
