"""The training loop: steps, log windows, evaluation, early stopping, checkpoints.

The loop knows nothing of the cluster: a `Worker` tells it its rank, takes its reports and says where checkpoints lie.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from raymdm import keys
from raymdm.data import loading
from raymdm.diffusion import control
from raymdm.errors import UserError
from raymdm.training import health, parallel
from raymdm.training.density import refit, refit_due, search_interval
from raymdm.training.draws import order_seed
from raymdm.training.run import Job, Left, Run, Worker, build
from raymdm.training.step import forward_backward
from raymdm.training.validation import CHUNK, nll_and_error, validation_sums
from raymdm.training.window import Window, step_sums, summarise
from raymdm.training.writer import take

__all__ = ["Job", "Run", "Worker", "build", "train", "train_step"]

LEFT: dict[Left, str] = {"node": "a node goes away", "sweep": "the sweep is stopped"}
"""Why a run leaves, in words."""
REPORT_EVERY_S = 2.0
"""Progress reaches a watcher at most this often between evaluations."""


def train(job: Job, worker: Worker) -> Left:
    """Train one run to its end or to early stopping, from its newest sound checkpoint if it has one.

    Returns why the run left before that, the same on all workers. Its last checkpoint is on storage when this returns,
    and reported. Raises on all workers alike, once what happened is reported: UserError for what would come again,
    StorageError when storage refused.
    """
    with _scratch(worker) as scratch, parallel.group(job.recipe.train, worker):
        run = build(job, worker, scratch)
        with closing(run.writer):
            try:
                return _train(run)
            except UserError:  # all workers come here, or none
                report(run)
                raise


@contextmanager
def _scratch(worker: Worker) -> Iterator[Path]:
    """A temporary folder on each worker. Raises StorageError on all of them where one cannot make it."""
    place = "a temporary folder (TMPDIR)"
    with worker.alike("write", place, lambda: tempfile.TemporaryDirectory(prefix="raymdm-")) as scratch:
        yield Path(scratch)


def _train(run: Run) -> Left:
    settings, state = run.job.recipe.train, run.state
    left: Left = ""
    stopped = _patience_spent(run)
    if not stopped and state.step < run.total_steps:
        report(run)  # whoever stops the sweep waits for runs that are known to train
        settle_buckets(run)
    last_report = time.monotonic()
    while not (stopped or left) and state.step < run.total_steps:
        left = train_step(run)
        if refit_due(run):
            refit(run)
        at_end, report_due = state.step == run.total_steps, False
        if state.step % settings.log_every == 0 or at_end:
            report_due = close_window(run, time.monotonic() - last_report > REPORT_EVERY_S)
        evaluated = state.step % run.eval_every == 0 or at_end
        if evaluated:
            evaluate(run)
            stopped = _patience_spent(run)
            if stopped and state.step % settings.log_every and not at_end:
                close_window(run, report_due=False)
        if stopped or at_end:
            left = ""
        if evaluated or left or (settings.checkpoint_every and state.step % settings.checkpoint_every == 0):
            checkpoint(run)
        if (report_due or evaluated) and not (stopped or at_end or left):
            report(run)
            last_report = time.monotonic()
    finish_checkpoint(run)
    if left:
        run.event("left", f"{LEFT[left]}: checkpoint at step {state.step}", why=left)
    report(run, left)
    return left


def settle_buckets(run: Run) -> None:
    """A backward pass for nothing, so that every step of a run sums gradients in the same order.

    After its first one DistributedDataParallel sorts its buckets anew. A resumed run would otherwise sum the gradients
    of its first step in another order than the uninterrupted run did, which rounds differently with three workers.
    """
    if not isinstance(run.model, nn.parallel.DistributedDataParallel):
        return
    row, worker = np.zeros(run.inputs.batch_size, dtype=np.int64), run.worker
    forward_backward(run.model, run.train, row, 0, run.inputs, slice(0, 1), 1, worker.world_size, worker.device)
    run.optimizer.zero_grad(set_to_none=True)


def train_step(run: Run) -> Left:
    """One optimiser step; adds to the open log window. A step that is not finite is skipped, and counts all the same.

    Returns what the run leaves for, where a worker was told to. Raises on all workers: UserError when too many steps
    were skipped, StorageError when a checkpoint could not be written.
    """
    started = time.perf_counter()
    worker, state, settings = run.worker, run.state, run.job.recipe.train
    slots = worker.slots(settings.global_batch_size)
    order = order_seed(run.job.recipe, run.job.seed)
    indices = loading.batch_indices(len(run.train), settings.global_batch_size, state.step, order)
    sums, binned, losses = _backward(run, indices, slots)
    gradient = parallel.clip_gradients(run.denoiser.parameters(), settings.max_grad_norm, worker)
    found = torch.cat([gradient.double().view(1), sums, binned.flatten()]).cpu()  # the one wait for the device
    norm, sums = float(found[0]), found[1:7]
    agreed = health.agree(run, norm, sums, found[7:].view_as(binned))
    if agreed.finite:
        _update(run, agreed)
    run.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.model_rows += settings.global_batch_size * run.inputs.method.views
    seconds = time.perf_counter() - started
    state.seconds += seconds
    if agreed.finite:
        added = step_sums(sums, norm, settings.max_grad_norm, seconds, worker.world_size)
        state.window = (torch.tensor(state.window, dtype=torch.float64) + added).tolist()
        state.norm_max = max(state.norm_max, norm)
        health.watch(run, agreed.loss, indices)
    else:
        message = health.skip(run, indices, slots, losses, norm)
        if state.skipped_steps > settings.max_skipped_steps:
            raise health.too_many(run, message)
    return _heed(run, agreed)


def _backward(run: Run, indices: np.ndarray, slots: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a step's batch (B,) from this worker's slots; returns what `forward_backward` does."""
    worker, state, settings = run.worker, run.state, run.job.recipe.train
    torch.manual_seed(keys.derive_seed(run.job.seed, "dropout", state.step, worker.rank))
    micro = settings.micro_batch_size or settings.global_batch_size
    offsets = None if state.ema is None else control.offsets(np.array(state.ema))
    return forward_backward(
        run.model, run.train, indices, state.step, run.inputs, slots, micro, worker.world_size, worker.device, offsets,
        parallel.passes(settings, worker.world_size),
    )  # fmt: skip


