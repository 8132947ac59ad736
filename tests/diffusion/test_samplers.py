"""Densities, their weights and strata."""

import numpy as np
import pytest
from scipy import integrate, stats

from raymdm.diffusion.epr import EPR
from raymdm.diffusion.samplers import Density, count_strata, stratify

EPRS = [EPR(0.8, 0.3, 0.5, 0.9, 2.5, 6.0, 0.9), EPR(2.0, 1.0, 0.1, 0.0, 2.0, 40.0, 0.2)]


def _densities() -> list[Density]:
    return [Density.uniform(1e-3), Density.uniform(0.0), *(epr.density(1e-3) for epr in EPRS), EPRS[0].density(0, 0.5)]


@pytest.mark.parametrize("density", _densities())
def test_density_integrates_to_one(density: Density) -> None:
    assert integrate.quad(density.pdf, density.eps, 1, limit=500)[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("density", _densities())
def test_mean_weight_is_one(density: Density) -> None:
    u = (np.arange(200_000) + 0.5) / 200_000
    assert density.weight(density.quantile(u)).mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("density", _densities())
def test_draws_follow_the_density(density: Density) -> None:
    t = density.quantile(np.random.default_rng(0).uniform(size=20_000))
    edges = np.linspace(density.eps, 1, 2001)
    cdf = np.concatenate([[0], integrate.cumulative_trapezoid(density.pdf(edges), edges)])
    assert stats.kstest(t, lambda x: np.interp(x, edges, cdf)).pvalue > 0.001


@pytest.mark.parametrize("density", _densities())
def test_the_whole_range_can_be_drawn(density: Density) -> None:
    t = density.quantile(np.array([1e-12, 1 - 1e-12]))
    assert density.eps <= t[0] < density.eps + 1e-6
    assert 1 - 1e-6 < t[1] <= 1


def test_weighted_mean_of_a_function_is_its_uniform_mean() -> None:
    density, u = EPRS[0].density(1e-3), (np.arange(200_000) + 0.5) / 200_000
    t = density.quantile(u)
    expected = integrate.quad(lambda x: np.sin(5 * x) / (1 - 1e-3), 1e-3, 1)[0]
    assert (density.weight(t) * np.sin(5 * t)).mean() == pytest.approx(expected, abs=1e-6)


def test_uniform_mix_bounds_the_weights() -> None:
    steep = EPR(5.0, 0.0, 0.05, 0.0, 2.0, 1.0, 1.5)
    assert steep.density(1e-3).weight_range()[1] > 4
    assert steep.density(1e-3, uniform_mix=0.5).weight_range()[1] <= 2


@pytest.mark.parametrize(
    ("nodes", "values"),
    [([0, 1], [1, 0]), ([0, 1], [1, np.nan]), ([0, 0.9], [1, 1]), ([0, 0, 1], [1, 1, 1]), ([0, 1], [1, 1, 1])],
)
def test_impossible_densities_are_refused(nodes: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="density"):
        Density(np.array(nodes), np.array(values))


@pytest.mark.parametrize(("strata", "expected"), [("none", 1), ("sqrt", 5), ("batch", 32)])
def test_number_of_strata(strata: str, expected: int) -> None:
    assert count_strata(strata, 32) == expected


@pytest.mark.parametrize(("size", "strata"), [(32, 5), (32, 32), (7, 3)])
def test_every_stratum_gets_its_draws(size: int, strata: int) -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount((stratify(rng.random(size), rng.random(size), strata) * strata).astype(int), minlength=strata)
    assert counts.min() >= size // strata
    assert counts.sum() == size


def test_a_stratified_draw_alone_is_uniform() -> None:
    rng = np.random.default_rng(0)
    first = [stratify(rng.random(7), rng.random(7), 3)[0] for _ in range(5000)]
    assert stats.kstest(first, "uniform").pvalue > 0.001
