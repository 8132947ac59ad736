"""Checkpoints written in the background: training goes on as soon as its state is copied to host memory."""

import json
import shutil
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from raymdm.models import adapters
from raymdm.models.load import save_model
from raymdm.storage import Storage
from raymdm.training import checkpoints
from raymdm.training.parallel import whole
from raymdm.training.state import RunState

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Snapshot:
    """A run's state in host memory, which the next steps leave alone."""

    step: int
    model: "PreTrainedModel"
    """For its architecture; its weights go on changing."""
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: str
    """JSON of the RunState."""
    dtype: str
    """Of the weights."""
    is_best: bool
    """Whether these weights have the lowest validation NLL so far."""


def take(model: "PreTrainedModel", optimizer: Optimizer, state: RunState, keep: bool = True) -> Snapshot:
    """Copy what a checkpoint holds to host memory: the weights, an adapter's alone where there is one, and moments.

    Sharded workers call it together, for each has a part of every tensor; without `keep`, what it returns is empty.
    """
    held = adapters.trainable_state(model) if adapters.is_attached(model) else model.state_dict(keep_vars=True)
    weights, moments = _on_host((held, optimizer.state_dict()), {}, keep)
    best = state.best_nll is not None and state.best_step == state.step
    dtype = str(model.dtype).removeprefix("torch.")
    return Snapshot(state.step, model, weights, moments, json.dumps(vars(state)), dtype, best)


class Writer:
    """Writes a run's checkpoints, one at a time; rank 0 alone uses it."""

    def __init__(self, storage: Storage, keep: int, scratch: Path, broken: set[int]) -> None:
        """keep: checkpoints that stay; scratch: a local folder; broken: steps whose checkpoints do not count."""
        self._storage, self._keep, self.broken = storage, keep, broken
        self._best, self._scratch = scratch / "best", scratch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def start_from(self, checkpoint: Path) -> None:
        """Take the best model so far from the checkpoint that the run goes on from. Raises StorageError."""
        shutil.rmtree(self._best, ignore_errors=True)  # of a checkpoint that was removed meanwhile
        if (checkpoint / "best").exists():
            with checkpoints.told("write", self._best):
                shutil.copytree(checkpoint / "best", self._best)

    def begin(self, snapshot: Snapshot) -> None:
        """Write in the background. The write before must have ended: see `ended`."""
        self._writing = self._pool.submit(self._write, snapshot)

    @property
    def problem(self) -> BaseException | None:
        """What the latest write failed of; None as long as it goes on. Does not wait."""
        return self._writing.exception() if self._writing and self._writing.done() else None

    def ended(self) -> BaseException | None:
        """Wait for the latest write to end; returns what it failed of."""
        return self._writing.exception() if self._writing else None

    def close(self) -> None:
        """Wait for the latest write; failed or not, there will be no more."""
        self._pool.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        step = snapshot.step
        with checkpoints.told("write", self._best):
            if snapshot.is_best:
                shutil.rmtree(self._best, ignore_errors=True)
                _save(snapshot, self._best)
        checkpoints.write(self._storage, step, lambda folder: self._fill(folder, snapshot), self._scratch)
        self.broken.discard(step)
        checkpoints.prune(self._storage, step, self._keep, self.broken)

    def _fill(self, folder: Path, snapshot: Snapshot) -> None:
        if snapshot.is_best:
            shutil.copytree(self._best, folder / "model")
        else:
            _save(snapshot, folder / "model")
        if self._best.exists():
            shutil.copytree(self._best, folder / "best")
        with (folder / "optimizer.pt").open("wb") as file:  # given a name, torch would hide what storage says
            torch.save(snapshot.optimizer, file)
        (folder / "state.json").write_text(snapshot.state)


def _save(snapshot: Snapshot, folder: Path) -> None:
    """Write the model. While the next step computes, sharded weights are bfloat16, which config.json shall not say."""
    save_model(snapshot.model, folder, snapshot.weights)
    config = json.loads((folder / "config.json").read_text())
    if config.get("dtype") != snapshot.dtype and not adapters.is_adapter_folder(folder):
        (folder / "config.json").write_text(json.dumps({**config, "dtype": snapshot.dtype}, indent=2) + "\n")


def _on_host(value: Any, copies: dict[Hashable, Tensor], keep: bool) -> Any:
    """Copies of all tensors in nested containers; those that share memory, as tied weights do, go on sharing it.

    Sharded tensors are made whole by all workers, in the same order; only with `keep` is something kept.
    """
    if isinstance(value, Tensor):
        key: Hashable = id(value)  # a worker's part may be empty, and all must find the same ones tied
        if not isinstance(value, DTensor):
            key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies or not value.numel():
            found = whole(value.detach())
            copies[key] = found.to("cpu", copy=True) if keep else torch.empty(0)
        return copies[key]
    if isinstance(value, dict):
        return {name: _on_host(part, copies, keep) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(part, copies, keep) for part in value)
    return value
