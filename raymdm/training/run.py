"""What a run is made of: the job, the worker that does it, and the moving parts built from both."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.diffusion import control
from raymdm.errors import UserError
from raymdm.models import adapters
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model, skeleton
from raymdm.models.loss_head import fused_kernel
from raymdm.storage import Storage, StorageError
from raymdm.training import parallel
from raymdm.training.checkpoints import told
from raymdm.training.density import calibrated_fit, density_in_force
from raymdm.training.layers import prepare_layers
from raymdm.training.optimizer import load_moments, make_optimizer, read_moments
from raymdm.training.resume import Resumed, resumed
from raymdm.training.state import RunState, load_state
from raymdm.training.step import StepInputs
from raymdm.training.writer import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
Left = Literal["", "node", "sweep"]
"""Why a run leaves before its end: a worker's node goes away, or the sweep is stopped; empty where it does not."""
_TOLD = 4096
"""Bytes of an error's message that the other workers hear of."""
_COME_AGAIN = ("skipped_step", "loss_spike")
"""Events of the steps themselves: whoever does a step meets them, so a checkpoint holds them."""


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
    """One of the run's workers. With several, torch.distributed is initialised: they train data parallel."""

    report: Callable[[dict[str, Any]], None]
    """Takes metrics; called by all workers equally often."""
    checkpoints: Storage
    """The run's own folder, which all workers see: where it goes on from, and what rank 0 writes."""
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    notice: Callable[[], Left] = lambda: ""
    """What this worker was told to leave for; called every step."""

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

    def gather(self, values: Tensor) -> Tensor:
        """Every worker's float64 values (N,), as (world size, N) on the CPU; all of them call it together."""
        table = torch.zeros(self.world_size, len(values), dtype=torch.float64)
        table[self.rank] = values
        return self.sum(table)

    def raise_alike(self, problem: BaseException | None) -> None:
        """Raise on all workers what one of them met, with its message; all of them call it together."""
        if problem and not isinstance(problem, UserError):
            raise problem  # a bug: the process ends, and the others with it
        kind = 0 if problem is None else 1 + isinstance(problem, StorageError)
        met = self.gather(torch.tensor([float(kind)], dtype=torch.float64))[:, 0].tolist()
        if not any(met):
            return
        first = next(rank for rank, kind in enumerate(met) if kind)
        letters = torch.zeros(_TOLD, dtype=torch.float64)
        if self.rank == first:
            text = str(problem).encode()[:_TOLD]
            letters[: len(text)] = torch.tensor(list(text), dtype=torch.float64)
        message = bytes(self.sum(letters).to(torch.uint8).tolist()).rstrip(b"\0").decode(errors="ignore")
        raise problem or (StorageError if met[first] == 2 else UserError)(message)

    def alike(self, doing: str, place: object, do: Callable[[], T]) -> T:
        """What `do` returns; all workers call it together, and what one of them meets is raised on all.

        doing: "read" or "write", place: where. Raises UserError, and StorageError where the place refuses.
        """
        problem: UserError | None = None
        try:
            with told(doing, place):
                done = do()
        except UserError as error:
            problem = error
        except FileNotFoundError as error:
            problem = UserError(f"{error.filename or place} is not there on this node: all nodes must share `output`")
        except ValueError as error:  # a file that is not what it was written as
            problem = UserError(f"{place}: {error}")
        self.raise_alike(problem)
        return done


@dataclass
class Run:
    """The moving parts of a run on one worker."""

    job: Job
    worker: Worker
    denoiser: Denoiser
    model: nn.Module
    optimizer: Optimizer
    inputs: StepInputs
    train: loading.Split
    validation: loading.Split
    total_steps: int
    eval_every: int
    writer: Writer
    """Of rank 0."""
    state: RunState = field(default_factory=RunState)
    records: list[dict[str, float]] = field(default_factory=list)
    """Made since the last report."""
    history: list[dict[str, float]] = field(default_factory=list)
    """All of the run's."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What happened since the last report that a person should know."""

    def record(self, record: dict[str, float]) -> None:
        self.records.append(record)
        self.history.append(record)

    def event(self, kind: str, message: str, **details: Any) -> None:
        event = {"step": self.state.step, "event": kind, "message": message, **details}
        self.events.append(event)
        if kind in _COME_AGAIN:
            self.state.events.append(event)


