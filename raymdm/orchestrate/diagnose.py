"""`raymdm diagnose`: the variance of every method on the user's model and data, before it is trained with.

Calibrated densities are fitted on sequences of their own, as a training run would have them, and judged on others.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from raymdm import __version__
from raymdm.comparison.diagnosis import BASELINE, FILE, Diagnosis, MethodVariance, Seconds
from raymdm.config.load import config_hash, dump_recipe
from raymdm.config.schema import METHODS, MethodSpec, Recipe
from raymdm.data import loading
from raymdm.diffusion.samplers import Density
from raymdm.diffusion.study import Strata, Study
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate.begin import hardware
from raymdm.orchestrate.calibrate import announced, calibrate, calibrations, chosen_rows
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.diagnosis import bias, fitted_densities, loss_curves, variances
from raymdm.orchestrate.folder import git_commit, localised, writable, write_json
from raymdm.orchestrate.probe import Gradient, Measured, Probe, Resources, probe
from raymdm.orchestrate.stages import trained_family
from raymdm.orchestrate.studies import Design, Row, Target, searched_interval
from raymdm.orchestrate.sweep import prepare_data, require_marks, without_secrets
from raymdm.training.density import starting_density

ARM = MethodSpec(family="arm")


def diagnose(recipe: Recipe, checkpoint: Path | None, output: Path | None, console: Console) -> Path:
    """Measure and write diagnose.json, recipe.yaml and the calibrations; returns their folder.

    checkpoint: a model folder; None takes the model as training would start from it. Raises UserError for a folder
    that is no model or cannot be written, and for losses that are not finite.
    """
    started = time.monotonic()
    recipe = without_secrets(localised(recipe))
    known = trained_family(checkpoint, "--checkpoint") if checkpoint else None
    family = known or recipe.spec(recipe.method).family
    folder = (output or Path(recipe.output) / f"{recipe.name}-diagnosis-{_identity(recipe, checkpoint)}").absolute()
    writable(folder, "-o DIR" if output else "output=DIR")
    with connected():
        cluster.require(recipe, cluster.capacity(), "diagnose", *(["calibrate"] if family == "mdm" else []))
        data = prepare_data(recipe, console)[family]
        subject = Subject(recipe, family, checkpoint.absolute() if checkpoint else None, data, folder, console)
        diagnosis = examine(subject, started)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    write_json(folder / FILE, json.loads(diagnosis.model_dump_json()))
    return folder


def _identity(recipe: Recipe, checkpoint: Path | None) -> str:
    """Names what is measured: the recipe, what is asked of it, and the checkpoint."""
    asked = recipe.model_dump(include={"diagnose": True, "methods": True})
    del asked["diagnose"]["num_actors"], asked["diagnose"]["cpus_per_actor"]
    where = str(checkpoint.absolute()) if checkpoint else ""
    return hashlib.sha256(json.dumps([config_hash(recipe), asked, where], sort_keys=True).encode()).hexdigest()[:12]


def methods_to_measure(recipe: Recipe, data: Path) -> tuple[dict[str, MethodSpec], list[str]]:
    """`standard`, then the methods asked for, or all that the data can be trained with; and why some are left out."""
    asked = recipe.diagnose.methods
    names = [BASELINE, *(asked if asked is not None else [*METHODS, *recipe.methods])]
    methods, left_out = {}, []
    for name in dict.fromkeys(names):
        method = recipe.spec(name)
        if method.family == "arm":
            if asked is not None:
                left_out.append(f"{name} is left out: it has neither masks nor rates to choose")
            continue
        try:
            require_marks(method, data)
        except UserError as error:
            if asked is not None:
                raise
            left_out.append(f"{name} is left out: {error}")
            continue
        methods[name] = method
    return methods, left_out


@dataclass(frozen=True)
class Subject:
    """What is examined, and where results go."""

    recipe: Recipe
    family: str
    weights: Path | None
    """A model folder; None for the recipe's model."""
    data: Path
    folder: Path
    console: Console

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Findings:
    """What was measured of the loss or of the gradient."""

    design: Design
    measured: Mapping[str, Measured]
    study: Callable[[str], Study]
    """Of a method: made when it is asked for, as each holds its own copy of the gradients."""
    strata: Mapping[str, Strata | None]
    """By method."""
    rows: int
    """Model rows spent."""
    seconds: float


def examine(subject: Subject, started: float) -> Diagnosis:
    """Fit the densities, measure losses and gradients, and put the numbers together."""
    settings, warnings = subject.recipe.diagnose, list[str]()
    if subject.family == "arm":
        methods, densities = {"arm": ARM}, {"arm": Density.uniform(0.0)}
    else:
        methods, left_out = methods_to_measure(subject.recipe, subject.data)
        warnings += left_out
        densities = fit_densities(subject, methods)
    fitted = time.monotonic()
    rows = sequences(subject, warnings)
    targets: list[Target] = ["loss", "gradient"] if settings.gradients else ["loss"]
    found = {target: measure(subject, Design.of(target, settings, rows), methods, densities) for target in targets}
    spread = {target: variances(part, methods, settings) for target, part in found.items()}
    baseline = next(iter(methods))
    loss, gradient = found["loss"], found.get("gradient")
    parameters = next(iter(loss.measured.values())).parameters
    return Diagnosis(
        name=subject.recipe.name,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        hardware=hardware(),
        git_commit=git_commit(),
        raymdm_version=__version__,
        model=subject.recipe.model_for("arm" if subject.family == "arm" else BASELINE).path or "tiny",
        checkpoint=str(subject.weights) if subject.weights else None,
        task=subject.recipe.data.task,
        family="arm" if subject.family == "arm" else "mdm",
        parameters=parameters,
        sequences=len(loss.design.rows),
        rates=settings.rates,
        masks=settings.masks,
        gradient_rates=settings.gradient_rates if gradient else 0,
        gradient_masks=settings.gradient_masks if gradient else 0,
        gradient_sequences=len(gradient.design.rows) if gradient else 0,
        batch_size=subject.recipe.train.global_batch_size,
        sketch=settings.sketch if gradient and parameters > settings.sketch else None,
        seconds=Seconds(
            losses=loss.seconds,
            gradients=gradient.seconds if gradient else 0.0,
            fits=fitted - started,
            total=time.monotonic() - started,
        ),
        rows=sum(part.rows for part in found.values()),
        seed=settings.seed,
        replicates=settings.replicates,
        curves=loss_curves(found, methods) if subject.family == "mdm" else {},
        densities=fitted_densities(methods, subject.folder / "calibrations"),
        methods=[
            MethodVariance(
                name=name,
                summary=method.description,
                rows=method.views,
                biased=method.biased,
                warning=method.warning,
                calibration=method.calibration if method.calibrated else None,
                masking=method.row_mask,
                loss=spread["loss"][name],
                gradient=spread["gradient"][name] if gradient else None,
                bias=bias(name, baseline, methods, found, settings.seed) if name != baseline else None,
            )
            for name, method in methods.items()
        ],
        warnings=warnings,
    )


