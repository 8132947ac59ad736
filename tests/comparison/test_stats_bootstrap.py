"""The crossed bootstrap against its exact variances, brute force and closed forms."""

import numpy as np
import pytest

from raymdm.comparison.stats import bootstrap
from raymdm.comparison.stats.bootstrap import example_weights, profile, resampled, seed_draws, statistic_interval
from raymdm.comparison.stats.intervals import mean_interval


def crossed(rng: np.random.Generator, seeds: int, examples: int, sd_seed: float, sd_example: float) -> np.ndarray:
    """Scores (S, E) about 0: effects of seeds and of examples, and their interaction of sd 1."""
    effects = rng.normal(0, sd_seed, (seeds, 1)) + rng.normal(0, sd_example, examples)
    return effects + rng.normal(0, 1, (seeds, examples))


def test_weights_are_multinomial_counts_over_examples() -> None:
    weights = example_weights(40, 3_000, np.random.default_rng(0))
    counts = weights.astype(np.float64) * 40
    assert weights.shape == (40, 3_000) and weights.dtype == np.float32
    assert counts == pytest.approx(np.round(counts), abs=1e-5)
    assert counts.sum(axis=0) == pytest.approx(np.full(3_000, 40.0), abs=1e-4)
    # a count is binomial(40, 1/40): mean 1, variance 39/40
    assert counts.mean(axis=1) == pytest.approx(np.ones(40), abs=0.09)
    assert counts.var() == pytest.approx(39 / 40, abs=0.02)


def test_draws_are_every_seed_equally_often() -> None:
    draws = seed_draws(4, 10_000, np.random.default_rng(0))
    assert draws.shape == (10_000, 4)
    assert np.bincount(draws.ravel()) / draws.size == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_random_numbers_are_the_generators() -> None:
    first = example_weights(9, 5, np.random.default_rng(3))
    assert np.array_equal(first, example_weights(9, 5, np.random.default_rng(3)))
    assert not np.array_equal(first, example_weights(9, 5, np.random.default_rng(4)))


def test_resampled_is_each_drawn_seeds_mean_on_the_drawn_examples() -> None:
    rng = np.random.default_rng(1)
    scores, draws, weights = rng.normal(5, 1, (3, 8)), seed_draws(3, 6, rng), example_weights(8, 6, rng)
    found = resampled(scores, draws, weights)
    for replicate in range(6):
        examples = np.repeat(np.arange(8), np.round(weights[:, replicate] * 8).astype(int))
        by_hand = [scores[seed, examples].mean() for seed in draws[replicate]]
        assert found[replicate] == pytest.approx(np.array(by_hand), rel=1e-6)


def test_small_spread_beside_a_large_mean_survives_single_precision() -> None:
    rng = np.random.default_rng(1)
    scores, weights = rng.normal(0, 1e-3, (2, 50)), example_weights(50, 20, rng)
    near, far = resampled(scores, None, weights), resampled(scores + 1e4, None, weights)
    assert far - 1e4 == pytest.approx(near, abs=1e-9)


def test_seeds_and_methods_share_the_examples_of_a_replicate() -> None:
    rng = np.random.default_rng(2)
    weights = example_weights(30, 50, rng)
    ours, theirs = rng.random((2, 30)), rng.random((1, 30))
    ours[1] = ours[0] + 0.5
    found = resampled(ours, None, weights)
    assert found[:, 1] - found[:, 0] == pytest.approx(np.full(50, 0.5), abs=1e-6)
    both = resampled(np.concatenate([ours, theirs]), None, weights)
    assert both[:, 2:] == pytest.approx(resampled(theirs, None, weights), abs=1e-6)


def test_values_are_drawn_as_they_are() -> None:
    assert resampled(np.array([1.0, 5.0]), np.array([[1, 1], [0, 1]]), None).tolist() == [[5, 5], [1, 5]]


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="draws or weights"):
        resampled(np.ones(3), None, None)


def test_examples_of_values_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="weights must be None"):
        resampled(np.ones(3), None, np.ones((3, 2)))


def test_interquartile_mean_by_hand() -> None:
    # a quarter of eight is two at each end: mean of 3, 4, 5, 6
    assert bootstrap.iqm(np.array([8.0, 1, 2, 3, 100, 4, 5, 6])) == pytest.approx((3 + 4 + 5 + 6) / 4)
    assert bootstrap.iqm(np.array([[1.0, 2, 9], [0, 0, 3]])).tolist() == [4, 1]


def test_statistics_reduce_the_last_axis() -> None:
    rows = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    assert bootstrap.mean(rows).tolist() == [3, 4]
    assert bootstrap.median(rows).tolist() == [2, 4]
    assert bootstrap.sd(rows).tolist() == pytest.approx([np.sqrt(7), 0])


def test_variance_of_replicates_is_the_crossed_bootstraps_exact_one() -> None:
    # A replicate's mean is Σ w a + Σ v b + Σ w v c over the scores' seed, example and interaction parts, with
    # multinomial w and v. Terms are uncorrelated, with variances Σa²/S², Σb²/E² and Σc²/(S E)².
    rng = np.random.default_rng(3)
    scores = crossed(rng, 4, 12, 0.5, 1.0)
    a = scores.mean(axis=1) - scores.mean()
    b = scores.mean(axis=0) - scores.mean()
    c = scores - scores.mean() - a[:, None] - b
    exact = np.sum(a**2) / 16 + np.sum(b**2) / 144 + np.sum(c**2) / (16 * 144)
    replicates = resampled(scores, seed_draws(4, 40_000, rng), example_weights(12, 40_000, rng)).mean(axis=1)
    assert replicates.var() == pytest.approx(exact, rel=0.03)


