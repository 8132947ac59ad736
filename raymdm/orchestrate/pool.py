"""Model inference over blocks of rows with Ray Data."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import ray
from ray.exceptions import RayError

from raymdm.errors import UserError

Model = Callable[[pd.DataFrame], pd.DataFrame]
"""An object that holds a model and turns a block of rows into results."""


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

    Raises the UserError that a block raised.

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
    rows = ray.data.from_blocks(list(blocks))  # from_pandas would ask for a whole CPU a block beside the driver's
    results = rows.map_batches(**how, batch_size=None, batch_format="pandas", num_cpus=cpus, num_gpus=gpus)
    try:
        return results.to_pandas()
    except RayError as error:
        raise _users(error) or error from None


def _users(error: BaseException | None) -> UserError | None:
    """What a block raised for the user to mend, below what Ray wraps around it."""
    while error is not None and (isinstance(error, RayError) or not isinstance(error, UserError)):
        error = (
            getattr(error, "cause", None) or error.__cause__
        )  # Ray's may be a UserError too, with a traceback for text
    return error
