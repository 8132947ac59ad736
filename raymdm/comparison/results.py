"""Reads a sweep's folder: one long table of metrics, score arrays, curves, calibrations.

Shape legend: S finished seeds of a method, E test examples.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from raymdm.comparison.metrics import METRICS
from raymdm.config.schema import Recipe
from raymdm.errors import UserError

SCORE_COLUMNS = ["example_id", "score", "reference", "output"]
CURVES = {"train/loss", "val/nll"}
NO_RESULT = "no result.json: the run has not ended or was interrupted"
LOGGED = TypeAdapter(dict[str, Any])
Model = TypeVar("Model", bound=BaseModel)


class Round(BaseModel):
    """A round of an adaptive sweep: the runs that it added, and the share of alpha that its look spends."""

    cells: list[tuple[str, int]]
    """Method and seed."""
    alpha: float
    finished: list[tuple[str, int]] | None = None
    """The cells, of this round and those before it, that had finished at the look after it; null before that look."""


class SweepInfo(BaseModel):
    """sweep.json."""

    name: str
    config_hash: str
    git_commit: str | None
    created: str
    status: Literal["running", "finished", "interrupted", "failed"]
    raymdm_version: str
    hardware: str
    environment: dict[str, str]
    wall_seconds: float | None
    rounds: list[Round] = []
    """Of an adaptive sweep, in the order they were run; empty where the number of seeds is fixed."""
    stopped: str | None = None
    """Why an adaptive sweep added no more seeds."""
    mlflow_uri: str | None = None
    """Without a password."""
    experiment: str = ""


class Origin(BaseModel):
    """Code and libraries that drove a run."""

    git_commit: str | None
    raymdm_version: str
    environment: dict[str, str]


class TrialResult(BaseModel):
    """result.json of a trial."""

    task: str
    model: str
    method: str
    seed: int
    status: Literal["finished", "failed"]
    error: str | None = None
    metrics: dict[str, float | None] = {}
    origins: list[Origin] = []
    """In their order, several where the run went on under others; empty: not recorded, those of the sweep's start."""


class SourceVariance(BaseModel):
    """A, B and C of the paper's eq. 2: what masks, masking rate and data add to the variance; (nats/token)²."""

    masks: float
    rate: float
    data: float


class Calibration(BaseModel):
    """density.json of a calibration; all densities on the same grid of rates."""

    target: Literal["loss", "gradient"] = "loss"
    """Whose variance the density makes small."""
    kind: str = "epr"
    """The fitted curve in use."""
    params: dict[str, float]
    eps: float
    uniform_mix: float
    kl: float
    weight_min: float
    weight_max: float
    variance: dict[str, float]
    """Of one sequence's weighted loss, (nats/token)², or second moment of its gradient: by density."""
    decomposition: dict[Literal["epr", "uniform"], SourceVariance] = {}
    """By density; of losses alone."""
    grid: list[float]
    fitted: list[float]
    optimum: list[float]
    seconds: float
    rows: int


@dataclass(frozen=True)
class Sweep:
    """A sweep as its files say it; methods in the recipe's order."""

    folder: Path
    info: SweepInfo
    recipe: Recipe
    recipe_text: str
    """recipe.yaml as it is on disk."""
    seeds: dict[str, list[int]]
    """Finished seeds of each method that has any, in the recipe's order."""
    table: pd.DataFrame
    """Finished trials in long form: task, model, method, seed, metric, value."""
    answers: pd.DataFrame
    """Columns of scores.parquet with method and seed, sorted by method, seed and example_id."""
    curves: pd.DataFrame
    """Losses logged on the way, in long form: method, seed, step, metric (see CURVES), value."""
    calibrations: dict[str, Calibration]
    """By masking, such as `bernoulli_mirrored`: the name of its folder."""
    failures: list[tuple[str, str]]
    """Trials of the grid without a result: folder name and error."""
    strangers: list[str]
    """Folders of trials that the recipe does not name; they are left out."""
    origins: list[Origin] = field(default_factory=list)
    """Those that the finished runs came from, each once, or that of the sweep's start where they do not say."""

    def values(self, method: str, metric: str) -> np.ndarray:
        """A metric over the method's finished seeds, (S,), or fewer where a run did not report it; may hold NaN."""
        rows = self.table[(self.table["method"] == method) & (self.table["metric"] == metric)]
        return rows["value"].to_numpy(dtype=float)

    def scores(self, method: str) -> np.ndarray:
        """Scores (S, E), 0 or 1, seeds as in `seeds`, examples in ascending example_id."""
        rows = self.answers.loc[self.answers["method"] == method, "score"]
        return rows.to_numpy(dtype=float).reshape(len(self.seeds[method]), -1)