def _update(run: Run, agreed: health.Agreed) -> None:
    """Move the weights, and the averages of a method that has them."""
    state, settings = run.state, run.job.recipe.train
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, run.total_steps, settings.lr, settings.warmup_steps, settings.schedule)
    run.optimizer.step()
    if state.ema is not None:
        state.ema = control.update(np.array(state.ema), *agreed.binned.numpy()).tolist()


def _heed(run: Run, agreed: health.Agreed) -> Left:
    """Stop where storage failed; what the run leaves for, the same on all workers."""
    if agreed.storage_failed:
        finish_checkpoint(run)
    if not agreed.notices:
        return ""
    own = float(run.worker.notice() == "sweep")
    return "sweep" if run.worker.sum(torch.tensor([own], dtype=torch.float64)).item() else "node"


def learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int, schedule: str) -> float:
    """Learning rate of a step: linear warm-up, then linear decay to 0 at `total_steps`, or none."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    return peak * (total_steps - step) / max(1, total_steps - warmup_steps)


def close_window(run: Run, report_due: bool) -> bool:
    """Turn the open log window into a record, unless all its steps were skipped.

    Returns rank 0's `report_due`, the same on all workers.
    """
    state = run.state
    flag = float(report_due and run.worker.rank == 0)
    *sums, due = run.worker.sum(torch.tensor([*state.window, flag], dtype=torch.float64)).tolist()
    window = Window(*sums)
    if not window.steps:
        return due > 0
    settings = run.job.recipe.train
    metrics = summarise(window, state.norm_max)
    lr = learning_rate(state.step - 1, run.total_steps, settings.lr, settings.warmup_steps, settings.schedule)
    run.record(
        {
            "step": state.step,
            **metrics,
            "train/loss_spikes": state.window_spikes,
            "train/lr": lr,
            "train/model_rows": state.model_rows,
            "train/seconds": state.seconds,
        }
    )
    state.close_window(window, metrics)
    return due > 0


def evaluate(run: Run) -> None:
    """Validation NLL on the fixed draws; notes whether it is the best, and searches where a method asks for it.

    Raises UserError when the NLL is not finite.
    """
    job, worker, state = run.job, run.worker, run.state
    sums = validation_sums(
        run.denoiser, run.validation, run.inputs.method, (run.inputs.mask_id, run.inputs.pad_id),
        job.recipe.train.validation_draws, job.recipe.data.seed, (worker.rank, worker.world_size), worker.device,
        min(CHUNK, 4 * (job.recipe.train.micro_batch_size or CHUNK)),  # without a backward pass more fits
    )  # fmt: skip
    nll, error = nll_and_error(worker.sum(sums), len(run.validation))
    if not math.isfinite(nll):
        raise UserError(f"the run diverged: validation NLL is {nll} at step {state.step}; lower train.lr")
    run.record({"step": state.step, "val/nll": nll, **({} if error is None else {"val/nll_se": error})})
    if state.best_nll is None or nll < state.best_nll:
        state.best_nll, state.best_step, state.evaluations_without_gain = nll, state.step, 0
    else:
        state.evaluations_without_gain += 1
    if run.inputs.method.clip_search and state.step < run.total_steps:
        search_interval(run)


def checkpoint(run: Run) -> None:
    """Copy the run's state, which rank 0 writes while training goes on. Raises StorageError on all workers when the
    checkpoint before could not be written."""
    finish_checkpoint(run)
    state = run.state
    state.windows_open = run.worker.gather(torch.tensor(state.window, dtype=torch.float64)).tolist()
    rank_0 = run.worker.rank == 0
    if rank_0:
        state.records = run.history
    if isinstance(run.model, FSDPModule):
        run.model.reshard()  # an evaluation leaves the outermost weights whole
    if rank_0 or isinstance(run.model, FSDPModule):
        snapshot = take(run.denoiser.model, run.optimizer, state, keep=rank_0)
        if rank_0:
            run.writer.begin(snapshot)
    state.windows_open = []


def finish_checkpoint(run: Run) -> None:
    """Wait until the checkpoint begun last is on storage. Raises StorageError on all workers when it is not."""
    run.worker.raise_alike(run.writer.ended() if run.worker.rank == 0 else None)


def report(run: Run, left: Left = "") -> None:
    """Hand progress, and the records and events since the last report, to whoever watches; and why the run leaves."""
    state = run.state
    losses = [record["train/loss"] for record in run.records if "train/loss" in record]
    metrics: dict[str, Any] = {
        "phase": "training",
        "step": state.step,
        "total_steps": run.total_steps,
        "loss": losses[-1] if losses else None,
        "best_nll": state.best_nll,
        "seconds": state.seconds,
        "records": run.records,
        "events": run.events,
        "left": left,
    }
    run.worker.report(metrics)
    run.records, run.events = [], []


def _patience_spent(run: Run) -> bool:
    patience = run.job.recipe.train.patience
    return patience is not None and run.state.evaluations_without_gain >= patience
