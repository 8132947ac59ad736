"""The random numbers of a training step: rates and masks, each a function of (seed, step, slot in the global batch).

Shape legend: B sequences of the global batch, S sequences of a slice of it, L positions.
"""

import numpy as np
import torch
from torch import Tensor

from raymdm import keys
from raymdm.config.schema import MethodSpec
from raymdm.diffusion.masking import Masks, draw_masks
from raymdm.diffusion.samplers import Density, count_strata, stratify


def draw_rates(
    method: MethodSpec, density: Density, seed: int, step: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masking rates t (B,) and weights w = 1/p(t) (B,) of a step's global batch.

    Every worker draws them all and takes its slice, so strata hold over the whole batch without communication.
    """
    slots = np.arange(batch_size)
    u = keys.uniforms(seed, "rate", step, slots, 1)[:, 0]
    if method.strata != "none":
        order = keys.uniforms(seed, "strata", step, slots, 1)[:, 0]
        u = stratify(u, order, count_strata(method.strata, batch_size))
    t = density.quantile(u)
    return t, density.weight(t)


def draw_step_masks(
    method: MethodSpec, seed: int, step: int, slots: np.ndarray, t: np.ndarray, eligible: Tensor
) -> Masks:
    """Masks of some slots (S,) of a step's global batch; t: (S,), eligible: (S, L)."""
    u = torch.from_numpy(keys.uniforms(seed, "mask", step, slots, eligible.shape[1]))
    return draw_masks(method.mask, u, torch.from_numpy(t), eligible, method.mirrored)
