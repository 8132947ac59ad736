"""Single stages run by hand: calibrate a recipe, score a model."""

import io
import json
from pathlib import Path
from typing import Literal

from rich.console import Console

from raymdm.config.load import config_hash
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate.calibrate import calibrate, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.evaluate import evaluate
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
    for name in ("model.safetensors", "config.json"):
        if not (model / name).exists():
            raise UserError(f"{option}: {model} holds no {name}: give the `model` folder of a run")
    try:
        config = json.loads((model / "config.json").read_text())
    except ValueError as error:
        raise UserError(
            f"{option}: {model / 'config.json'} is not valid JSON ({error}): copy the folder again"
        ) from error
    return "mdm" if config.get("is_causal") is False else "arm"


def evaluate_model(recipe: Recipe, model: Path, output: Path, console: Console) -> float:
    """Score a model folder, trained with the recipe's `method`, on the test split; returns the mean score.

    Raises UserError when the folder has no model.safetensors, or a model of the other family.
    """
    recipe = localised(recipe)
    family = trained_family(model, "--model")
    if family != recipe.spec(recipe.method).family:
        raise UserError(f"--model: {model} was trained as {family}, but method is {recipe.method}: set method=...")
    writable(output.parent)
    with connected():
        cluster.require(recipe, cluster.capacity(), "evaluate")
        data = prepare_data(recipe, console)[recipe.spec(recipe.method).family]
        scores = evaluate(recipe, recipe.method, location(recipe, model), location(recipe, data))
    table = io.BytesIO()
    scores.to_parquet(table, index=False)
    Storage(str(output.absolute().parent)).write(output.name, table.getvalue())
    return float(scores["score"].mean())
