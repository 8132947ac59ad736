"""From the moments of a calibration sweep to `density.json`, and back to a sampler (paper, 3.1.1).

Shape legend: T grid points, M sequences.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raymdm.diffusion.epr import EPR, expected_variance, fit_epr, rate_grid
from raymdm.diffusion.moments import GridMoments, decompose_on_grid
from raymdm.diffusion.samplers import Density


def summarise(moments: GridMoments, eps: float, starts: int, uniform_mix: float, seed: int) -> dict[str, Any]:
    """Fit the EPR to a calibration and state what it costs: the content of `density.json`, rates and losses as numbers.

    Every variance is that of the weighted loss of one sequence, squared nats a token: of the density in use, of the
    empirical optimum p^ ∝ w and of the uniform density; `decomposition` splits the first and the last into A, B, C.
    Raises ValueError as `fit_epr` does.
    """
    t, width = rate_grid(moments.count.shape[1], eps)
    w = moments.root_second_moment
    fit = fit_epr(t, width, w, starts, seed)
    density = fit.epr.density(eps, uniform_mix)
    means = (moments.mean * width).sum(1) / (1 - eps)
    # the square of a mean over few sequences is too large by its variance
    squared_mean = float(means.mean() ** 2 - means.var(ddof=1) / len(means))
    uniform = np.full_like(t, 1 / (1 - eps))
    optimum = w / (w * width).sum()
    # the grid's own normalisation, so that the three are compared by one quadrature
    used = density.pdf(t) / (density.pdf(t) * width).sum()
    low, high = density.weight_range()
    return {
        "kind": "epr",
        "params": vars(fit.epr),
        "eps": eps,
        "uniform_mix": uniform_mix,
        "kl": fit.kl,
        "weight_min": low,
        "weight_max": high,
        "mean_loss": float(means.mean()),
        "variance": {
            "epr": expected_variance(w, used, width, squared_mean, eps),
            "optimum": expected_variance(w, optimum, width, squared_mean, eps),
            "uniform": expected_variance(w, uniform, width, squared_mean, eps),
        },
        "decomposition": {
            "epr": decompose_on_grid(moments, width, used, eps)._asdict(),
            "uniform": decompose_on_grid(moments, width, uniform, eps)._asdict(),
        },
        "grid": t.tolist(),
        "w": w.tolist(),
        "fitted": used.tolist(),
        "optimum": optimum.tolist(),
    }


def density_from(summary: Mapping[str, Any]) -> Density:
    """The sampler that a `density.json` describes."""
    return EPR(**summary["params"]).density(summary["eps"], summary["uniform_mix"])


def read_density(path: Path, mask: str) -> Density:
    """Read `density.json`; raises ValueError when it was calibrated for another masking than `mask`."""
    summary = json.loads(path.read_text())
    if summary["mask"] != mask:
        raise ValueError(f"{path} was calibrated for mask {summary['mask']!r}, not {mask!r}: calibrate again")
    return density_from(summary)
