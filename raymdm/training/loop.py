"""The training loop: steps, log windows, evaluation, early stopping, checkpoints.

The loop knows nothing of the cluster: a `Worker` tells it its rank and takes its reports.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raymdm import keys
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.diffusion.calibration import read_density
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.objective import LossSums
from raymdm.diffusion.samplers import Density
from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model, save_model
from raymdm.training.state import RunState, load_optimizer, load_state, save_checkpoint
from raymdm.training.step import StepInputs, forward_backward
from raymdm.training.validation import validation_sums

REPORT_EVERY_S = 2.0
"""Progress reaches a watcher at most this often between evaluations."""


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed of a recipe, and the files of the stages before."""

    recipe: Recipe
    method: str
    seed: int
    data: Path
    """Prepared data folder."""
    density: Path | None = None
    """`density.json`, for a method with a calibrated density."""


@dataclass(frozen=True)
class Worker:
    """One of the run's workers; `report` is called by all of them equally often."""

    report: Callable[[dict[str, Any], Path | None], None]
    """Takes metrics and, on rank 0, a checkpoint folder or None."""
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    """Makes the model data parallel."""
    resume: Path | None = None
    """Checkpoint folder to go on from."""


@dataclass
class Run:
    """The moving parts of a run on one worker."""

    job: Job
    worker: Worker
    denoiser: Denoiser
    model: nn.Module
    optimizer: torch.optim.AdamW
    inputs: StepInputs
    train: loading.Split
    validation: loading.Split
    total_steps: int
    eval_every: int
    best: Path
    state: RunState = field(default_factory=RunState)
    records: list[dict[str, float]] = field(default_factory=list)
    """Made since the last report."""
    history: list[dict[str, float]] = field(default_factory=list)
    """All of the run's."""


def train(job: Job, worker: Worker) -> None:
    """Train one run to its end or to early stopping; the last report carries the last checkpoint.

    Raises ValueError when the density does not belong to the method.
    """
    with tempfile.TemporaryDirectory(prefix="raymdm-") as scratch:
        run = build(job, worker, Path(scratch))
        stopped = _patience_spent(run)
        if stopped or run.state.step >= run.total_steps:
            return report(run, None)
        last_report = time.monotonic()
        while run.state.step < run.total_steps and not stopped:
            train_step(run)
            at_end = run.state.step == run.total_steps
            if run.state.step % job.recipe.train.log_every == 0 or at_end:
                due = close_window(run, time.monotonic() - last_report > REPORT_EVERY_S)
                if due and not (at_end or run.state.step % run.eval_every == 0):
                    report(run, None)
                    last_report = time.monotonic()
            if run.state.step % run.eval_every == 0 or at_end:
                evaluate(run)
                stopped = _patience_spent(run)
                if stopped and run.state.step % job.recipe.train.log_every and not at_end:
                    close_window(run, report_due=False)
                checkpoint(run, Path(scratch))
                last_report = time.monotonic()


def build(job: Job, worker: Worker, scratch: Path) -> Run:
    """Model, optimiser, data and state, resumed from the worker's checkpoint if there is one."""
    recipe, settings = job.recipe, job.recipe.train
    method = METHODS[job.method]
    tokenizer = loading.tokenizer(job.data)
    weights = worker.resume / "model" if worker.resume else None
    model = load_model(recipe.model_for(job.method), tokenizer, method.family, weights)
    denoiser = Denoiser(model, shift=method.family == "arm").to(worker.device).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    best = scratch / "best"
    state = RunState()
    if worker.resume:
        load_optimizer(worker.resume, optimizer)
        state = load_state(worker.resume)
        shutil.copytree(worker.resume / "best", best)
        if worker.rank:
            state.window = [0.0] * len(state.window)  # rank 0 carries the sum
    training = loading.load_split(job.data, "train")
    batch = settings.global_batch_size
    total = settings.max_steps or math.ceil(settings.epochs * len(training.input_ids) / batch)
    assert (job.density is not None) == (method.density == "calibrated")
    density = (
        read_density(job.density, method.mask_name) if job.density else Density.uniform(smallest_rate(method.mask))
    )
    return Run(
        job, worker, denoiser, worker.wrap(denoiser), optimizer,
        StepInputs(method, density, job.seed, batch, tokenizer.mask_token_id, tokenizer.pad_token_id),
        training, loading.load_split(job.data, "validation", settings.max_validation_examples),
        total, settings.eval_every or math.ceil(len(training.input_ids) / batch), best, state,
        records=list(state.records), history=list(state.records),  # reports may have been lost; trackers keep each once
    )  # fmt: skip


