"""Statistics over seeds against numbers worked out by hand and tables of the t and chi-squared distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymdm.comparison.statistics import difference, dominance, sd_factors, summarise

OURS, BASE = np.array([60.0, 64.0, 68.0]), np.array([58.0, 60.0, 62.0])
samples = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=6, unique=True).map(np.array)


def test_summary_is_mean_sample_sd_and_range() -> None:
    assert summarise(np.array([1.0, 2.0, 6.0])) == pytest.approx((3, 3.0, np.sqrt(7.0), 1.0, 6.0))


def test_one_seed_has_no_standard_deviation() -> None:
    assert summarise(np.array([0.5])) == (1, 0.5, None, 0.5, 0.5)


def test_welch_interval_by_hand() -> None:
    # variances 16 and 4: se² = 16/3 + 4/3 = 20/3; df = (20/3)² / ((16/3)²/2 + (4/3)²/2) = 50/17 = 2.941
    found = difference(OURS, BASE, higher_is_better=True)
    t = 3.2176  # between t(0.975; 2) = 4.303 and t(0.975; 3) = 3.182
    assert found.interval is not None
    assert found.mean == pytest.approx(4.0)
    assert found.interval == pytest.approx((4 - t * np.sqrt(20 / 3), 4 + t * np.sqrt(20 / 3)), abs=0.02)
    assert not found.distinguishable


def test_interval_without_zero_is_distinguishable() -> None:
    assert difference(OURS + 100, BASE, higher_is_better=True).distinguishable


@pytest.mark.parametrize(("ours", "base"), [(OURS[:1], BASE), (OURS, BASE[:1]), (OURS[:1], BASE[:1])])
def test_one_seed_gives_no_interval_but_a_reason(ours: np.ndarray, base: np.ndarray) -> None:
    found = difference(ours, base, higher_is_better=True)
    assert found.interval is None
    assert "two seeds" in found.reason
    assert not found.distinguishable


def test_two_constant_samples_give_no_interval_but_a_reason() -> None:
    found = difference(np.full(3, 0.1), np.full(3, 0.2), higher_is_better=True)
    assert found.interval is None
    assert "do not differ" in found.reason


def test_one_constant_sample_has_the_spread_of_the_other() -> None:
    # se² = 4/3 with 2 degrees of freedom: t = 4.3027
    found = difference(np.full(3, 70.0), BASE, higher_is_better=True)
    half = 4.3027 * np.sqrt(4 / 3)
    assert found.interval == pytest.approx((10 - half, 10 + half), abs=1e-3)


@given(samples, samples)
def test_swapping_the_samples_negates_the_interval(ours: np.ndarray, base: np.ndarray) -> None:
    one, other = difference(ours, base, True).interval, difference(base, ours, True).interval
    assert one is not None
    assert other is not None
    assert one == pytest.approx((-other[1], -other[0]), rel=1e-9, abs=1e-9)


def test_dominance_sets_worst_against_best() -> None:
    assert dominance(np.array([61.0, 70.0]), np.array([50.0, 60.0]), higher_is_better=True) == 1.0
    assert dominance(np.array([59.0, 70.0]), np.array([50.0, 60.0]), higher_is_better=True) == -1.0


def test_dominance_of_a_loss_is_the_other_way_round() -> None:
    assert dominance(np.array([1.0, 2.0]), np.array([2.5, 4.0]), higher_is_better=False) == 0.5


def test_sd_factors_against_chi_squared_tables() -> None:
    # chi²(0.975; 2) = 7.3778, chi²(0.025; 2) = 0.050636
    assert sd_factors(3) == pytest.approx((np.sqrt(2 / 7.3778), np.sqrt(2 / 0.050636)), rel=1e-4)
