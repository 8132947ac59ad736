"""Spending alpha over looks, and sharing seeds out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymdm.comparison.stats.sequential import round_size, sequential_p, share_out, shrunk_sd, spending


def test_what_is_spent_by_a_look_is_alpha_times_the_cubed_share_of_seeds() -> None:
    # 3, 7.25, 11.5, 15.75 and 20 of 20 seeds
    spent = np.cumsum(spending(3, 20, 5, 0.05))
    assert spent == pytest.approx([0.05 * (seeds / 20) ** 3 for seeds in (3, 7.25, 11.5, 15.75, 20)])


@given(st.integers(2, 10), st.integers(1, 90), st.integers(2, 50))
def test_all_of_alpha_is_spent_and_nothing_else(initial: int, more: int, looks: int) -> None:
    alphas = spending(initial, initial + more, looks, 0.05)
    assert len(alphas) == looks and min(alphas) > 0
    assert sum(alphas) == pytest.approx(0.05)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-4, 0.04)), min_size=1, max_size=8))
def test_the_p_of_all_looks_is_at_most_alpha_just_where_a_look_s_own_is(looks: list[tuple[float, float]]) -> None:
    p, alphas = zip(*looks, strict=True)
    reached = any(p_k <= alpha_k for p_k, alpha_k in looks)
    found = sequential_p(p, alphas, 0.05)
    assert (found <= 0.05 * (1 + 1e-12)) == reached or found == pytest.approx(0.05)


def test_looks_that_are_yet_to_come_change_nothing() -> None:
    assert sequential_p([0.01], [0.002, 0.048], 0.05) == pytest.approx(0.25)


def test_uniform_p_values_at_every_look_are_called_real_in_at_most_alpha_of_cases() -> None:
    # the same p at every look, fresh ones, and opposite ones: the union bound holds whatever they have in common
    rng, alphas = np.random.default_rng(0), spending(3, 20, 6, 0.05)
    u = rng.random((4000, 6))
    for p in (np.repeat(u[:, :1], 6, axis=1), u, np.where(np.arange(6) % 2, u[:, :1], 1 - u[:, :1])):
        wrong = np.mean([sequential_p(row, alphas, 0.05) <= 0.05 for row in p])
        assert wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@given(st.integers(1, 9), st.integers(2, 6), st.integers(1, 40), st.integers(2, 20))
def test_the_rounds_make_up_the_whole_budget(players: int, initial: int, more: int, looks: int) -> None:
    sizes = [round_size(look, players, initial, initial + more, looks) for look in range(1, looks)]
    assert sum(sizes) == players * more
    assert max(sizes) - min(sizes) <= 1


def test_seeds_go_in_proportion_to_the_standard_deviation() -> None:
    more = share_out(40, {"a": 3.0, "b": 1.0}, {"a": 2, "b": 2}, most=100)
    assert (2 + more["a"], 2 + more["b"]) == (33, 11)


def test_the_shares_are_the_best_of_all() -> None:
    # brute force over how many of 12 further seeds each of three methods gets
    sd, seeds = {"a": 2.0, "b": 1.0, "c": 0.5}, {"a": 3, "b": 5, "c": 3}

    def variance(more: dict[str, int]) -> float:
        return sum(sd[name] ** 2 / (seeds[name] + more[name]) for name in sd)

    every = [{"a": a, "b": b, "c": 12 - a - b} for a in range(13) for b in range(13 - a)]
    assert variance(share_out(12, sd, seeds, most=50)) == pytest.approx(min(map(variance, every)))


def test_no_method_gets_more_than_the_most_and_the_rest_is_left() -> None:
    assert share_out(10, {"a": 5.0, "b": 1.0}, {"a": 3, "b": 4}, most=5) == {"a": 2, "b": 1}


def test_three_seeds_that_agree_do_not_make_a_method_certain() -> None:
    # sums of squares 0 and 2 with 2 degrees of freedom each: pooled variance 1/2, as if by two further degrees
    found = shrunk_sd({"a": [0.5, 0.5, 0.5], "b": [-1.0, 0.0, 1.0]})
    assert found["a"] ** 2 == pytest.approx((0 + 2 * 0.5) / 4)
    assert found["b"] ** 2 == pytest.approx((2 + 2 * 0.5) / 4)


def test_where_nothing_varies_seeds_are_shared_evenly() -> None:
    assert shrunk_sd({"a": [0.5, 0.5], "b": []}) == {"a": 1.0, "b": 1.0}