def fit_densities(subject: Subject, methods: Mapping[str, MethodSpec]) -> dict[str, Density]:
    """Each method's p(t). A searched interval waits for the losses and is uniform until then."""
    wanted = calibrations(methods.values())
    what = (subject.recipe, wanted, subject.data, subject.folder / "calibrations", subject.weights)
    for line in announced(*what):
        subject.say(line)
    paths = calibrate(*what)
    return {
        name: starting_density(method, paths[method.calibration] if method.calibrated else None)
        for name, method in methods.items()
    }


def sequences(subject: Subject, warnings: list[str]) -> np.ndarray:
    """Rows of the training split to measure, none of the calibrations' unless there are too few others."""
    split, settings, calibration = (
        loading.load_split(subject.data, "train"),
        subject.recipe.diagnose,
        subject.recipe.calibrate,
    )
    size = max(settings.sequences, settings.gradient_sequences)
    shuffled = chosen_rows(split, len(split), settings.seed, "diagnosis-sequences")
    most = max(calibration.sequences, calibration.gradient_sequences)
    fitted = chosen_rows(split, most, calibration.seed, "calibration-sequences")
    others = shuffled[~np.isin(shuffled, fitted)]
    if len(others) < size:
        warnings.append(
            f"there are {len(split)} training sequences, too few to measure {size} that no density was fitted on: "
            "calibrated methods look a little better than they are"
        )
        others = shuffled
    return others[:size]


def measure(
    subject: Subject, design: Design, methods: Mapping[str, MethodSpec], densities: dict[str, Density]
) -> Findings:
    """Measure a target under every masking that the methods need, and turn it into a study of each method.

    The losses decide searched intervals, whose densities are put into `densities`. Raises UserError naming the example
    when a value is not finite.
    """
    started, settings = time.monotonic(), subject.recipe.diagnose
    planned = design.plan(methods, densities) if subject.family == "mdm" else {f"{design.target}/arm": _arm(design)}
    probes = {key: row.probe for key, row in planned.items()}
    rows = sum(len(p.rows) * p.t.shape[1] * p.masks * p.method.views for p in probes.values())
    subject.say(f"measuring the {design.target}, {len(probes)} maskings: {rows:,} model rows")
    resources = Resources(settings.num_actors, settings.cpus_per_actor, settings.gpus_per_actor, settings.batch_size)
    found = probe(subject.recipe, probes, subject.data, subject.weights, settings.seed, "diagnose", resources)
    for key, measured in found.items():
        _refuse_nonfinite(subject, design.target, probes[key], measured)
    if subject.family == "arm":
        arm = _arm_study(design, found)
        return Findings(design, found, lambda name: arm, {"arm": None}, rows, time.monotonic() - started)
    if design.target == "loss":
        searched = {name: method for name, method in methods.items() if method.clip_search}
        densities |= {name: searched_interval(design, method, found) for name, method in searched.items()}
    batch = subject.recipe.train.global_batch_size
    strata = {name: design.strata(name, method, densities[name], planned, batch) for name, method in methods.items()}

    def study(name: str) -> Study:
        return design.study(name, methods[name], densities[name], found)

    return Findings(design, found, study, strata, rows, time.monotonic() - started)


def _arm(design: Design) -> Row:
    gradient: Gradient = "exact" if design.target == "gradient" else "none"
    return Row(Probe(ARM, design.rows, np.ones((1, 1)), 1, None, gradient, design.sketch), None)


def _arm_study(design: Design, found: Mapping[str, Measured]) -> Study:
    """No masks and no rates: the same number twice, so that masks add nothing."""
    (measured,) = found.values()
    if design.target == "loss":
        return Study.of_losses(np.ones(1), np.repeat(measured.losses, 2, axis=2))
    assert measured.squares is not None and measured.sketches is not None
    return Study(np.ones(1), np.repeat(measured.sketches, 2, axis=2), np.repeat(measured.squares, 2, axis=2))


def _refuse_nonfinite(subject: Subject, target: str, wanted: Probe, measured: Measured) -> None:
    values = measured.losses if measured.squares is None else measured.squares
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        i, j, _ = broken[0]
        example = loading.load_split(subject.data, "train").example_ids[wanted.rows[i]]
        raise UserError(
            f"diagnose: the {target} of training example {example} at t = {wanted.t[0, j]:.4f} is not finite "
            f"({len(broken)} of {values.size} measurements are not): look at this row and at the model's weights"
        )
