"""Validation NLL on one fixed set of draws, the same for every method, seed and step.

Shape legend: N validation sequences, D draws each, S sequences of a chunk, L positions.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from raymdm import keys
from raymdm.config.schema import MethodSpec
from raymdm.data.loading import Split
from raymdm.diffusion.masking import draw_masks
from raymdm.models.precision import precision
from raymdm.training.step import autoregressive_forward, diffusion_forward

CHUNK = 64
GOLDEN = (5**0.5 - 1) / 2


def fixed_rates(example: np.ndarray, draw: int, draws: int, data_seed: int) -> np.ndarray:
    """Rates of the validation draws, (S,): a golden-ratio sequence over (example, draw), which covers (0, 1) evenly."""
    start = keys.uniforms(data_seed, "validation-rate", 0, np.zeros(1), 1)[0, 0]
    return 1.0 - (start + (example * draws + draw) * GOLDEN) % 1.0


def nll_and_error(sums: Tensor, sequences: int) -> tuple[float, float | None]:
    """Validation NLL and its standard error over sequences, nats a token; of a single sequence there is none.

    sums: (3,) of `validation_sums` over all workers.
    """
    total, count, squares = sums.tolist()
    nll = total / count
    if sequences < 2:
        return nll, None
    return nll, math.sqrt(max(0.0, squares / sequences - nll * nll) / (sequences - 1))


@torch.no_grad()
def validation_sums(
    model: nn.Module,
    split: Split,
    method: MethodSpec,
    ids: tuple[int, int],
    draws: int,
    data_seed: int,
    share: tuple[int, int],
    device: torch.device,
    chunk: int | None = None,
) -> Tensor:
    """Three sums over one worker's share (rank, world size), (3,) float64: the losses of all draws, their number, and
    the squares of the sequences' mean losses.

    An MDM's loss is the bound on the NLL per token with fixed-size masks (method section 4), which needs few draws;
    an ARM's is its NLL per token itself. ids: (mask_id, pad_id); chunk: sequences a pass (default:
    CHUNK). Every worker does as many forward passes as the one with most to do: sharded workers exchange weights in
    each.
    """
    (rank, world_size), chunk = share, chunk or CHUNK
    mask_id, pad_id = ids
    mine = np.arange(rank, len(split), world_size)
    total = torch.zeros(3, dtype=torch.float64, device=device)
    draws = draws if method.family == "mdm" else 1
    model.eval()
    for start in range(0, math.ceil(len(split) / world_size), chunk):
        own = mine[start : start + chunk]
        rows = own if len(own) else np.zeros(1, dtype=np.int64)  # a pass for the other workers' sake
        batch = split.batch(rows, pad_id)
        means = torch.zeros(len(own), dtype=torch.float64, device=device)
        for draw in range(draws):
            with precision(device):
                if method.family == "arm":
                    losses = autoregressive_forward(model, batch, device)
                else:
                    u = keys.uniforms(data_seed, "validation-mask", 0, rows, batch.input_ids.shape[1], draw)
                    t = fixed_rates(rows, draw, draws, data_seed)
                    noise = torch.from_numpy(u)[None], torch.from_numpy(t)[None]
                    masks = draw_masks("fixed_size", "independent", *noise, batch.response_mask)
                    losses = diffusion_forward(model, batch, masks, mask_id, device)[0]
            losses = losses[: len(own)].double()
            total[0] += losses.sum()
            total[1] += len(losses)
            means += losses / draws
        total[2] += means.square().sum()
    model.train()
    return total
