"""Variance of every method's loss and gradient at equal compute, on GSM8K, before, amid and after training.

Trains a small MDM for some minutes, keeps its first, middle and last weights, and runs `raymdm diagnose` on each.
`python benchmarks/variance_at_equal_compute.py data.path=DIR [--minutes 20] [FIELD=VALUE ...]`
"""

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console

from raymdm.comparison.diagnosis import Diagnosis, Estimate, load_diagnosis
from raymdm.comparison.diagnosis_report import write_report
from raymdm.comparison.recommendation import recommend
from raymdm.config.load import load_recipe
from raymdm.config.schema import Recipe
from raymdm.data.prepare import prepare
from raymdm.models.load import save_model
from raymdm.orchestrate.diagnose import diagnose
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, build, evaluate, train_step

RECIPE = "jobs/recipes/gsm8k-variance.yaml"


def train_models(recipe: Recipe, minutes: float, folder: Path, console: Console) -> list[Path]:
    """The models at initialisation, after half the time and after all of it; kept ones are not trained again."""
    models = [folder / name for name in ("initial", "middle", "end")]
    if all((model / "model.safetensors").exists() for model in models):
        return models
    data = prepare(recipe.data, recipe.model, Path(recipe.output) / "cache" / "data")
    job = Job(recipe, recipe.method, recipe.seed, data)
    run = build(job, Worker(lambda metrics: None, Storage(str(folder / "run"))), folder / "scratch")
    save_model(run.denoiser.model, models[0])
    started = time.monotonic()
    for share, model in ((0.5, models[1]), (1.0, models[2])):
        while time.monotonic() - started < 60 * minutes * share:
            train_step(run)
        evaluate(run)
        console.print(f"{model.name}: step {run.state.step}, validation NLL {run.history[-1]['val/nll']:.3f}")
        save_model(run.denoiser.model, model)
    return models


def rows(diagnosis: Diagnosis) -> dict[str, tuple[int, str, str, str]]:
    """By method: rows a sequence, bias, loss and gradient variance at equal compute."""
    found = {}
    for method in diagnosis.methods:
        gradient = _written(method.gradient.relative) if method.gradient else "-"
        found[method.name] = (method.rows, "yes" if method.biased else "no", _written(method.loss.relative), gradient)
    return found


def _written(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    interval = "" if estimate.low is None else f" ({estimate.low:.3g} to {estimate.high:.3g})"
    return f"{estimate.value:.3g}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)
    console = Console(width=160)
    recipe = load_recipe(RECIPE, ["train.max_steps=100000", *overrides])
    folder = Path(recipe.output).absolute() / "variance"
    console.print("| State | Method | Rows | Biased | Loss variance at equal compute | Gradient variance |")
    console.print("|---|---|---|---|---|---|")
    for model in train_models(recipe, arguments.minutes, folder / "models", console):
        target = folder / f"diagnosis-{model.name}"
        if not (target / "diagnose.json").exists():
            diagnose(recipe, model, target, Console(stderr=True))
        diagnosis = load_diagnosis(target)
        for name, cells in rows(diagnosis).items():
            console.print(f"| {model.name} | `{name}` | {' | '.join(map(str, cells))} |", soft_wrap=True)
        console.print(f"{model.name}: {recommend(diagnosis).sentence} {write_report(target)}", soft_wrap=True)


if __name__ == "__main__":
    main()
