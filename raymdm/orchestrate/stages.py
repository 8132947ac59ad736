"""Single stages run by hand: calibrate a recipe, score a model."""

import hashlib
import math
import time
from pathlib import Path

import pandas as pd
from rich.console import Console

from raymdm.config.load import config_hash
from raymdm.config.schema import METHODS, Recipe
from raymdm.errors import UserError
from raymdm.models.folder import ADAPTER, check_weights, require_model
from raymdm.models.folder import family as family_of
from raymdm.orchestrate import cluster
from raymdm.orchestrate.calibrate import announced, calibrate, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.evaluate import Kind, as_parquet, evaluate
from raymdm.orchestrate.folder import localised, writable
from raymdm.orchestrate.shared import location
from raymdm.orchestrate.sweep import prepare_data
from raymdm.storage import Storage

PARTS_KEPT_S = 30 * 24 * 3600.0
"""Seconds that the finished blocks of an evaluation are kept which was broken off."""


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
    writable(target, "-o DIR" if output else "output=DIR")
    with connected():
        cluster.require(recipe, cluster.capacity(), "calibrate")
        data = prepare_data(recipe, console)["mdm"]
        for line in announced(recipe, wanted, data, target.absolute()):
            console.print(line, highlight=False, soft_wrap=True)
        return list(calibrate(recipe, wanted, data, target.absolute()).values())


def trained_family(model: Path, option: str) -> str | None:
    """`mdm` or `arm`, of a model's folder, trained or not; None for an adapter that does not say.

    Raises UserError, naming the option that gave it, when it is no such folder.
    """
    require_model(model, option)
    place = f"{option}: {model}"
    found = family_of(model, place)
    if not (model / ADAPTER).exists():
        check_weights(model, place)
    return found


def evaluate_model(recipe: Recipe, model: Path, output: Path, console: Console) -> float:
    """Score a model folder, trained as the recipe's `method` or not at all, on the test split; returns the mean score.

    Broken off, it goes on when it is called again. Raises UserError when the folder holds no model, or one of the
    other family.
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
    recipe = as_it_is(localised(recipe), model, console)
    family = recipe.spec(recipe.method).family
    _require_family(recipe, model, family)
    writable(output.parent, "-o FILE")
    cache = Storage(recipe.storage_path or recipe.output).child("cache")
    forget_old_parts(cache)
    parts = f"parts-{hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:12]}"
    with connected():
        cluster.require(recipe, cluster.capacity(), "evaluate")
        data = prepare_data(recipe, console)[family]
        where = location(recipe, model), location(recipe, data)
        scores = evaluate(recipe, recipe.method, *where, kind=kind, parts=cache.child(parts))
    Storage(str(output.absolute().parent)).write(output.name, as_parquet(scores))
    cache.delete(parts)
    return scores


def _require_family(recipe: Recipe, model: Path, family: str) -> None:
    """Raise UserError for a model that is known to be of the other family than the recipe's `method`."""
    found = trained_family(model, "--model")
    if found in (None, family):
        return
    names = [name for name in (*METHODS, *recipe.methods) if recipe.spec(name).family == found]
    shown = f"{names[0]}, ..." if len(names) > 1 else names[0]
    raise UserError(
        f"--model: {model} is a model of family {found}, but method {recipe.method} is of family {family}: set method "
        f"to one of family {found} ({shown})"
    )


def as_it_is(recipe: Recipe, model: Path, console: Console) -> Recipe:
    """The recipe without its adapter where the folder holds a whole model, such as the one before it was trained."""
    from raymdm.models import adapters

    settings = recipe.model_for(recipe.method)
    if settings.adapter is None or adapters.is_adapter_folder(model):
        return recipe
    console.print(f"{model} is a whole model: model.adapter does not apply to it", highlight=False, soft_wrap=True)
    field = "model" if settings is recipe.model else "arm_model"
    return recipe.model_copy(update={field: settings.model_copy(update={"adapter": None})})


def forget_old_parts(cache: Storage) -> None:
    """Remove what evaluations left that were broken off long ago and never called again."""
    if not cache.local or not cache.exists(""):
        return
    for folder in cache.path.glob("parts-*"):
        parts = list(folder.iterdir())
        ours = all(part.name.lstrip(".").startswith("part-") for part in parts)  # or a copy of a model named so
        if ours and time.time() - max(path.stat().st_mtime for path in (folder, *parts)) > PARTS_KEPT_S:
            cache.delete(folder.name)
