"""Model inference over blocks of rows with Ray Data."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from raymdm.errors import UserError
from raymdm.storage import StorageError

Model = Callable[[pd.DataFrame], pd.DataFrame]
"""An object that holds a model and turns a block of rows into results."""

_TRACEBACKS = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
"""Ray Data's loggers of what a block raised."""


@lru_cache(maxsize=1)
def _held(model: Callable[..., Model], items: tuple[tuple[str, str], ...]) -> Model:
    return model(**dict(items))


def _in_task(rows: pd.DataFrame, model: Callable[..., Model], where: dict[str, str]) -> pd.DataFrame:
    return _held(model, tuple(where.items()))(rows)


def run_blocks(
    blocks: Sequence[pd.DataFrame],
    model: Callable[..., Model],
    where: dict[str, str],
    size: int,
    cpus: float,
    gpus: float,
) -> pd.DataFrame:
    """Results of all blocks, in no particular order; a block is one call, so `size` changes no block.

    `model`: the class whose instances, made with `where` on the spot, hold the model.

    Raises the UserError that a block raised, and StorageError where Ray's object store has no room left.

    On CPUs, `size` Ray tasks at a time: their processes keep the model from block to block, and their imports from run
    to run. On GPUs, a pool of `size` actors: an idle task process would keep the GPU's memory.
    """
    how: dict[str, Any]
    if gpus:
        how = {"fn": model, "fn_constructor_kwargs": where, "compute": ray.data.ActorPoolStrategy(size=size)}
    else:
        how = {
            "fn": _in_task,
            "fn_kwargs": {"model": model, "where": where},
            "compute": ray.data.TaskPoolStrategy(size=size),
        }
    # else Ray Data puts an error of its own above what a block raised, which does not survive the way between processes
    ray.data.DataContext.get_current().raise_original_map_exception = True
    for logger in _TRACEBACKS:  # long before what is raised here, which tells the same
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        rows = ray.data.from_blocks(list(blocks))  # from_pandas would ask for a whole CPU a block beside the driver's
        results = rows.map_batches(**how, batch_size=None, batch_format="pandas", num_cpus=cpus, num_gpus=gpus)
        return results.to_pandas()
    except RayError as error:
        raise _users(error) or no_room(error) or error from None


def no_room(error: BaseException) -> StorageError | None:
    """What to tell the user where Ray's object store is full, at the bottom of an error however Ray wraps it, Ray
    Train's too; None where it is not."""
    links = ("cause", "__cause__", "__context__", "controller_failure")
    for found in _below(error, links):
        # Ray's wrapper is of this type too, with a traceback for text
        if isinstance(found, (ObjectStoreFullError, OutOfDiskError)) and not isinstance(found, RayTaskError):
            reason = (str(found).strip().splitlines() or [type(found).__name__])[0].rstrip(".")
            return StorageError(
                f"Ray's object store has no room left: {reason}. Give it more memory or disk (ray start "
                "--object-store-memory), then start the same command again, a sweep with --resume"
            )
    return None


def _users(error: BaseException) -> UserError | None:
    """What a block raised for the user to mend, below what Ray wraps around it."""
    for found in _below(error, ("cause", "__cause__")):
        if isinstance(found, UserError) and not isinstance(found, RayError):  # Ray's has a traceback for text
            return found
    return None


def _below(error: BaseException, links: Sequence[str]) -> Iterator[BaseException]:
    """An error and those that it came from, each once, depth first."""
    waiting: list[Any] = [error]
    seen: list[Any] = []
    while waiting:
        found = waiting.pop()
        if not isinstance(found, BaseException) or any(found is other for other in seen):
            continue
        seen.append(found)
        yield found
        # Ray Train lists its workers' errors; an actor that died in its constructor has the error as argument
        waiting += [*getattr(found, "worker_failures", {}).values(), *found.args]
        waiting += [getattr(found, link, None) for link in reversed(links)]
