"""Which checkpoint a run goes on from: the newest sound one, the same on all workers."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from raymdm.errors import UserError
from raymdm.storage import StorageError
from raymdm.training.checkpoints import MANIFEST, Found, opened, search, told

if TYPE_CHECKING:
    from raymdm.training.run import Worker

T = TypeVar("T")
_TRIES = 3
_NONE = -1.0


@dataclass(frozen=True)
class Resumed(Generic[T]):
    """What a run goes on with."""

    loaded: T
    found: Found | None
    """None for a run that starts anew."""
    broken: dict[int, str]
    """What is wrong with newer checkpoints, by step; rank 0 knows."""


def resumed(worker: "Worker", target: Path, load: Callable[[Path | None], T]) -> Resumed[T]:
    """What `load` makes of the newest sound checkpoint's folder, or of None where there is none.

    Another process of the run that still lives may remove a checkpoint while it is read: then a newer one is there.
    target: a local folder for a copy. Raises on all workers what `load` raises of UserErrors, and StorageError.
    """
    for _ in range(_TRIES):
        found, broken = _agreed(worker, target)
        loaded, problem = None, None
        try:
            with told("read", found.path) if found else nullcontext():
                loaded = load(found.path if found else None)
        except (FileNotFoundError, UserError) as error:
            problem = error
        vanished = found is not None and not (found.path / MANIFEST).exists()  # its manifest goes first
        worker.raise_alike(None if vanished else problem)
        if not worker.sum(torch.tensor([float(vanished)])).item():
            return Resumed(loaded, found, broken)  # type: ignore[arg-type]
    raise StorageError(
        f"{_shown(worker)}: the newest checkpoint is not there for all workers. Storage must be one folder that all "
        "nodes share, and no two runs may write to it"
    )


def _agreed(worker: "Worker", target: Path) -> tuple[Found | None, dict[int, str]]:
    """Rank 0's choice on all workers; a path without a manifest where a worker does not find it sound."""
    found: Found | None = None
    broken: dict[int, str] = {}
    problem: StorageError | None = None
    if worker.rank == 0:
        try:
            found, broken = search(worker.checkpoints, target)
        except StorageError as error:
            problem = error
    worker.raise_alike(problem)
    chosen = float(found.step) if found else _NONE
    step = int(worker.sum(torch.tensor([chosen if worker.rank == 0 else 0.0], dtype=torch.float64)).item())
    if worker.rank and step != _NONE:
        try:
            fault, path = opened(worker.checkpoints, step, target)
            found = Found(step, path if fault is None else target / "missing", [])
        except StorageError as error:
            problem = error
    worker.raise_alike(problem)
    return found, broken


def _shown(worker: "Worker") -> str:
    storage = worker.checkpoints
    return str(storage.path) if storage.local else "the run's checkpoints"
