"""What a run is made of: the job, the worker that does it, and the moving parts built from both."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.diffusion import control
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training.density import density_in_force
from raymdm.training.state import RunState, load_optimizer, load_state
from raymdm.training.step import StepInputs


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

    def slots(self, size: int) -> slice:
        """This worker's slots of a global batch; sizes differ by one at most."""
        return slice(size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, on the CPU; all of them call it together."""
        if self.world_size == 1:
            return values.cpu()
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values.cpu()


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

    def record(self, record: dict[str, float]) -> None:
        self.records.append(record)
        self.history.append(record)


def build(job: Job, worker: Worker, scratch: Path) -> Run:
    """Model, optimiser, data and state, resumed from the worker's checkpoint if there is one."""
    recipe, settings = job.recipe, job.recipe.train
    method = recipe.spec(job.method)
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
    if method.control_variate == "ema" and state.ema is None:
        state.ema = control.start().tolist()
    training = loading.load_split(job.data, "train")
    batch = settings.global_batch_size
    settings = settings.share(method.views, len(training))
    assert settings.max_steps and settings.eval_every
    density = density_in_force(method, job.density, state)
    job = replace(job, recipe=recipe.model_copy(update={"train": settings}))
    return Run(
        job, worker, denoiser, worker.wrap(denoiser), optimizer,
        StepInputs(method, density, job.seed, batch, tokenizer.mask_token_id, tokenizer.pad_token_id),
        training, loading.load_split(job.data, "validation", settings.max_validation_examples),
        settings.max_steps, settings.eval_every, best, state,
        records=list(state.records), history=list(state.records),  # reports may have been lost; trackers keep each once
    )  # fmt: skip
