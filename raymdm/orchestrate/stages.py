"""Single stages run by hand: calibrate a recipe, score a model."""

import hashlib
import json
import math
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Console

from raymdm.config.load import config_hash
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate.calibrate import calibrate, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.evaluate import Kind, as_parquet, evaluate
from raymdm.orchestrate.folder import localised, writable
from raymdm.orchestrate.shared import location
from raymdm.orchestrate.sweep import prepare_data
from raymdm.storage import Storage


def calibrate_recipe(recipe: Recipe, output: Path | None, console: Console) -> list[Path]:
    """Fit every density that the recipe's methods need; returns the `density.json` files.

    Raises UserError when no method of the recipe has a calibrated density.
    """
    recipe = localised(recipe)
    names = [*recipe.sweep.methods, recipe.method]
    wanted = calibrations(map(recipe.spec, names))
    if not wanted:
        raise UserError(
            f"sweep.methods: none of {', '.join(dict.fromkeys(names))} has a calibrated density: add p_pots"
        )
    target = output or Path(recipe.output) / f"{recipe.name}-calibrations-{config_hash(recipe)}"
    writable(target)
    with connected():
        cluster.require(recipe, cluster.capacity(), "calibrate")
        return list(calibrate(recipe, wanted, prepare_data(recipe, console)["mdm"], target.absolute()).values())


def trained_family(model: Path, option: str) -> Literal["mdm", "arm"]:
    """Of a trained model's folder. Raises UserError, naming the option that gave it, when it is no such folder."""
    for names in (("model.safetensors", "adapter_model.safetensors"), ("config.json",)):
        if not any((model / name).exists() for name in names):
            raise UserError(f"{option}: {model} holds no {' or '.join(names)}: give the `model` folder of a run")
    try:
        config = json.loads((model / "config.json").read_text())
    except ValueError as error:
        raise UserError(
            f"{option}: {model / 'config.json'} is not valid JSON ({error}): copy the folder again"
        ) from error
    return "mdm" if config.get("is_causal") is False else "arm"


def evaluate_model(recipe: Recipe, model: Path, output: Path, console: Console) -> float:
    """Score a model folder, trained with the recipe's `method`, on the test split; returns the mean score.

    Broken off, it goes on when it is called again. Raises UserError when the folder has no model.safetensors, or a
    model of the other family.
    """
    return float(_evaluated(recipe, model, output, console, "generate")["score"].mean())


def evaluate_nll(recipe: Recipe, model: Path, output: Path, console: Console) -> str:
    """The likelihood of the test split's responses, as `evaluate_model` scores answers; returns its summary in words.

    Of an MDM it is a bound. The standard error is that over examples; that of the masks drawn stands beside it.
    """
    from raymdm.evaluation.nll import summary

    table = _evaluated(recipe, model, output, console, "nll")
    found, family = summary({str(name): column for name, column in table.items()}), recipe.spec(recipe.method).family
    bound, noise = (
        ("", "") if family == "arm" else ("at most ", f" (of the masks alone: {found.monte_carlo_error:.4f})")
    )
    return (
        f"NLL {bound}{found.nll_per_token:.4f} ± {found.standard_error:.4f} nats a token{noise}, "
        f"{found.nll_per_token / math.log(2):.4f} bits; perplexity {bound}{found.perplexity:.3f}"
    )


def _evaluated(recipe: Recipe, model: Path, output: Path, console: Console, kind: Kind) -> pd.DataFrame:
    recipe = localised(recipe)
    family = trained_family(model, "--model")
    if family != recipe.spec(recipe.method).family:
        raise UserError(f"--model: {model} was trained as {family}, but method is {recipe.method}: set method=...")
    writable(output.parent)
    cache = Storage(recipe.storage_path or recipe.output).child("cache")
    parts = f"parts-{hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:12]}"
    with connected():
        cluster.require(recipe, cluster.capacity(), "evaluate")
        data = prepare_data(recipe, console)[family]
        where = location(recipe, model), location(recipe, data)
        scores = evaluate(recipe, recipe.method, *where, kind=kind, parts=cache.child(parts))
    Storage(str(output.absolute().parent)).write(output.name, as_parquet(scores))
    cache.delete(parts)
    return scores
