"""The density of the masking rate in training: what it starts as, its refit to the current weights, and the search for
an interval of rates.

Shape legend: M sequences, T rates of the grid, K masks, G (sequence, rate) pairs, N validation sequences.
"""

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from raymdm import keys
from raymdm.config.schema import MethodSpec
from raymdm.data.loading import Split
from raymdm.diffusion.calibration import density_from, read_density, summarise, summarise_gradients
from raymdm.diffusion.epr import normalise, rate_grid
from raymdm.diffusion.fits import kl_between
from raymdm.diffusion.intervals import smallest_variance, stratified_rates
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.moments import GridMoments
from raymdm.diffusion.samplers import Density
from raymdm.errors import UserError
from raymdm.training.measure import Draws, measure_gradients, measure_head_gradients, measure_losses
from raymdm.training.state import RunState

if TYPE_CHECKING:
    from raymdm.training.run import Run

_log = logging.getLogger(__name__)


def calibrated_fit(method: MethodSpec, path: Path | None) -> dict[str, Any] | None:
    """What of a calibrated method's `density.json` says how to draw rates, as `RunState.density` holds it; None of
    other methods. Raises ValueError as `starting_density` does."""
    if path is None:
        return None
    starting_density(method, path)
    summary = json.loads(path.read_text())
    kind = summary["kind"]
    fit = summary["fits"][kind] if "fits" in summary else summary
    return {"kind": kind, "params": fit["params"], "eps": summary["eps"], "uniform_mix": summary["uniform_mix"]}


def starting_density(method: MethodSpec, path: Path | None) -> Density:
    """The density that a method starts with; path: the `density.json` of a calibrated one.

    Raises ValueError when it was calibrated for another method.
    """
    assert (path is not None) == method.calibrated
    eps = smallest_rate(method.mask)
    if path is not None:
        return read_density(path, method.calibration)
    if method.density == "bell":
        return Density.bell(eps, method.bell_mean, method.bell_std)
    if method.density == "clipped" and not method.clip_search:
        return Density.uniform(max(method.clip_low, eps), method.clip_high)
    return Density.uniform(eps)


def density_in_force(method: MethodSpec, path: Path | None, state: RunState) -> Density:
    """The density that draws the next step's rates: the run's latest refit or search, what it began with, or, before
    that is known, what the method starts with.

    Raises ValueError as `starting_density` does.
    """
    if state.fit is not None:
        return density_from(state.fit)
    if state.interval is not None:
        return Density.uniform(*state.interval)
    if state.density is not None:
        return density_from(state.density)
    return starting_density(method, path)


def refit_due(run: "Run") -> bool:
    """Whether the step just done ends with a refit; the run's last does not."""
    every, step = run.job.recipe.train.refit_every, run.state.step
    return every is not None and run.inputs.method.calibrated and step % every == 0 and step < run.total_steps


def refit(run: "Run") -> None:
    """Fit the density anew to the current weights (method section 4, Refit), on the run's workers.

    Measured and fitted as a calibration is, on sequences and masks drawn for this step alone; rank 0 warns of a poor
    fit as a calibration does. Recorded: the KL from the old density to the new one and from the measurements to the
    fit (nats), and what the old, the new and the uniform density make of the second moment of the weighted loss,
    (nats a token)^2, or of the gradient's norm.
    Raises UserError naming the example when a measurement is not finite.
    """
    started = time.perf_counter()
    settings, method, step = run.job.recipe.calibrate, run.inputs.method, run.state.step
    eps, seed = smallest_rate(method.mask), keys.derive_seed(settings.seed, "refit", step)
    t, width = rate_grid(settings.grid, eps)
    moments = _measure_grid(run, t, seed)
    fit_seed = keys.derive_seed(seed, "fit")
    if method.density == "g_pots":
        summary = summarise_gradients(
            moments, eps, settings.starts, settings.gradient_uniform_mix, fit_seed, method.fit
        )
    else:
        summary = summarise(moments, eps, settings.starts, settings.uniform_mix, fit_seed, method.fit)
    for warning in summary["warnings"] if run.worker.rank == 0 else ():
        _log.warning("refit at step %d: %s", step, warning)
    kind, old, new = summary["kind"], run.inputs.density, density_from(summary)
    run.inputs = dataclasses.replace(run.inputs, density=new)
    run.state.fit = {
        "kind": kind, "params": summary["fits"][kind]["params"], "eps": eps, "uniform_mix": summary["uniform_mix"]
    }  # fmt: skip
    seconds = time.perf_counter() - started
    run.state.seconds += seconds
    w, densities = moments.root_second_moment, {"old": old, "new": new, "uniform": Density.uniform(eps)}
    run.record(
        {
            "step": step,
            "drift/kl": kl_between(old, new),
            "drift/fit_kl": summary["kl"],
            **{f"drift/second_moment_{name}": _second_moment(w, p, t, width) for name, p in densities.items()},
            "drift/weight_max": new.weight_range()[1],
            "drift/rows": int(moments.count.sum()) * method.row.views,
            "drift/seconds": seconds,
        }
    )


