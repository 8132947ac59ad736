"""The calibration sweep on Ray Data: losses or gradients over a grid of masking rates, and the fitted densities.

Shape legend: M sequences, T rates of the grid, K masks, G (sequence, rate) pairs of a batch.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from raymdm import keys
from raymdm.comparison.figures import draw_density
from raymdm.comparison.results import Calibration
from raymdm.config.schema import MethodSpec, Recipe
from raymdm.data import loading
from raymdm.diffusion.calibration import summarise, summarise_gradients
from raymdm.diffusion.epr import rate_grid
from raymdm.diffusion.moments import GridMoments
from raymdm.errors import UserError
from raymdm.orchestrate.folder import write_json
from raymdm.orchestrate.probe import Measured, Probe, Resources, probe

_log = logging.getLogger(__name__)


def calibrations(methods: Iterable[MethodSpec]) -> dict[str, MethodSpec]:
    """The calibrations that some methods draw their rates from: name -> one of the methods that need it."""
    return {method.calibration: method for method in methods if method.calibrated}


def calibrate(
    recipe: Recipe, methods: Mapping[str, MethodSpec], data: Path, output: Path, weights: Path | None = None
) -> dict[str, Path]:
    """Fit the densities of `calibrations(...)`, all measured in one pass; returns calibration name -> `density.json`.

    One folder a calibration under `output`; one whose `density.json` was made of the same settings, data and weights
    is not measured again. The files do not depend on the number of actors, bit for bit. weights: a model folder in
    place of the recipe's model. Raises UserError naming the example when a loss or gradient is not finite.
    """
    paths = {name: output / name / "density.json" for name in methods}
    sources = {name: source_of(recipe, method, data, weights) for name, method in methods.items()}
    missing = {name: method for name, method in methods.items() if _made_of(paths[name]) != sources[name]}
    if missing:
        started = time.monotonic()
        settings, split = recipe.calibrate, loading.load_split(data, "train")
        probes = {name: calibration_probe(recipe, method, split) for name, method in missing.items()}
        resources = Resources(
            settings.num_actors, settings.cpus_per_actor, settings.gpus_per_actor, settings.batch_size
        )
        found = probe(recipe, probes, data, weights, settings.seed, "calibrate", resources)
        moments = {name: tabulated(probes[name], measured, split) for name, measured in found.items()}
        seconds = time.monotonic() - started
        for name, method in missing.items():
            _write(recipe, method, moments[name], seconds / len(missing), sources[name], paths[name])
    return paths


def announced(
    recipe: Recipe, methods: Mapping[str, MethodSpec], data: Path, output: Path, weights: Path | None = None
) -> Iterator[str]:
    """What `calibrate` will do, in lines: the densities to measure, and those that are there, with their warnings."""
    paths = {name: output / name / "density.json" for name in methods}
    there = [
        name for name, method in methods.items() if _made_of(paths[name]) == source_of(recipe, method, data, weights)
    ]
    if missing := [name for name in methods if name not in there]:
        yield f"calibrating p(t) for {', '.join(missing)}"
    for name in there:
        yield f"p(t) for {name} is there already: {paths[name]}"
        for warning in json.loads(paths[name].read_text())["warnings"]:
            yield f"warning: calibration {name}: {warning}"


def source_of(recipe: Recipe, method: MethodSpec, data: Path, weights: Path | None) -> str:
    """A hash of all that a calibration's numbers depend on."""
    files = sorted(weights.glob("*.safetensors")) if weights else []
    described = {
        "calibrate": recipe.calibrate.model_dump(exclude={"num_actors", "cpus_per_actor"}),
        "model": recipe.model.model_dump(),
        "data": data.name,
        "method": [method.calibration, method.row.model_dump()],
        "weights": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _made_of(path: Path) -> str | None:
    """The source of a `density.json`; None where there is none."""
    return json.loads(path.read_text()).get("source") if path.exists() else None


def chosen_rows(split: loading.Split, size: int, seed: int, purpose: str) -> np.ndarray:
    """Rows of the training split, (M,), without repetition; all of them when there are fewer. More rows begin with the
    same ones."""
    return keys.generator(seed, purpose).permutation(len(split))[:size]


def calibration_probe(recipe: Recipe, method: MethodSpec, split: loading.Split) -> Probe:
    """What a method's p(t) is fitted to."""
    from raymdm.diffusion.masking import smallest_rate

    settings = recipe.calibrate
    gradient, sequences, masks = settings.effort(method)
    t, _ = rate_grid(settings.grid, smallest_rate(method.mask))
    rows = np.sort(chosen_rows(split, sequences, settings.seed, "calibration-sequences"))
    return Probe(method.row, rows, t[None], masks, gradient=gradient)


def tabulated(wanted: Probe, measured: Measured, split: loading.Split) -> pd.DataFrame:
    """Sums over masks of l and l^2, or of |grad l| and |grad l|^2, a row a pair.

    Raises UserError naming the example when one is not finite.
    """
    size = measured.losses if measured.squares is None else np.sqrt(measured.squares)
    sequences, rates, masks = size.shape
    table = pd.DataFrame(
        {
            "example_id": np.repeat(split.example_ids[wanted.rows], rates),
            "t_index": np.tile(np.arange(rates), sequences),
            "t": np.tile(wanted.t[0], sequences),
            "count": masks,
            "sum_loss": size.sum(2).ravel(),
            "sum_loss_sq": (size * size).sum(2).ravel(),
        }
    )
    broken = np.flatnonzero(~np.isfinite(table["sum_loss_sq"]))
    if len(broken):
        what = "loss" if wanted.gradient == "none" else "gradient"
        example, t = table["example_id"][broken[0]], table["t"][broken[0]]
        raise UserError(
            f"calibration: the {what} of training example {example} at t = {t:.4f} is not finite "
            f"({len(broken)} of {len(table)} measurements are not): look at this row and at the model's weights"
        )
    return table


def _write(recipe: Recipe, method: MethodSpec, moments: pd.DataFrame, seconds: float, source: str, path: Path) -> None:
    """Fit and write one calibration's files; `density.json` last and at once: it says that the folder is complete."""
    from raymdm.diffusion.masking import smallest_rate

    settings = recipe.calibrate
    shape = (-1, settings.grid)
    grid = GridMoments(*(moments[name].to_numpy().reshape(shape) for name in ("count", "sum_loss", "sum_loss_sq")))
    seed = keys.derive_seed(settings.seed, "epr", method.calibration)
    eps = smallest_rate(method.mask)
    if method.density == "g_pots":
        summary = summarise_gradients(grid, eps, settings.starts, settings.gradient_uniform_mix, seed, method.fit)
    else:
        summary = summarise(grid, eps, settings.starts, settings.uniform_mix, seed, method.fit)
    rows = int(grid.count.sum()) * method.row.views
    summary |= {"mask": method.calibration, "source": source, "sequences": len(grid.count)}
    summary |= {"seconds": seconds, "rows": rows}
    for warning in summary["warnings"]:
        _log.warning("calibration %s: %s", method.calibration, warning)
    path.parent.mkdir(parents=True, exist_ok=True)
    moments.to_parquet(path.parent / "moments.parquet", index=False)
    draw_density(Calibration.model_validate(summary), path.parent / "density.png")
    write_json(path, summary)