def train_step(run: Run) -> None:
    """One optimiser step; adds to the open log window."""
    started = time.perf_counter()
    job, worker, state, settings = run.job, run.worker, run.state, run.job.recipe.train
    torch.manual_seed(keys.derive_seed(job.seed, "dropout", state.step, worker.rank))
    slots = _slice(settings.global_batch_size, worker.rank, worker.world_size)
    indices = loading.batch_indices(
        len(run.train.input_ids), settings.global_batch_size, state.step, job.recipe.data.seed
    )
    micro = settings.micro_batch_size or settings.global_batch_size
    sums = forward_backward(
        run.model, run.train, indices, state.step, run.inputs, slots, micro, worker.world_size, worker.device
    )
    norm = nn.utils.clip_grad_norm_(run.denoiser.parameters(), settings.max_grad_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, run.total_steps, settings.lr, settings.warmup_steps, settings.schedule)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.model_rows += settings.global_batch_size * run.inputs.method.views
    seconds = time.perf_counter() - started
    state.seconds += seconds
    # what every worker knows alone is divided by their number, so that a sum over workers is right for all seven
    shared = torch.tensor([float(norm), seconds, 1.0], dtype=torch.float64) / worker.world_size
    state.window = (torch.tensor(state.window, dtype=torch.float64) + torch.cat([sums.cpu(), shared])).tolist()


def learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int, schedule: str) -> float:
    """Learning rate of a step: linear warm-up, then linear decay to 0 at `total_steps`, or none."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    return peak * (total_steps - step) / max(1, total_steps - warmup_steps)


def close_window(run: Run, report_due: bool) -> bool:
    """Turn the open log window into a record. Returns rank 0's `report_due`, the same on all workers."""
    state = run.state
    flag = float(report_due and run.worker.rank == 0)
    summed = _sum_over_workers(torch.tensor([*state.window, flag], dtype=torch.float64), run.worker)
    *window, norm, seconds, steps, due = summed.tolist()
    sums = LossSums(*window)
    settings = run.job.recipe.train
    record = {
        "step": state.step,
        "train/loss": sums.mean,
        "train/loss_variance": sums.loss_variance if sums.count > 1 else math.nan,
        "train/backprop_variance": sums.backprop_variance if sums.count > 1 else math.nan,
        "train/grad_norm": norm / steps,
        "train/lr": learning_rate(
            state.step - 1, run.total_steps, settings.lr, settings.warmup_steps, settings.schedule
        ),
        "train/model_rows": state.model_rows,
        "train/step_seconds": seconds / steps,
        "train/seconds": state.seconds,
    }
    _record(run, record)
    added = [record["train/loss_variance"], record["train/backprop_variance"], record["train/grad_norm"]]
    state.totals = [total + steps * value for total, value in zip(state.totals, added, strict=True)]
    state.totals_steps += round(steps)
    state.window = [0.0] * 7
    return due > 0


def evaluate(run: Run) -> None:
    """Validation NLL on the fixed draws; keeps the best model on rank 0. Raises UserError when it is not finite."""
    job, worker, state = run.job, run.worker, run.state
    sums = validation_sums(
        run.denoiser, run.validation, run.inputs.method, (run.inputs.mask_id, run.inputs.pad_id),
        job.recipe.train.validation_draws, job.recipe.data.seed, (worker.rank, worker.world_size), worker.device,
    )  # fmt: skip
    total, count = _sum_over_workers(sums.cpu(), worker).tolist()
    nll = total / count
    if not math.isfinite(nll):
        raise UserError(f"the run diverged: validation NLL is {nll} at step {state.step}; lower train.lr")
    _record(run, {"step": state.step, "val/nll": nll})
    if state.best_nll is None or nll < state.best_nll:
        state.best_nll, state.best_step, state.evaluations_without_gain = nll, state.step, 0
        if worker.rank == 0:
            save_model(run.denoiser.model, run.best)
    else:
        state.evaluations_without_gain += 1


def checkpoint(run: Run, scratch: Path) -> None:
    """Write a checkpoint on rank 0 and report it."""
    # the open window belongs to all workers: rank 0 saves their sum and carries it on
    run.state.window = _sum_over_workers(torch.tensor(run.state.window, dtype=torch.float64), run.worker).tolist()
    run.state.records = run.history
    if run.worker.rank:
        run.state.window = [0.0] * len(run.state.window)
        return report(run, None)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        save_checkpoint(Path(folder), run.denoiser.model, run.optimizer, run.state, run.best)
        report(run, Path(folder))


def report(run: Run, folder: Path | None) -> None:
    """Hand progress and the records since the last report to whoever watches."""
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
    }
    run.worker.report(metrics, folder)
    run.records = []


def _record(run: Run, record: dict[str, float]) -> None:
    run.records.append(record)
    run.history.append(record)


def _patience_spent(run: Run) -> bool:
    patience = run.job.recipe.train.patience
    return patience is not None and run.state.evaluations_without_gain >= patience


def _slice(size: int, rank: int, world_size: int) -> slice:
    """This worker's slots of the global batch; sizes differ by one at most."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


def _sum_over_workers(values: Tensor, worker: Worker) -> Tensor:
    if worker.world_size == 1:
        return values
    values = values.to(worker.device)
    dist.all_reduce(values)
    return values.cpu()
