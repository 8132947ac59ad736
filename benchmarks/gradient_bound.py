"""Is the bound of the output layer enough to fit the density for the gradient, or does it take exact norms?

For each model folder: EPR densities fitted to the bound and to exact norms on one half of the sequences, judged by the
second moment of the weighted gradient on the other half, both ways, over that of the exact fit. Fixed-size masks, no
share of uniform. `python benchmarks/gradient_bound.py RECIPE [FIELD=VALUE ...] --models DIR,DIR [--sequences 20]`
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from raymdm import keys
from raymdm.config.load import load_recipe
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.diffusion.epr import expected_variance, normalise, rate_grid
from raymdm.diffusion.fits import fit_density
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training.measure import Draws, measure_gradients, measure_head_gradients

CPU, BATCH = torch.device("cpu"), 32


def second_moments(recipe: Recipe, model: Path, data: Path, t: np.ndarray, sequences: int) -> dict[str, np.ndarray]:
    """Squared norms (M, T), one mask each, `exact` and by the `head`'s bound; and the seconds they took, (1,)."""
    tokenizer, split = loading.tokenizer(data), loading.load_split(data, "train")
    denoiser = Denoiser(load_model(recipe.model, tokenizer, "mdm", model), "mdm")
    ids = tokenizer.mask_token_id, tokenizer.pad_token_id
    rows = keys.generator(3, "head").permutation(len(split))[:sequences]
    pairs = np.repeat(rows, len(t)), np.tile(t, len(rows)), np.tile(np.arange(len(t)), len(rows))
    found: dict[str, list[np.ndarray]] = {"exact": [], "head": []}
    seconds = dict.fromkeys(found, 0.0)
    for start in range(0, len(pairs[0]), BATCH):
        row, rate, index = (part[start : start + BATCH] for part in pairs)
        draws = Draws(METHODS["fixed_size"], row, rate[None], index, 1, 5, "benchmark")
        for name, parts in found.items():
            began = time.perf_counter()
            if name == "exact":
                parts.append(measure_gradients(denoiser, split, draws, ids, CPU).squares)
            else:
                parts.append(measure_head_gradients(denoiser, split, draws, ids, CPU) ** 2)
            seconds[name] += time.perf_counter() - began
    squares = {name: np.concatenate(parts).reshape(len(rows), len(t)) for name, parts in found.items()}
    return squares | {"time": np.array([seconds["head"] / seconds["exact"]])}


def judged(squares: dict[str, np.ndarray], t: np.ndarray, width: np.ndarray) -> dict[str, float]:
    """Held-out second moment of each density over that of the exact fit."""
    moments = dict.fromkeys(("exact", "head", "uniform"), 0.0)
    for seen, unseen in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        w = np.sqrt(squares["exact"][unseen].mean(0))
        for name in moments:
            p = np.ones_like(t)
            if name != "uniform":
                fitted = fit_density("epr", t, width, np.sqrt(squares[name][seen].mean(0)), 24, 0)
                p = fitted.density(0.0).pdf(t)
            moments[name] += expected_variance(w, normalise(p, width), width, 0.0, 0.0)
    return {name: value / moments["exact"] for name, value in moments.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--models", required=True, help="model folders, separated by commas")
    parser.add_argument("--sequences", type=int, default=20)
    parser.add_argument("--rates", type=int, default=32)
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    recipe, console = load_recipe(arguments.recipe, overrides), Console(width=120)
    t, width = rate_grid(arguments.rates, 0.0)
    console.print("| Model | Bound of the output layer | Uniform | Time of the bound / of exact norms |")
    console.print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(recipe.data, recipe.model, Path(folder))
        for model in map(Path, arguments.models.split(",")):
            squares = second_moments(recipe, model, data, t, arguments.sequences)
            ratio = judged(squares, t, width)
            cells = f"{ratio['head']:.3f} | {ratio['uniform']:.2f} | {squares['time'][0]:.2f}"
            console.print(f"| {model.name} | {cells} |", soft_wrap=True)


if __name__ == "__main__":
    main()
