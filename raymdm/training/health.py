"""Steps whose numbers are not finite, and losses far out of line.

The losses of the method `standard` carry weights like 1/t, whose tail is heavy: now and then a batch draws a tiny t and
its loss stands far above the others without anything being wrong. So a spike is written down, for whoever looks for the
cause of a bad run, and changes nothing. A NaN or an infinity would spoil the weights for good: that step is skipped.

Shape legend: B sequences of the global batch, S of them on this worker, D rates a sequence.
"""

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raymdm.errors import UserError
from raymdm.training.draws import draw_rates

if TYPE_CHECKING:
    from raymdm.training.run import Run

RECENT = 64
"""Losses that a step's is compared to."""
ENOUGH = 32
"""Losses without which nothing is called a spike."""
SPIKE = 8 * 1.4826
"""Median absolute deviations above the median: 8 standard deviations if losses were normal."""


class Agreed(NamedTuple):
    """What all workers know of a step after one small sum."""

    finite: bool
    """Gradient norm and losses of all workers."""
    notices: int
    """Workers that were told to leave."""
    storage_failed: bool
    """Whether rank 0's latest checkpoint could not be written."""
    loss: float
    """Mean weighted loss of the global batch."""
    binned: Tensor
    """(2, 10): number and sum of the losses in each bin of t, over all workers."""


def agree(run: "Run", norm: float, sums: Tensor, binned: Tensor) -> Agreed:
    """Sum over the workers what decides how this step ends.

    norm: of the gradient; sums: (6,) of `loss_sums`, binned: (2, 10), both of this worker and on the CPU.
    """
    finite = math.isfinite(norm) and bool(torch.isfinite(sums).all())
    failed = run.writer.problem is not None
    own = torch.tensor([not finite, bool(run.worker.notice()), failed, sums[4].item()], dtype=torch.float64)
    total = run.worker.sum(torch.cat([own, binned.flatten()]))
    broken, notices, failures, loss = total[:4].tolist()
    mean = loss / run.inputs.batch_size
    return Agreed(broken == 0, int(notices), failures > 0, mean, total[4:].view_as(binned))


def watch(run: "Run", loss: float, indices: np.ndarray) -> None:
    """Compare a step's loss to the latest ones and take it in; a spike becomes an event. indices: (B,) of the batch."""
    state = run.state
    if len(state.recent_losses) >= ENOUGH:
        median = statistics.median(state.recent_losses)
        deviation = statistics.median(abs(other - median) for other in state.recent_losses)
        if loss > median + SPIKE * deviation > median:  # where most losses are the same there is no scale
            state.loss_spikes += 1
            state.window_spikes += 1
            run.event(
                "loss_spike",
                f"step {state.step}: loss {loss:.4g}, far above the median {median:.4g} of the {RECENT} before",
                loss=loss, median=median, mad=deviation, example_ids=run.train.example_ids[indices].tolist(),
            )  # fmt: skip
    state.recent_losses = [*state.recent_losses[1 - RECENT :], loss]


def skip(run: "Run", indices: np.ndarray, slots: slice, losses: Tensor, norm: float) -> str:
    """Count a step that is not finite and write down all that tells why; returns the event's message.

    indices: (B,) rows of the global batch; losses: (S,), weighted, of this worker's slots; norm: of the gradient.
    """
    state, inputs, key = run.state, run.inputs, run.state.step - 1
    batch = torch.zeros(inputs.batch_size, dtype=torch.float64)
    batch[slots] = losses.double().cpu()
    found = run.worker.sum(batch).numpy()
    t = np.ones((1, inputs.batch_size))
    if inputs.method.family == "mdm":
        t, _ = draw_rates(inputs.method, inputs.density, inputs.seed, key, inputs.batch_size)
    ids, broken = run.train.example_ids[indices], np.flatnonzero(~np.isfinite(found))
    state.skipped_steps += 1
    message = (
        f"step {state.step} was skipped: {_named(ids, t, found, broken)}, gradient norm {norm:.4g}. It comes again "
        f"with method {run.job.method}, seed {inputs.seed}: its rates and masks are keyed by seed, purpose, step {key} "
        "and slot"
    )
    run.event(
        "skipped_step", message, slots=broken.tolist(), slot_example_ids=ids[broken].tolist(),
        slot_losses=[_number(value) for value in found], example_ids=ids.tolist(), rates=t.tolist(),
        grad_norm=_number(norm), method=run.job.method, seed=inputs.seed, data_seed=run.job.recipe.data.seed,
        key_step=key, purposes=["order", "rate", "strata", "mask", "dropout"],
    )  # fmt: skip
    run.record({"step": state.step, "train/skipped_steps": state.skipped_steps})
    return message


def too_many(run: "Run", message: str) -> UserError:
    """What ends a run that skips more steps than its recipe allows. message: of the last one."""
    return UserError(
        f"{run.state.skipped_steps} steps of the run had a loss or gradient that is not finite, more than "
        f"train.max_skipped_steps={run.job.recipe.train.max_skipped_steps}. The last: {message}. Lower train.lr, or "
        "look at these training rows"
    )


def _named(ids: np.ndarray, t: np.ndarray, losses: np.ndarray, broken: np.ndarray) -> str:
    """The slots (of B) whose loss is not finite, in words."""
    if not len(broken):
        return f"all losses are finite (largest: {losses.max():.4g}, training example {ids[losses.argmax()]})"
    some = [
        f"{losses[slot]} for training example {ids[slot]} (slot {slot}, t = "
        f"{', '.join(f'{rate:.4f}' for rate in t[:, slot])})"
        for slot in broken[:8]
    ]
    more = f" and {len(broken) - 8} more" if len(broken) > 8 else ""
    return f"the loss is {', '.join(some)}{more}"


def _number(value: Any) -> float | str:
    """A number that JSON can hold: "nan", "inf" or "-inf" for what it cannot."""
    return float(value) if math.isfinite(value) else str(float(value))
