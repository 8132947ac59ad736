"""raymdm's training step against bare forward, backward and optimiser step on the same batches, one worker.

The bare step gets its noised batch ready made; raymdm's draws rates and masks, collates, weighs, clips, and keeps the
sums its metrics come from. Steps alternate, so that both meet the same noise of the machine; a figure is the ratio of
the medians. `python benchmarks/step_overhead.py [--steps N]`
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from raymdm.config.load import load_recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.diffusion.objective import noise, sequence_losses
from raymdm.storage import Storage
from raymdm.training.draws import draw_rates, draw_step_masks
from raymdm.training.loop import Job, Run, Worker, build, train_step

SHAPES = {
    "quickstart": ["jobs/recipes/quickstart.yaml"],
    "100 digits, hidden 128, 4 layers": [
        "jobs/recipes/quickstart.yaml", "data.sorting.digits=100", "data.max_length=256", "model.hidden_size=128",
        "model.intermediate_size=384", "model.num_layers=4", "data.num_train=500",
    ],
}  # fmt: skip


def _run(arguments: list[str], method: str, scratch: Path) -> Run:
    recipe = load_recipe(arguments[0], arguments[1:])
    data = prepare(recipe.data, recipe.model, scratch / "cache")
    return build(Job(recipe, method, 42, data), Worker(lambda metrics: None, Storage(str(scratch / "run"))), scratch)


def _bare_step(run: Run, step: int) -> Callable[[], None]:
    """The same batch and masks as raymdm's step, drawn beforehand."""
    size, method = run.inputs.batch_size, run.inputs.method
    indices = loading.batch_indices(len(run.train), size, step, run.job.recipe.data.seed)
    batch = run.train.batch(indices, 0)
    t, _ = draw_rates(method, run.inputs.density, run.inputs.seed, step, size)
    masks = draw_step_masks(method, run.inputs.seed, step, np.arange(size), t, batch)
    noised = noise(batch.input_ids, masks, run.inputs.mask_id)
    attention = batch.attention_mask.repeat(method.views, 1)

    def step_once() -> None:
        token = run.denoiser(noised.input_ids, attention, noised.targets, noised.labels)
        sequence_losses(token, noised, masks).mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)

    return step_once


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    table = Table("shape", "bare step, ms", "raymdm / bare", "mirror / standard")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in SHAPES.items():
            bare, ours, mirror = (_run(arguments, m, Path(folder)) for m in ("standard", "standard", "mirror"))
            times: dict[str, list[float]] = {"bare": [], "ours": [], "mirror": []}
            for step in range(steps):
                times["bare"].append(_seconds(_bare_step(bare, step)))
                times["ours"].append(_seconds(lambda run=ours: train_step(run)))  # type: ignore[misc]
                times["mirror"].append(_seconds(lambda run=mirror: train_step(run)))  # type: ignore[misc]
            middle = {key: statistics.median(values[5:]) for key, values in times.items()}
            table.add_row(
                name, f"{1000 * middle['bare']:.1f}", f"{middle['ours'] / middle['bare']:.3f}",
                f"{middle['mirror'] / middle['ours']:.2f}",
            )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
