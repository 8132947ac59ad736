"""From moments to density.json and back to a sampler."""

import json
from pathlib import Path

import numpy as np
import pytest

from raymdm.diffusion.calibration import density_from, read_density, summarise
from raymdm.diffusion.epr import EPR, rate_grid
from raymdm.diffusion.moments import GridMoments

EPS = 1e-3
TRUE = EPR(0.8, 0.3, 0.5, 0.9, 2.5, 6.0, 0.9)


@pytest.fixture(scope="module")
def summary() -> dict[str, object]:
    """Losses of +-w(t) around nothing, so that the second moment is w^2 exactly."""
    t, _ = rate_grid(80, EPS)
    w = np.tile(TRUE.values(t), (6, 1))
    moments = GridMoments(np.full((6, 80), 2), np.zeros((6, 80)), 2 * w**2)
    return summarise(moments, EPS, 24, 0.0, 0)


def test_the_optimum_is_proportional_to_w(summary: dict[str, list[float]]) -> None:
    t, width = rate_grid(80, EPS)
    w = TRUE.values(t)
    assert summary["w"] == pytest.approx(w)
    assert summary["optimum"] == pytest.approx(w / (w * width).sum())
    assert summary["fitted"] == pytest.approx(summary["optimum"], rel=1e-3)


def test_variances_are_the_closed_forms(summary: dict[str, dict[str, float]]) -> None:
    t, width = rate_grid(80, EPS)
    w = TRUE.values(t)
    assert summary["variance"]["uniform"] == pytest.approx((w**2 * width).sum() / (1 - EPS))
    assert summary["variance"]["optimum"] == pytest.approx((w * width).sum() ** 2 / (1 - EPS) ** 2)
    assert summary["variance"]["epr"] == pytest.approx(summary["variance"]["optimum"], rel=1e-4)


def test_variance_is_the_sum_of_its_sources() -> None:
    rng = np.random.default_rng(0)
    losses = rng.gamma(2.0, 1.0, (5, 80, 3)) + rng.random((5, 1, 1))
    found = summarise(GridMoments(np.full((5, 80), 3), losses.sum(2), (losses**2).sum(2)), EPS, 8, 0.1, 0)
    for density in ("epr", "uniform"):
        assert sum(found["decomposition"][density].values()) == pytest.approx(found["variance"][density], rel=1e-9)


def test_a_density_read_back_is_the_fitted_one(summary: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "density.json"
    path.write_text(json.dumps(summary | {"mask": "bernoulli"}))
    t = np.linspace(EPS, 1, 50)
    assert read_density(path, "bernoulli").pdf(t) == pytest.approx(density_from(summary).pdf(t))
    assert read_density(path, "bernoulli").weight_range() == pytest.approx(
        (summary["weight_min"], summary["weight_max"])
    )


def test_a_density_of_another_mask_is_refused(summary: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "density.json"
    path.write_text(json.dumps(summary | {"mask": "bernoulli"}))
    with pytest.raises(ValueError, match="fixed_size"):
        read_density(path, "fixed_size")