def search_interval(run: "Run") -> None:
    """Take the interval of rates whose losses on the validation split vary least (method section 3, Clipped).

    Every validation sequence gets `train.validation_draws` draws, whose rates cover (eps, 1] evenly together. Recorded:
    the interval's ends and the variance of the losses in it, (nats a token)^2.
    Raises UserError when there is a single draw, or naming the example when a loss is not finite.
    """
    started = time.perf_counter()
    method, step, count = run.inputs.method, run.state.step, len(run.validation)
    eps, repeats = smallest_rate(method.mask), run.job.recipe.train.validation_draws
    if count * repeats < 2:
        raise UserError("clip_search: one validation draw has no variance. Raise train.validation_draws")
    u, order = keys.uniforms(run.job.seed, "search", step, np.arange(count * repeats), 2).T
    t = stratified_rates(u, order, eps)
    pairs = np.tile(np.arange(count), repeats), t[None], np.repeat(np.arange(repeats), count)
    draws = Draws(method.row, *pairs, 1, keys.derive_seed(run.job.seed, "search", step), "search-mask")
    losses = _measure(run, run.validation, draws, "none")[:, 0]
    (low, high), variance = smallest_variance(t, losses, eps)
    run.inputs = dataclasses.replace(run.inputs, density=Density.uniform(low, high))
    run.state.interval = [low, high]
    run.state.seconds += time.perf_counter() - started
    run.record({"step": step, "train/clip_low": low, "train/clip_high": high, "train/clip_variance": variance})


def _measure_grid(run: "Run", t: np.ndarray, seed: int) -> GridMoments:
    """Moments of the loss, or of the gradient's norm, at rates t (T,), as much of them as a calibration measures."""
    method = run.inputs.method
    gradient, sequences, masks = run.job.recipe.calibrate.effort(method)
    rows = keys.generator(seed, "sequences").choice(len(run.train), min(sequences, len(run.train)), replace=False)
    pairs = np.repeat(rows, len(t)), np.tile(t, len(rows))[None], np.tile(np.arange(len(t)), len(rows))
    sizes = _measure(run, run.train, Draws(method.row, *pairs, masks, seed, "refit"), gradient)
    sizes = sizes.reshape(len(rows), len(t), masks)
    return GridMoments(np.full(sizes.shape[:2], masks), sizes.sum(2), (sizes**2).sum(2))


def _measure(run: "Run", split: Split, draws: Draws, gradient: Literal["none", "exact", "head"]) -> np.ndarray:
    """Losses (`none`), norms of gradients or their bounds (`head`), (G, K) float64; the same on every worker.

    The workers take turns at batches that do not depend on their number, so neither does the result.
    """
    size = max(1, run.job.recipe.calibrate.batch_size // (draws.masks * draws.method.views))
    found = torch.zeros(len(draws.rows), draws.masks, dtype=torch.float64)
    ids, worker = (run.inputs.mask_id, run.inputs.pad_id), run.worker
    for start in range(0, len(draws.rows), size)[worker.rank :: worker.world_size]:
        part = slice(start, start + size)
        some = dataclasses.replace(draws, rows=draws.rows[part], t=draws.t[:, part], index=draws.index[part])
        where = run.denoiser, split, some, ids, worker.device
        if gradient == "exact":
            sizes = np.sqrt(measure_gradients(*where).squares)
        else:
            sizes = measure_losses(*where) if gradient == "none" else measure_head_gradients(*where)
        found[part] = torch.from_numpy(sizes)
    run.denoiser.train()
    run.state.measured_rows += found.numel() * draws.method.views
    sizes = worker.sum(found).numpy()
    broken = np.flatnonzero(~np.isfinite(sizes).all(1))
    if len(broken):
        name, pair = "loss" if gradient == "none" else "gradient", broken[0]
        raise UserError(
            f"step {run.state.step}: the {name} of example {split.example_ids[draws.rows[pair]]} at "
            f"t = {draws.t[0, pair]:.4f} is not finite ({len(broken)} of {len(sizes)} measurements are not): look at "
            "this row, or lower train.lr"
        )
    return sizes


def _second_moment(w: np.ndarray, density: Density, t: np.ndarray, width: np.ndarray) -> float:
    """int w^2 / p dt, for weights against the uniform density; w, t, width: (T,)."""
    p = normalise(density.pdf(t), width)
    return float((w**2 / p * width).sum() / (1 - density.eps) ** 2)
