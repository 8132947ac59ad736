"""The Exponential-Polynomial Root: a seven-parameter density of the masking rate, and its fit (paper, 3.1.1, eq. 5).

    p_EPR(t) ∝ sqrt( a t^r + b (1-t)^q + A^2 exp(2 kappa t^m) )

Shape legend: T grid points.
"""

from dataclasses import dataclass

import numpy as np

from raymdm.diffusion.samplers import Density

# Order: a, b, A, kappa, m, q, r. m > 1 keeps the mean loss flat at t = 0; the scale is fixed by normalising w(t).
LOWER = np.array([0.0, 0.0, 1e-3, 0.0, 1.01, 0.05, 0.05])
UPPER = np.array([100.0, 100.0, 10.0, 8.0, 30.0, 60.0, 60.0])
# Starting points are spread over where fits were seen to end; the optimiser may go on to the bounds above.
START_LOWER = np.array([0.01, 0.01, 0.1, 0.01, 1.05, 0.3, 0.3])
START_UPPER = np.array([3.0, 3.0, 1.5, 3.0, 8.0, 12.0, 12.0])
NODES = 4096
OPTIONS = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 20}


@dataclass(frozen=True)
class EPR:
    """The fitted parameters, in the units of w(t) (nats a token)."""

    a: float
    b: float
    A: float
    kappa: float
    m: float
    q: float
    r: float

    def values(self, t: np.ndarray) -> np.ndarray:
        """The unnormalised density, an estimate of w(t); t in [0, 1], any shape."""
        return np.sqrt(_square(np.array([self.a, self.b, self.A, self.kappa, self.m, self.q, self.r]), t))

    def density(self, eps: float, uniform_mix: float = 0.0) -> Density:
        """The density on (eps, 1], with a share of the uniform one mixed in (a defensive mixture)."""
        # nodes closer together near 0, where t^r may be steep
        nodes = eps + (1 - eps) * np.linspace(0, 1, NODES + 1) ** 2
        nodes[-1] = 1.0
        fitted = Density(nodes, self.values(nodes)).pdf(nodes)
        return Density(nodes, (1 - uniform_mix) * fitted + uniform_mix / (1 - eps))


@dataclass(frozen=True)
class EPRFit:
    """A fit and what it costs. Variances are those of the weighted loss of one sequence (squared nats a token)."""

    epr: EPR
    kl: float
    """KL(p^ || p_EPR), nats, both normalised with the grid's quadrature."""


def rate_grid(size: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints (T,) of cells that cover (eps, 1], and the cells' widths (T,).

    The cells' edges are squares of equal steps: finer near 0, where the weight 1/t gives the second moment of the loss
    most of its size, and equal cells would miss it (method section 4, on measuring `standard`).
    """
    edges = eps + (1 - eps) * np.linspace(0.0, 1.0, size + 1) ** 2
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def _square(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    a, b, big_a, kappa, m, q, r = x
    return a * t**r + b * (1 - t) ** q + big_a**2 * np.exp(2 * kappa * t**m)


def _gradient_of_square(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(7, T): derivatives of the expression under the root."""
    a, b, big_a, kappa, m, q, r = x
    log_t, log_s = np.log(t), np.log1p(-t)
    t_m, exponential = t**m, np.exp(2 * kappa * t**m)
    return np.stack(
        [
            t**r,
            (1 - t) ** q,
            2 * big_a * exponential,
            big_a**2 * exponential * 2 * t_m,
            big_a**2 * exponential * 2 * kappa * t_m * log_t,
            b * (1 - t) ** q * log_s,
            a * t**r * log_t,
        ]
    )


def fit_epr(t: np.ndarray, width: np.ndarray, w: np.ndarray, starts: int, seed: int) -> EPRFit:
    """Fit p_EPR to the empirical optimum p^ ∝ w by minimising KL(p^ || p_EPR): bounded multi-start L-BFGS-B.

    t, width, w: (T,) rates inside (0, 1), quadrature widths and w_j = sqrt(mean of l^2) (not all zero).
    Deterministic for a `seed`. Raises ValueError when a w_j is negative, not finite, or all are zero.
    """
    if not np.all(np.isfinite(w)) or np.any(w < 0) or not np.any(w > 0):
        raise ValueError("calibration: every w(t) must be finite and at least one positive")
    from scipy.optimize import minimize
    from scipy.stats import qmc  # imported here, as training workers read a fit and never make one

    target = w / (w * width).sum()

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        square = np.maximum(_square(x, t), 1e-300)
        mass = (np.sqrt(square) * width).sum()
        value = np.log(mass) - (target * width * 0.5 * np.log(square)).sum()
        difference = (np.sqrt(square) / mass - target) * width
        return value, _gradient_of_square(x, t) @ (0.5 * difference / square)

    sobol = qmc.Sobol(7, rng=np.random.default_rng(seed)).random_base2(int(np.ceil(np.log2(starts))))
    points = qmc.scale(sobol, START_LOWER, START_UPPER)
    bounds = list(zip(LOWER, UPPER, strict=True))
    runs = [
        minimize(objective, x, jac=True, bounds=bounds, method="L-BFGS-B", options=OPTIONS)  # type: ignore[call-overload]
        for x in points[:starts]
    ]
    best = min(runs, key=lambda run: run.fun)
    positive = target > 0
    entropy = (target * width)[positive] @ np.log(target[positive])
    factor = (w * width).sum() / (np.sqrt(_square(best.x, t)) * width).sum()
    a, b, big_a, kappa, m, q, r = best.x
    epr = EPR(*(float(v) for v in (a * factor**2, b * factor**2, big_a * factor, kappa, m, q, r)))
    return EPRFit(epr, float(best.fun + entropy))


def expected_variance(w: np.ndarray, p: np.ndarray, width: np.ndarray, squared_mean: float, eps: float) -> float:
    """V(p) = int w^2 / p dt - L^2 on the grid, for the estimator weighed by the uniform density over (eps, 1].

    w, p, width: (T,), p normalised; squared_mean: L^2, (nats a token)^2.
    """
    second = np.divide(w**2, p, out=np.zeros_like(w), where=w > 0)  # p may be 0 where w is
    return float((second * width).sum() / (1 - eps) ** 2 - squared_mean)