def test_examples_drawn_anew_for_every_seed_would_understate_the_interval() -> None:
    # 20 seeds that differ in nothing but noise, on 50 examples of sd 3: the mean's variance is about 9/50. Drawing
    # examples for each seed apart makes it about a twentieth of that.
    rng = np.random.default_rng(4)
    scores = crossed(rng, 20, 50, 0.0, 3.0)
    interval = mean_interval(scores)
    assert interval.high is not None
    draws = seed_draws(20, 2_000, rng)
    right = resampled(scores, draws, example_weights(50, 2_000, rng)).mean(axis=1)
    nested = np.mean([resampled(scores[[seed]], None, example_weights(50, 2_000, rng))[:, 0] for seed in range(20)], 0)
    truth = ((interval.high - interval.value) / 2.01) ** 2  # t(0.975; 49) = 2.01
    assert right.var() == pytest.approx(truth, rel=0.1)
    assert nested.var() < truth / 15


@pytest.mark.parametrize("shape", [(3, 200), (10, 60)])
def test_bootstrap_of_the_mean_agrees_with_the_closed_form(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    scores = crossed(rng, *shape, 0.1, 0.7)
    closed = mean_interval(scores)

    def disguised(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=-1)

    found = statistic_interval(
        disguised, scores, seed_draws(shape[0], 8_000, rng), example_weights(shape[1], 8_000, rng)
    )
    assert found.low is not None and found.high is not None and closed.low is not None and closed.high is not None
    assert found.value == pytest.approx(closed.value)
    assert found.high - found.low == pytest.approx(closed.high - closed.low, rel=0.06)


def test_three_seeds_have_the_interquartile_mean_of_the_mean() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random((3, 20))
    found = statistic_interval(bootstrap.iqm, scores, seed_draws(3, 10, rng), example_weights(20, 10, rng))
    assert found == mean_interval(scores)


def test_one_seed_has_the_median_of_its_examples_mean() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random((1, 20))
    found = statistic_interval(bootstrap.median, scores, seed_draws(1, 10, rng), example_weights(20, 10, rng))
    assert found == mean_interval(scores) and found.how == "examples alone: one seed"


@pytest.mark.parametrize("statistic", [bootstrap.median, bootstrap.iqm])
def test_equal_seeds_have_no_interval(statistic: bootstrap.Statistic) -> None:
    found = statistic_interval(statistic, np.full(5, 0.1), seed_draws(5, 500, np.random.default_rng(0)), None)
    assert found[1:] == (None, None, "no interval: the seeds do not differ")
    assert found.value == pytest.approx(0.1)


@pytest.mark.parametrize(("statistic", "seeds"), [(bootstrap.median, 3), (bootstrap.median, 10), (bootstrap.iqm, 6)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(statistic: bootstrap.Statistic, seeds: int) -> None:
    rng = np.random.default_rng(7)
    holds = []
    for _ in range(250):
        scores = crossed(rng, seeds, 60, 0.1, 0.5)
        found = statistic_interval(statistic, scores, seed_draws(seeds, 200, rng), example_weights(60, 200, rng))
        assert found.low is not None and found.high is not None
        holds.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(holds) <= 0.99


def test_profile_is_the_share_of_runs_above_each_threshold() -> None:
    band = profile(np.array([1.0, 2.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0, 4.0]), np.array([[0, 1, 2, 3]]), None)
    assert band.share.tolist() == [1, 0.75, 0.25, 0]
    assert band.low.tolist() == band.high.tolist() == band.share.tolist()


def test_a_run_on_a_threshold_is_above_it_in_no_replicate() -> None:
    # Weights a rounding error from a half, so replicates are a rounding error from the threshold, on either side.
    rng = np.random.default_rng(9)
    scores = np.tile([0.1, 0.9], (3, 1))
    weights = np.full((2, 200), 0.5, np.float32)
    weights[0, ::2] -= np.float32(6e-8)
    band = profile(scores, np.array([0.5]), seed_draws(3, 200, rng), weights)
    assert (band.share.item(), band.high.item()) == (0, 0)


def test_profiles_band_is_the_replicates_percentiles() -> None:
    # Of two runs, one above: the share is binomial(2, 1/2)/2 over draws, so 0.9 of replicates are between 0 and 1, and
    # the middle 0.4 of them are at 1/2.
    draws = seed_draws(2, 4_000, np.random.default_rng(8))
    wide = profile(np.array([0.0, 1.0]), np.array([0.5]), draws, None, 0.9)
    narrow = profile(np.array([0.0, 1.0]), np.array([0.5]), draws, None, 0.4)
    assert (wide.low.item(), wide.high.item()) == (0, 1)
    assert (narrow.low.item(), narrow.high.item()) == (0.5, 0.5)


def test_profile_of_scores_moves_with_the_examples() -> None:
    rng = np.random.default_rng(9)
    scores = np.tile(rng.integers(0, 2, 40).astype(float), (3, 1))
    threshold = np.array([scores.mean() - 1e-3])
    band = profile(scores, threshold, seed_draws(3, 500, rng), example_weights(40, 500, rng))
    assert (band.share.item(), band.low.item(), band.high.item()) == (1, 0, 1)