def load_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder.

    Raises UserError where it is not one, a file is broken, no trial has finished, or two trials were scored on
    different test examples.
    """
    if not (folder / "sweep.json").is_file() or not (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{folder} is not a sweep: it needs sweep.json and recipe.yaml. Name a folder `raymdm sweep` made"
        )
    info = read_model(folder / "sweep.json", SweepInfo)
    recipe_text, recipe = _read_recipe(folder / "recipe.yaml")
    _check_rounds(folder / "sweep.json", recipe, info)
    cells = sorted(planned_cells(recipe, info), key=lambda cell: recipe.sweep.methods.index(cell[0]))
    finished, failures = _read_trials(folder, cells)
    seeds: dict[str, list[int]] = {}
    for _, result in finished:
        seeds.setdefault(result.method, []).append(result.seed)
    answers = _read_answers(finished)
    return Sweep(
        folder=folder,
        info=info,
        recipe=recipe,
        recipe_text=recipe_text,
        seeds=seeds,
        table=_metric_table(finished, answers),
        answers=answers,
        curves=_read_curves(finished),
        calibrations={
            path.parent.name: read_model(path, Calibration)
            for path in sorted((folder / "calibrations").glob("*/density.json"))
        },
        failures=failures,
        strangers=_strangers(folder / "trials", cells),
        origins=_origins(info, [result for _, result in finished]),
    )


def start_of(info: SweepInfo) -> Origin:
    """What a sweep was begun under."""
    return Origin(git_commit=info.git_commit, raymdm_version=info.raymdm_version, environment=info.environment)


def _origins(info: SweepInfo, results: list[TrialResult]) -> list[Origin]:
    found: list[Origin] = []
    for origin in (origin for result in results for origin in result.origins or [start_of(info)]):
        if origin not in found:
            found.append(origin)
    return found


def planned_cells(recipe: Recipe, info: SweepInfo) -> list[tuple[str, int]]:
    """Method and seed of every run of the grid: those of the rounds, in their order, else all seeds of each method."""
    if info.rounds:
        return list(dict.fromkeys(cell for added in info.rounds for cell in added.cells))
    return [(method, seed) for method in recipe.sweep.methods for seed in recipe.sweep.first_seeds]


def read_model(path: Path, model: type[Model]) -> Model:
    """A JSON file as a model; raises UserError, naming the first field that does not fit."""
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {field}: {first['msg']}. It is broken or from another version; run again") from error


def _read_recipe(path: Path) -> tuple[str, Recipe]:
    text = path.read_text(encoding="utf-8")
    try:
        return text, Recipe.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a recipe of this version of raymdm: {error}") from error


def _check_rounds(path: Path, recipe: Recipe, info: SweepInfo) -> None:
    named = {method for added in info.rounds for method, _ in added.cells}
    if unknown := sorted(named - set(recipe.sweep.methods)):
        raise UserError(
            f"{path}: its rounds name {', '.join(unknown)}, which recipe.yaml does not have among sweep.methods "
            f"({', '.join(recipe.sweep.methods)}). The two files are from different sweeps; restore one of them"
        )


def _read_trials(
    folder: Path, cells: list[tuple[str, int]]
) -> tuple[list[tuple[Path, TrialResult]], list[tuple[str, str]]]:
    """The finished trials of the grid, at least one, and the name and error of the others."""
    finished: list[tuple[Path, TrialResult]] = []
    failures: list[tuple[str, str]] = []
    for method, seed in cells:
        trial = folder / "trials" / f"{method}-s{seed}"
        if not (trial / "result.json").is_file():
            failures.append((trial.name, NO_RESULT))
            continue
        result = _read_result(trial / "result.json", method, seed)
        if result.status == "finished":
            finished.append((trial, result))
        else:
            failures.append((trial.name, result.error or "no error was recorded"))
    if not finished:
        first = f" The first: {failures[0][0]}: {failures[0][1].strip()[-500:]}" if failures else ""
        raise UserError(f"{folder}: no finished trial, so there is nothing to compare.{first}")
    return finished, failures


def _read_result(path: Path, method: str, seed: int) -> TrialResult:
    result = read_model(path, TrialResult)
    if (result.method, result.seed) != (method, seed):
        raise UserError(
            f"{path}: holds method {result.method!r}, seed {result.seed}; its folder is for {method!r}, seed {seed}. "
            "Delete the folder and resume the sweep"
        )
    return result


def _strangers(trials: Path, cells: list[tuple[str, int]]) -> list[str]:
    grid = {f"{method}-s{seed}" for method, seed in cells}
    return sorted(path.parent.name for path in trials.glob("*/result.json") if path.parent.name not in grid)


def _read_answers(finished: list[tuple[Path, TrialResult]]) -> pd.DataFrame:
    """All scores; checks that every trial was scored on the same examples."""
    frames = []
    reference: pd.Index | None = None
    for trial, result in finished:
        path = trial / "scores.parquet"
        if not path.is_file():
            raise UserError(f"{path} is missing, though result.json says the run finished. Resume the sweep")
        frame = pd.read_parquet(path)
        if missing := [name for name in SCORE_COLUMNS if name not in frame.columns]:
            raise UserError(f"{path}: no column {', '.join(missing)}. It is broken or from another version; run again")
        frame = frame[SCORE_COLUMNS].sort_values("example_id", ignore_index=True)
        ids = pd.Index(frame["example_id"])
        if not len(ids) or not ids.is_unique or not frame["score"].between(0, 1).all():
            raise UserError(f"{path}: expected one row for each test example, with a score between 0 and 1. Run again")
        if reference is None:
            reference = ids
        if not ids.equals(reference):
            raise UserError(
                f"{path}: scored on {len(ids)} test examples, {finished[0][0].name} on {len(reference)}, of which "
                f"{len(ids.intersection(reference))} are the same. Only runs scored on the same examples can be "
                "compared: check that data.max_length keeps the same rows for every model, and run again"
            )
        frames.append(frame.assign(method=result.method, seed=result.seed))
    return pd.concat(frames, ignore_index=True)


def _metric_table(finished: list[tuple[Path, TrialResult]], answers: pd.DataFrame) -> pd.DataFrame:
    """Long form, known metrics first, in their order; accuracy from the scores, which result.json must agree with."""
    accuracy = answers.groupby(["method", "seed"])["score"].mean()
    rows = []
    for trial, result in finished:
        scored = float(accuracy[(result.method, result.seed)])
        reported = result.metrics.get("accuracy")
        if reported is not None and not np.isclose(reported, scored, rtol=0, atol=1e-6):
            raise UserError(
                f"{trial / 'result.json'}: accuracy {reported:.6g}, but the scores beside it have mean {scored:.6g}. "
                "The two files are from different runs; delete the folder and resume the sweep"
            )
        metrics = result.metrics | {"accuracy": scored}
        names = [name for name in METRICS if name in metrics] + sorted(metrics.keys() - METRICS.keys())
        rows += [
            (result.task, result.model, result.method, result.seed, name, metrics[name])
            for name in names
            if metrics[name] is not None
        ]
    return pd.DataFrame(rows, columns=["task", "model", "method", "seed", "metric", "value"])


def _read_curves(finished: list[tuple[Path, TrialResult]]) -> pd.DataFrame:
    """Long form; of a step logged twice, as after a restart, the last line counts."""
    rows = []
    for trial, result in finished:
        path = trial / "metrics.jsonl"
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                logged = LOGGED.validate_json(line)
                rows += [
                    (result.method, result.seed, logged["step"], name, logged[name]) for name in CURVES & logged.keys()
                ]
            except (ValidationError, KeyError) as error:
                raise UserError(f"{path}, line {number}: not a logged step. Remove the line") from error
    curves = pd.DataFrame(rows, columns=["method", "seed", "step", "metric", "value"])
    return curves.drop_duplicates(["method", "seed", "step", "metric"], keep="last")
