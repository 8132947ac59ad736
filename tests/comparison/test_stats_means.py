"""The test of two means and Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from raymdm.comparison.stats.means import difference_test, holm
from raymdm.comparison.stats.permutation import mean_test


def test_a_finding_needs_both_tests() -> None:
    # far apart: Welch's p is tiny, the splits of 3 against 3 give 0.1 at best
    ours, theirs = np.array([0.90, 0.91, 0.92]), np.array([0.50, 0.51, 0.52])
    found = difference_test(ours, theirs)
    assert found and found.p == found.p_permutation == found.smallest == pytest.approx(0.1)
    assert found.p_welch == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def test_unequal_spread_is_left_to_welch() -> None:
    # five tight runs between the five of a loose method
    ours, theirs = np.array([0.50, 0.501, 0.502, 0.503, 0.504]), np.array([0.49, 0.30, 0.42, 0.47, 0.44])
    found, permutation = difference_test(ours, theirs), mean_test(ours, theirs)
    assert found and permutation and found.p == found.p_welch > permutation.p


def test_unequal_spread_does_not_make_findings() -> None:
    # equal means, four times the spread, 5 against 15 seeds: the permutation test alone rejects in more than 5%
    rng = np.random.default_rng(0)
    found = [difference_test(rng.normal(0, 4, 5), rng.normal(0, 1, 15)) for _ in range(1000)]
    wrong = np.mean([test.p <= 0.05 for test in found if test])
    alone = np.mean([test.p_permutation <= 0.05 for test in found if test])
    assert wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000) < alone


def test_runs_that_do_not_differ_at_all() -> None:
    same, other = np.full(5, 0.5), np.full(5, 0.6)
    found = difference_test(other, same)
    assert found and found.p == found.smallest
    none = difference_test(same, same)
    assert none and none.p == 1.0


def test_one_seed_has_no_test() -> None:
    assert difference_test(np.array([0.5]), np.array([0.4, 0.5])) is None


def test_holm_by_hand() -> None:
    # ordered 0.01, 0.02, 0.04 times 3, 2, 1
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
