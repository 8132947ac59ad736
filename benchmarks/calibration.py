"""The Ray Data calibration against a bare loop over the same rows, and two actors against one.

Ray is started before the clock; the loop has one thread, as an actor has. The first calibration also warms up the
processes that hold the model, as in a sweep. `python benchmarks/calibration.py [RECIPE] [FIELD=VALUE ...]`
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from raymdm.config.load import load_recipe
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.orchestrate.calibrate import calibration_probe, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.probe import Probe, Resources, probe
from raymdm.training.measure import Draws, measure_losses

METHOD = METHODS["p_pots"]


def bare_loop(recipe: Recipe, wanted: Probe, data: Path) -> None:
    """The same batches, one after the other."""
    tokenizer, split = loading.tokenizer(data), loading.load_split(data, "train")
    model = Denoiser(load_model(recipe.model, tokenizer, "mdm"), "mdm").eval()
    ids, rates = (tokenizer.mask_token_id, tokenizer.pad_token_id), wanted.t.shape[1]
    size = max(1, recipe.calibrate.batch_size // wanted.masks)
    pairs = [(row, j) for row in wanted.rows for j in range(rates)]
    for start in range(0, len(pairs), size):
        rows, index = (torch.tensor(column).numpy() for column in zip(*pairs[start : start + size], strict=True))
        draws = Draws(wanted.method, rows, wanted.t[:, index], index, wanted.masks, 0, "calibrate")
        measure_losses(model, split, draws, ids, torch.device("cpu"))


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="jobs/recipes/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    recipe = load_recipe(arguments.recipe, overrides)
    times: dict[str, list[float]] = {"bare loop": [], "one actor": [], "two actors": []}
    with tempfile.TemporaryDirectory() as folder, connected():
        data = prepare(recipe.data, recipe.model, Path(folder))
        ((_, method),) = calibrations([METHOD]).items()
        wanted = calibration_probe(recipe, method, loading.load_split(data, "train"))

        def on_ray(actors: int) -> None:
            resources = Resources(actors, 1.0, 0, recipe.calibrate.batch_size)
            probe(recipe, {"bernoulli": wanted}, data, None, 0, "calibrate", resources)

        on_ray(2)  # imports
        for _ in range(arguments.repeats):
            times["bare loop"].append(seconds(lambda: bare_loop(recipe, wanted, data)))
            times["one actor"].append(seconds(lambda: on_ray(1)))
            times["two actors"].append(seconds(lambda: on_ray(2)))
    best = {name: min(values) for name, values in times.items()}
    table = Table("way", "seconds (best)", "over bare loop", "all")
    for name, values in times.items():
        table.add_row(
            name, f"{best[name]:.1f}", f"{best[name] / best['bare loop']:.2f}", ", ".join(f"{v:.1f}" for v in values)
        )
    Console().print(table)
    rows = len(wanted.rows) * wanted.t.shape[1] * wanted.masks
    Console().print(f"{rows:,} model rows; two actors over one: {best['two actors'] / best['one actor']:.2f}")


if __name__ == "__main__":
    main()
