"""Everything about a recipe that can be known without training."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from raymdm.config.schema import Recipe
from raymdm.data.prepare import check_source
from raymdm.orchestrate import cluster
from raymdm.orchestrate.folder import writable


def check(recipe: Recipe) -> Iterator[str]:
    """Lines that say what was checked; raises UserError at the first part that can't work."""
    with cluster.connected() if "RAY_ADDRESS" in os.environ else nullcontext():
        have = cluster.capacity()
        at_once = cluster.slots(recipe, have)
    yield (
        f"resources: {_runs(recipe)}, {at_once} at once, workers a run: {recipe.train.num_workers}, each with "
        f"{recipe.train.cpus_per_worker:g} CPUs and {recipe.train.gpus_per_worker:g} GPUs; {have.source} holds "
        f"{have.cpus:g} CPUs and {have.gpus:g} GPUs"
    )
    for model in (recipe.model, *([recipe.arm_model] if recipe.arm_model else [])):
        check_source(recipe.data, model)
        yield f"data and tokenizer: task {recipe.data.task}, {recipe.data.path or 'generated'}, {model.tokenizer.kind}"
    for warning in recipe.warnings:
        yield f"warning: {warning}"
    writable(Path(recipe.output))
    yield f"output: {Path(recipe.output).absolute()}"


def _runs(recipe: Recipe) -> str:
    sweep = recipe.sweep
    first = len(sweep.methods) * len(sweep.first_seeds)
    if isinstance(sweep.seeds, list):
        return f"{first} runs"
    most = first + len(sweep.players) * (sweep.seeds.max - sweep.seeds.initial)
    return f"{first} to {most} runs (until {sweep.seeds.stop_when})"
