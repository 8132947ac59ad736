"""Accuracy and validation NLL of methods that got the same number of model rows, over seeds.

Every run starts from the same weights. `train.budget` is `rows`: a method of k views takes 1/k of the steps, of warm-up
and between evaluations and refits too, its learning rate decaying over them. No run stops early, whatever the recipe's
`train.patience`: the rows would be unequal. Runs go in plain processes, two at a time. Results stay in a folder named
after recipe and weights, and are not made again.
`python benchmarks/accuracy_at_equal_compute.py RECIPE [FIELD=VALUE ...] [--seeds 10] [--methods a,b] [--weights DIR]`
"""

import argparse
import hashlib
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from raymdm.config.load import config_hash, load_recipe
from raymdm.config.schema import Recipe, SweepConfig
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.evaluation.generate import generate_and_score
from raymdm.models.load import load_model
from raymdm.orchestrate.calibrate import calibrate, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.storage import Storage
from raymdm.training.checkpoints import newest
from raymdm.training.loop import Job, Worker, train
from raymdm.training.state import load_state

METHODS = "standard,p_pots,mirror,p_pots_mirror,fixed_size_p_pots,fixed_size_g_pots,stable"


def equal_rows(recipe: Recipe) -> Recipe:
    """The recipe with the same number of model rows for every method, none saved by stopping early."""
    changes = {"budget": "rows", "patience": None}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def results_folder(recipe: Recipe) -> Path:
    """Where results of this recipe and of the weights that it starts from are kept, whatever methods and seeds."""
    parts = [recipe.name, "equal-compute", identity(recipe, "standard")]
    if recipe.model.path and Path(recipe.model.path).is_dir():
        parts.append(contents(Path(recipe.model.path)))
    return Path(recipe.output).absolute() / "-".join(parts)


def identity(recipe: Recipe, method: str) -> str:
    """What decides a method's results beside the seed; a method composed in the recipe counts with its parts."""
    return config_hash(recipe.model_copy(update={"method": method, "sweep": SweepConfig()}))


def contents(folder: Path) -> str:
    """12 hexadecimal digits that agree for folders of the same files."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} ".encode() + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def run(recipe_json: str, method: str, seed: int, data: str, density: str, result: str, scored: bool) -> None:
    """Train a cell with its share of steps, score its best model, leave result.json."""
    import torch

    torch.set_num_threads(1)
    recipe = Recipe.model_validate_json(recipe_json)
    steps = recipe.train.share(recipe.spec(method).views, 0).max_steps
    job = Job(recipe, method, seed, Path(data), Path(density) if density else None)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(str(Path(folder) / "run"))
        train(job, Worker(lambda metrics: None, storage))
        last = newest(storage, Path(folder) / "last")
        assert last is not None and last.step == steps
        kept: dict[str, Any] = load_state(last.path).summary()
        if scored:
            tokenizer = loading.tokenizer(Path(data))
            model = load_model(recipe.model, tokenizer, "mdm", last.path / "best")
            split = loading.load_split(Path(data), "test", recipe.evaluate.max_examples)
            task, every = loading.meta(Path(data))["task"], np.arange(len(split))
            found = generate_and_score(model, tokenizer, "mdm", split, every, task, recipe.evaluate, 0)
            kept["accuracy"] = float(np.mean(found["score"]))
    Path(result).write_text(json.dumps(kept))


def difference(values: np.ndarray, base: np.ndarray) -> str:
    """Mean difference with its 95% Welch interval."""
    if values is base or len(values) < 2 or (values.std() == 0 and base.std() == 0):
        return "-"
    interval = stats.ttest_ind(values, base, equal_var=False).confidence_interval()
    return f"{values.mean() - base.mean():+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--weights", type=Path, help="model folder that every run starts from")
    parser.add_argument("--no-scores", action="store_true", help="validation NLL alone")
    parser.add_argument("--processes", type=int, default=2)
    arguments, overrides = parser.parse_known_args()
    methods, console = arguments.methods.split(","), Console(width=160)
    recipe = equal_rows(load_recipe(arguments.recipe, overrides))
    if arguments.weights:
        model = recipe.model.model_copy(update={"kind": "pretrained", "path": str(arguments.weights.absolute())})
        recipe = recipe.model_copy(update={"model": model})
    if recipe.train.max_steps is None:
        parser.error("the recipe has no train.max_steps: add train.max_steps=N, the steps of a method of one view")
    folder = results_folder(recipe)
    data = prepare(recipe.data, recipe.model, folder / "cache")
    specs = {name: recipe.spec(name) for name in methods}
    with connected():
        densities = calibrate(recipe, calibrations(specs.values()), data, folder / "calibrations")
    ending = "-no-scores.json" if arguments.no_scores else ".json"
    names = {m: f"{m}-{identity(recipe, m)}" for m in methods}
    results = {(m, s): folder / f"{names[m]}-s{s}{ending}" for s in range(arguments.seeds) for m in methods}
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        waiting = [
            pool.submit(
                run, recipe.model_dump_json(), method, seed, str(data),
                str(densities[specs[method].calibration]) if specs[method].calibrated else "", str(path),
                not arguments.no_scores,
            )
            for (method, seed), path in results.items()
            if not path.exists()
        ]  # fmt: skip
        for future in waiting:
            future.result()
    found = {cell: json.loads(path.read_text()) for cell, path in results.items()}
    for metric, scale in (("accuracy", 100.0), ("val_nll", 1.0)):
        if metric not in next(iter(found.values())):
            continue
        console.print(f"| Method | {metric} mean | sd | min | max | minus {methods[0]} (95% Welch) | rows |")
        console.print("|---|---|---|---|---|---|---|")
        values = {m: scale * np.array([found[m, s][metric] for s in range(arguments.seeds)]) for m in methods}
        for m, v in values.items():
            cells = [v.mean(), v.std(ddof=1) if len(v) > 1 else 0.0, v.min(), v.max()]
            rows = found[m, 0]["model_rows"]
            console.print(
                f"| `{m}` | {' | '.join(f'{x:.3f}' for x in cells)} | {difference(v, values[methods[0]])} | {rows:,} |"
            )


if __name__ == "__main__":
    main()