def build(job: Job, worker: Worker, scratch: Path) -> Run:
    """Model, optimiser, data and state: those of the newest sound checkpoint, or new ones where there is none.

    scratch: a local folder. Raises UserError, and StorageError when files cannot be read or copied, on all workers.
    """
    recipe, settings = job.recipe, job.recipe.train
    method = recipe.spec(job.method)
    training, validation, tokenizer = worker.alike("read", job.data, lambda: _prepared(job))
    writer = Writer(worker.checkpoints, settings.keep_checkpoints, scratch, set())

    before = resumed(
        worker, scratch / "resumed", lambda checkpoint: _loaded(job, worker, tokenizer, checkpoint, writer)
    )
    model, moments, state = before.loaded
    denoiser = Denoiser(model, method.family).train()
    if settings.loss_head != "chunked":
        head = cast(nn.Module, model.get_output_embeddings())
        worker.alike("use", "train.loss_head", lambda: fused_kernel(settings.loss_head, head, worker.device))
    shared = parallel.shared(denoiser, settings, worker)
    optimizer = make_optimizer(denoiser.parameters(), settings)
    if moments is not None:
        load_moments(optimizer, moments)
    workers_before = len(state.windows_open)
    state.take_window(worker.rank, worker.world_size)
    if method.control_variate == "ema" and state.ema is None:
        state.ema = control.start().tolist()
    writer.broken |= before.broken.keys()
    shutil.rmtree(scratch / "resumed", ignore_errors=True)
    batch = settings.global_batch_size
    settings = settings.share(method.views, len(training))
    assert settings.max_steps and settings.eval_every
    given = worker.alike("read", job.density, lambda: calibrated_fit(method, job.density))
    state.density = state.density or given  # of a checkpoint that does not say, the file's
    density = density_in_force(method, job.density, state)
    job = replace(job, recipe=recipe.model_copy(update={"train": settings}))
    run = Run(
        job, worker, denoiser, shared, optimizer,
        StepInputs(
            method, density, job.seed, batch, tokenizer.mask_token_id, tokenizer.pad_token_id, settings.loss_head,
            settings.group_by_length,
        ),
        training, validation, settings.max_steps, settings.eval_every, writer, state,
        # reports may have been lost, so all is sent again; who keeps it keeps it once
        records=list(state.records), history=list(state.records), events=list(state.events),
    )  # fmt: skip
    _tell(run, before, workers_before)
    if state.density != given and state.fit is None:
        run.event(
            "other_density",
            f"{job.density} is not the density that the run began with, with which it goes on. To train the run anew "
            "with the file's, remove the folder of its checkpoints",
        )
    return run


def _prepared(job: Job) -> tuple[loading.Split, loading.Split, PreTrainedTokenizerFast]:
    """Training and validation split, and the tokenizer. Raises UserError for what is not there, OSError, ValueError."""
    training = loading.load_split(job.data, "train")
    validation = loading.load_split(job.data, "validation", job.recipe.train.max_validation_examples)
    folder = job.data / "tokenizer"
    if not folder.is_dir():  # transformers would take its path for a name on a hub
        raise UserError(f"{folder} is not there on this node: `output` must be a folder that all nodes share")
    return training, validation, loading.tokenizer(job.data)


def _loaded(
    job: Job, worker: Worker, tokenizer: PreTrainedTokenizerFast, checkpoint: Path | None, writer: Writer
) -> tuple["PreTrainedModel", dict[str, Any] | None, RunState]:
    """A checkpoint's model, the moments that this worker holds, and state; or where a run starts, without moments.

    Of workers that hold parts of the model, the first has its weights in host memory, the others none.
    """
    recipe, family = job.recipe, job.recipe.spec(job.method).family
    sharded = recipe.train.parallel == "fsdp"
    weights = checkpoint / "model" if checkpoint else None
    make = skeleton if sharded and worker.rank else load_model
    model = make(recipe.model_for(job.method), tokenizer, family, weights)
    for parameter in adapters.trainable(model).values() if weights else ():
        parameter.data = parameter.data.clone()  # it would read from a file that is removed before long
    if sharded and not worker.rank:
        model.to("cpu")  # attention that only runs on GPUs was checked there
    prepare_layers(model, recipe.train, worker.device)
    if checkpoint is None:
        return model, None, RunState()
    moments = read_moments(checkpoint, (worker.rank, worker.world_size) if sharded else None)
    if worker.rank == 0:
        writer.start_from(checkpoint)
    return model, moments, load_state(checkpoint)


def _tell(run: Run, before: Resumed[Any], workers_before: int) -> None:
    """The events of a run that did not start from nothing."""
    for fault in before.broken.values():
        run.event("broken_checkpoint", f"{fault}: the one before is used", fault=fault)
    if before.found:
        workers = run.worker.world_size
        changed = f" with {workers} workers instead of {workers_before}" if workers != workers_before else ""
        run.event("resumed", f"went on from step {run.state.step}{changed}", workers=workers)
    elif before.broken:
        run.event("broken_checkpoint", "no checkpoint is sound: the run starts anew")
