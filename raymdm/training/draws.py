"""The random numbers of a training step: rates and masks, each a function of (seed, step, slot in the global batch).

Shape legend: B sequences of the global batch, S sequences of a slice of it, L positions, V views, D rates a sequence.
"""

import numpy as np
import torch

from raymdm import keys
from raymdm.config.schema import MethodSpec, Recipe
from raymdm.data.loading import Batch, eligible_tokens
from raymdm.diffusion.masking import Masks, draw_masks
from raymdm.diffusion.samplers import Density, count_strata, stratify


def order_seed(recipe: Recipe, seed: int) -> int:
    """What the order of the training rows depends on; seed: the run's, which `train.order_seed: run` takes."""
    return recipe.data.seed if recipe.train.order_seed == "data" else keys.derive_seed(seed, "order")


def draw_rates(
    method: MethodSpec, density: Density, seed: int, step: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masking rates t (D, B) and weights w = 1/p(t) (D, B) of a step's global batch.

    Every worker draws them all and takes its slice, so strata hold over the whole batch without communication.
    """
    slots = np.arange(batch_size)
    rates = method.views if method.view_rates == "stratified" else 1
    strata = count_strata(method.strata, batch_size)
    u = np.stack([keys.uniforms(seed, "rate", step, slots, 1, draw)[:, 0] for draw in range(rates)])
    if strata > 1:
        order = [keys.uniforms(seed, "strata", step, slots, 1, draw)[:, 0] for draw in range(rates)]
        u = np.stack([stratify(*row, strata) for row in zip(u, order, strict=True)])
    t = density.quantile((np.arange(rates)[:, None] + u) / rates)
    return t, density.weight(t) if method.weight == "importance" else np.ones_like(t)


def draw_step_masks(
    method: MethodSpec,
    seed: int,
    step: int | np.ndarray,
    slots: np.ndarray,
    t: np.ndarray,
    batch: Batch,
    purpose: str = "mask",
    draw: int | np.ndarray = 0,
) -> Masks:
    """Masks of some slots (S,) of a step's global batch; t: (D, S). `draw` tells several draws of a slot apart."""
    numbers = method.views if method.coupling == "independent" else 1
    length = batch.input_ids.shape[1]
    u = [keys.uniforms(seed, purpose, step, slots, length, draw * numbers + view) for view in range(numbers)]
    return draw_masks(
        method.mask,
        method.coupling,
        torch.from_numpy(np.stack(u)),
        torch.from_numpy(t),
        eligible_tokens(batch, method.eligible),
        method.views,
        batch.delimiter_mask if method.delimiter_factor > 1 else None,
        method.delimiter_factor,
        method.control if method.control_variate == "nested" else 0.0,
    )
