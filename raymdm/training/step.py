"""One optimiser step: forward and backward over this worker's slice of the global batch.

Shape legend: B sequences of the global batch, S of them on this worker, L positions, V views, D rates a sequence.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raymdm.config.schema import MethodSpec
from raymdm.data.loading import Batch, Split
from raymdm.diffusion.control import BINS, bins_of
from raymdm.diffusion.masking import Masks
from raymdm.diffusion.objective import autoregressive_losses, loss_sums, noise, sequence_losses
from raymdm.diffusion.samplers import Density
from raymdm.models.checks import check_tokens
from raymdm.models.loss_head import LossHead
from raymdm.models.precision import precision
from raymdm.training.draws import draw_rates, draw_step_masks


def diffusion_forward(
    model: nn.Module,
    batch: Batch,
    masks: Masks,
    mask_id: int,
    device: torch.device,
    loss_head: LossHead = "chunked",
) -> Tensor:
    """The losses l (D, S) of noised sequences without 1/p(t), all views in one forward pass."""
    noised = noise(batch.input_ids, masks, mask_id)
    attention = batch.attention_mask.repeat(len(masks.mask), 1)
    noised = type(noised)(*(part.to(device) for part in noised))
    cross_entropy = model(noised.input_ids, attention.to(device), noised.targets, noised.labels, loss_head)
    return sequence_losses(cross_entropy, noised, Masks(*(part.to(device) for part in masks)))


def autoregressive_forward(
    model: nn.Module, batch: Batch, device: torch.device, loss_head: LossHead = "chunked"
) -> Tensor:
    """The mean next-token losses (S,) of the responses."""
    check_tokens(model, int(batch.input_ids.max()))
    batch = Batch(*(part.to(device) for part in batch))
    labels, rows = batch.input_ids[batch.response_mask], batch.response_mask.nonzero()[:, 0]
    cross_entropy = model(batch.input_ids, batch.attention_mask, batch.response_mask, labels, loss_head)
    return autoregressive_losses(cross_entropy, rows, len(batch.input_ids))


@dataclass(frozen=True)
class StepInputs:
    """What every step of a run needs; between steps, only a refit or a search changes the density."""

    method: MethodSpec
    density: Density
    """Draws the rates, and gives them their weights."""
    seed: int
    batch_size: int
    """B, sequences of the global batch."""
    mask_id: int
    pad_id: int
    loss_head: LossHead = "chunked"
    """What computes the cross-entropies that carry the gradient."""
    group_by_length: bool = True
    """Whether a worker's micro-batches hold sequences of similar length."""


def forward_backward(
    model: nn.Module,
    split: Split,
    indices: np.ndarray,
    step: int,
    inputs: StepInputs,
    slots: slice,
    micro_batch_size: int,
    world_size: int,
    device: torch.device,
    offsets: np.ndarray | None = None,
    passes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accumulate the gradient of the global batch's mean weighted loss from this worker's slots.

    indices: (B,) rows of `split` that make the global batch. The loss is divided by B, not by the micro-batch, and
    multiplied by the number of workers because DDP averages gradients: unequal slices change nothing.
    offsets: (10,), what the losses of each bin of t are reported without (EMA); the gradient does not know of them.
    passes: micro-batches that all workers do, for sharded ones exchange weights in each: those beyond this worker's
    slots add zeros to the gradient. None: as many as the slots need.
    Returns the sums (6,) of `loss_sums` over the slots; with offsets, number and sum of the losses in each bin, (2,
    10), without, zeros; and the slots' weighted losses (S,).
    """
    rates = weights = np.ones((1, inputs.batch_size))
    if inputs.method.family == "mdm":
        rates, weights = draw_rates(inputs.method, inputs.density, inputs.seed, step, inputs.batch_size)
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    binned = torch.zeros(2, BINS, dtype=torch.float64, device=device)
    carried = torch.zeros(slots.stop - slots.start, device=device)
    parts = _micro_batches(split, indices, slots, micro_batch_size, inputs.group_by_length)
    passes = max(len(parts), passes or 0)
    for number, part in enumerate(parts, start=1):
        batch = split.batch(indices[part], inputs.pad_id)
        with _exchange(model, last=number == passes), precision(device):
            losses = _losses(model, batch, inputs, step, part, rates[:, part], device)
            weight = torch.from_numpy(weights[:, part]).to(device, torch.float32)
            weighted = (weight * losses).mean(0)
            (weighted.sum() * (world_size / inputs.batch_size)).backward()
        carried[torch.from_numpy(part - slots.start).to(device)] = weighted.detach().float()
        reported = None
        if offsets is not None:
            bins = torch.from_numpy(bins_of(rates[0, part])).to(device)
            reported = losses.detach().double() - torch.from_numpy(offsets).to(device)[bins]
            binned += _bin_sums(losses.detach()[0], bins)
        sums += loss_sums(losses, weight, reported)
    for number in range(len(parts) + 1, passes + 1):
        with _exchange(model, last=number == passes), precision(device):
            _pass_for_nothing(model, split, indices, step, inputs, rates, device)
    return sums, binned, carried


def _micro_batches(
    split: Split, indices: np.ndarray, slots: slice, size: int, group_by_length: bool
) -> list[np.ndarray]:
    """A worker's slots, `size` at a time: in their order, or the longest sequences first.

    Draws are keyed by slot, so the order changes nothing but how sums round.
    """
    mine = np.arange(slots.start, slots.stop)
    if group_by_length and len(mine) > size:
        mine = mine[np.argsort([-len(split.input_ids[row]) for row in indices[mine]], kind="stable")]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def _pass_for_nothing(
    model: nn.Module,
    split: Split,
    indices: np.ndarray,
    step: int,
    inputs: StepInputs,
    rates: np.ndarray,
    device: torch.device,
) -> None:
    """Forward and backward on the global batch's shortest sequence; the gradient is zero."""
    slot = np.array([min(range(len(indices)), key=lambda slot: len(split.input_ids[indices[slot]]))])
    batch = split.batch(indices[slot], inputs.pad_id)
    (_losses(model, batch, inputs, step, slot, rates[:, slot], device).sum() * 0).backward()


def _bin_sums(losses: Tensor, bins: Tensor) -> Tensor:
    """Number and sum of the losses (S,) in each bin, (2, 10) float64."""
    values = torch.stack([torch.ones_like(losses), losses]).double()
    return values.new_zeros(2, BINS).index_add(1, bins, values)


def _losses(
    model: nn.Module,
    batch: Batch,
    inputs: StepInputs,
    step: int,
    slots: np.ndarray,
    t: np.ndarray,
    device: torch.device,
) -> Tensor:
    if inputs.method.family == "arm":
        return autoregressive_forward(model, batch, device, inputs.loss_head)[None]
    masks = draw_step_masks(inputs.method, inputs.seed, step, slots, t, batch)
    return diffusion_forward(model, batch, masks, inputs.mask_id, device, inputs.loss_head)


def _exchange(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """DDP exchanges gradients in the last micro-batch only; FSDP in each, or a worker would hold all of them whole."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
