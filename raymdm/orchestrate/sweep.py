"""The grid of methods and seeds: data, calibration, then Tune over Train."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from rich.console import Console

from raymdm.config.load import config_hash
from raymdm.config.schema import MethodSpec, Recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.orchestrate import cluster
from raymdm.orchestrate.calibrate import calibrate, calibrations
from raymdm.orchestrate.folder import (
    SweepFolder,
    create,
    latest_unfinished,
    localised,
    owned,
    trial_name,
    write_json,
)
from raymdm.orchestrate.progress import Progress
from raymdm.orchestrate.rounds import Cell, Cells, cells_so_far, finished, next_round
from raymdm.orchestrate.trial import run_trial
from raymdm.tracking.jsonl import JsonlTracker
from raymdm.tracking.mlflow_connection import Connection, connect, sqlite_uri, without_password
from raymdm.tracking.mlflow_tracker import MlflowTracker
from raymdm.tracking.tracker import FanOut, SweepStatus, Tracker, TrialStatus


def sweep(recipe: Recipe, resume: bool, console: Console) -> SweepFolder:
    """Run the recipe's grid to its end, or to Ctrl-C; what happened is in the folder's sweep.json.

    With `resume`, the latest unfinished sweep of the recipe goes on: what is done is not done again. Raises UserError
    for what a user can mend, before anything is trained and before there is a folder; KeyboardInterrupt likewise.
    """
    started = time.monotonic()
    recipe = localised(recipe)
    if resume:
        latest_unfinished(recipe)
    with cluster.connected():
        slots = cluster.slots(recipe, cluster.capacity())
        connected = time.monotonic()
        data = prepare_data(recipe, console)
        for name in recipe.sweep.methods:
            require_marks(recipe.spec(name), data[recipe.spec(name).family])
        for warning in recipe.warnings:
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        prepared = time.monotonic()
        connection = connect_mlflow(recipe)
        recipe = without_secrets(recipe)
        folder = latest_unfinished(recipe) if resume else create(recipe)
        with owned(folder):
            folder.update(status="running", slots=slots)
            folder.add_seconds(
                connect=connected - started, data=prepared - connected, tracking=time.monotonic() - prepared
            )
            console.print(f"sweep folder: {folder.path}", highlight=False, soft_wrap=True)
            tracker = open_tracker(recipe, folder, connection)
            status: SweepStatus = "interrupted"
            try:
                calibrate_methods(recipe, folder, data, console)
                run_cells(recipe, folder, data, slots, tracker, console)
                status = outcome(recipe, folder)
            except KeyboardInterrupt:
                console.print("stopping", highlight=False)
            finally:
                tracker.close(status)
                wall = folder.state()["wall_seconds"] + time.monotonic() - started
                folder.update(status=status, wall_seconds=wall)
    return folder


def calibrate_methods(recipe: Recipe, folder: SweepFolder, data: dict[str, Path], console: Console) -> None:
    """Fit every density that a method of the grid draws rates from, once for all its methods and seeds."""
    wanted = calibrations(map(recipe.spec, recipe.sweep.methods))
    if not wanted:
        return
    started = time.monotonic()
    console.print(f"calibrating p(t) for {', '.join(wanted)}", highlight=False)
    calibrate(recipe, wanted, data["mdm"], folder.calibrations)
    folder.add_seconds(calibrate=time.monotonic() - started)


def outcome(recipe: Recipe, folder: SweepFolder) -> SweepStatus:
    """`finished` when every cell has its result, `failed` when the others have errors, else `interrupted`."""
    left = [cell for cell in cells_so_far(recipe, folder) if not finished(folder, cell)]
    looking = not isinstance(recipe.sweep.seeds, list) and not folder.state()["stopped"]
    if not left:
        return "interrupted" if looking else "finished"
    failed = all((folder.trial(*cell) / "result.json").exists() for cell in left)
    return "failed" if failed else "interrupted"


def prepare_data(recipe: Recipe, console: Console) -> dict[str, Path]:
    """Tokenise once for each model family of the grid; returns family -> prepared folder."""
    cache = Path(recipe.output).absolute() / "cache" / "data"
    data = {family: prepare(recipe.data, model, cache) for family, model in _models(recipe).items()}
    for path in dict.fromkeys(data.values()):
        meta = loading.meta(path)
        console.print(f"data: {path} {json.dumps(meta['counts'])}", highlight=False, soft_wrap=True)
    return data


def require_marks(method: MethodSpec, data: Path) -> None:
    """Raise UserError when the data has none of the tokens that the method treats apart."""
    if method.eligible == "syrm":
        loading.require_tokens(data, "syntax")
    if method.delimiter_factor > 1:
        loading.require_tokens(data, "delimiter")


def _models(recipe: Recipe) -> dict[str, Any]:
    return {"mdm": recipe.model, "arm": recipe.arm_model or recipe.model}


def connect_mlflow(recipe: Recipe) -> Connection | None:
    """MLflow, which must answer before anything is trained; None when it is switched off."""
    if not recipe.tracking.mlflow:
        return None
    output = Path(recipe.output).absolute()
    uri = recipe.tracking.uri or sqlite_uri(output / "mlflow.db")
    return connect(uri, recipe.tracking.experiment or recipe.name, output / "mlflow-artifacts")


def without_secrets(recipe: Recipe) -> Recipe:
    """The recipe as it may be written down: without a password in the tracking URI."""
    uri = recipe.tracking.uri
    tracking = recipe.tracking.model_copy(update={"uri": without_password(uri, uri) if uri else None})
    return recipe.model_copy(update={"tracking": tracking})


def open_tracker(recipe: Recipe, folder: SweepFolder, connection: Connection | None) -> Tracker:
    """JSON lines and, unless switched off, MLflow."""
    trackers: list[Tracker] = [JsonlTracker(folder.path / "trials")]
    if connection:
        folder.update(mlflow_uri=without_password(connection.uri, connection.uri))
        parameters = recipe.model_dump(mode="json")
        trackers.append(MlflowTracker(connection, folder.path.name, parameters, _tags(recipe, folder)))
    return FanOut(trackers)


def _tags(recipe: Recipe, folder: SweepFolder) -> dict[str, str]:
    commit = folder.state()["git_commit"] or "none"
    return {"config_hash": config_hash(recipe), "git_commit": commit, "task": recipe.data.task}


@dataclass
class _Observer(tune.Callback):
    """Passes on what Tune hears from the runs, to the tracker and to the screen."""

    recipe: Recipe
    folder: SweepFolder
    tracker: Tracker
    progress: Progress

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.Callback, ()  # Tune saves its callbacks; this one belongs to the process

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        method, seed = trial.config["cell"]
        (self.folder.trial(method, seed) / "result.json").unlink(missing_ok=True)  # an earlier failure
        self._start((method, seed))
        self.progress.started(_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "phase" in result:
            self.tracker.log(_name(trial), result["records"])
            self.progress.result(_name(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        method, seed = trial.config["cell"]
        if not (self.folder.trial(method, seed) / "result.json").exists():
            return  # stopped from outside
        self.progress.ended(_name(trial), self._end((method, seed)))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The run's driver process was lost more often than `sweep.max_failures` allows."""
        method, seed = trial.config["cell"]
        error = Path(trial.error_file).read_text() if trial.error_file else "no error was recorded"
        failure = {"task": self.recipe.data.task, "model": self.recipe.model_for(method).path or "tiny",
                   "method": method, "seed": seed, "status": "failed", "error": error, "metrics": {}}  # fmt: skip
        write_json(self.folder.trial(method, seed) / "result.json", failure)
        self.progress.ended(_name(trial), self._end((method, seed)))

    def replay(self, cell: Cell) -> None:
        """Tell the tracker of a cell that finished before: the sweep may have ended before it heard of it."""
        self._start(cell)
        told = json.loads((self.folder.trial(*cell) / "records.json").read_text())
        self.tracker.log(trial_name(*cell), told["records"])
        self._end(cell)

    def _start(self, cell: Cell) -> None:
        method, seed = cell
        tags = _tags(self.recipe, self.folder) | {"method": method, "seed": str(seed)}
        self.tracker.start(trial_name(method, seed), params(self.recipe, method, seed), tags)

    def _end(self, cell: Cell) -> TrialStatus:
        """Tell the tracker what result.json says; returns the run's status."""
        name, path = trial_name(*cell), self.folder.trial(*cell)
        result = json.loads((path / "result.json").read_text())
        status: TrialStatus = result["status"]
        self.tracker.log_summary(name, result["metrics"])
        method = self.recipe.spec(cell[0])
        files = [path / "scores.parquet", self.folder.path / "recipe.yaml"]
        if method.calibrated:
            density = self.folder.calibrations / method.calibration
            files += [density / "density.json", density / "density.png"]
        self.tracker.artifacts(name, [file for file in files if file.exists()])
        self.tracker.finish(name, status, result["error"])
        return status


def _name(trial: Trial) -> str:
    return trial_name(*trial.config["cell"])


def params(recipe: Recipe, method: str, seed: int) -> dict[str, Any]:
    """A run's parameters for MLflow: the resolved recipe with this run's method and seed, and the method's parts."""
    resolved = recipe.model_copy(update={"method": method, "seed": seed}).model_dump(mode="json", exclude={"sweep"})
    return resolved | {"method_parts": recipe.spec(method).model_dump(mode="json")}


def run_cells(
    recipe: Recipe, folder: SweepFolder, data: dict[str, Path], slots: int, tracker: Tracker, console: Console
) -> None:
    """Tune over the cells that have no result yet; returns when all have ended or the user interrupts."""
    cells = cells_so_far(recipe, folder)
    waiting = [cell for cell in cells if not finished(folder, cell)]
    progress = Progress([trial_name(*cell) for cell in waiting], slots, console)
    observer = _Observer(recipe, folder, tracker, progress)
    if len(waiting) < len(cells):
        console.print(f"{len(cells) - len(waiting)} of {len(cells)} runs are done already", highlight=False)
        for cell in cells:
            if cell not in waiting:
                observer.replay(cell)

    def more() -> list[Cell]:
        added = next_round(recipe, folder, console)
        progress.add([trial_name(*cell) for cell in added])
        return added

    waiting = waiting or more()
    if not waiting:
        return
    started = time.monotonic()
    adaptive = not isinstance(recipe.sweep.seeds, list)
    space: dict[str, Any] = {
        "sweep": str(folder.path),
        "data": {family: str(path) for family, path in data.items()},
    }
    if not adaptive:
        space["cell"] = tune.grid_search([list(cell) for cell in waiting])
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"CPU": cluster.DRIVER_CPUS}),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=slots,
            reuse_actors=True,
            search_alg=Cells(waiting, more) if adaptive else None,
            num_samples=-1 if adaptive else 1,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(folder.path / "tune"),
            failure_config=tune.FailureConfig(max_failures=recipe.sweep.max_failures),
            callbacks=[observer, JsonLoggerCallback()],
            verbose=0,
        ),
    )
    # Tune's advice to call Tuner.restore does not hold here: unfinished cells get a new Tuner
    logging.getLogger("ray.tune.tune").addFilter(lambda record: "Tuner.restore" not in record.getMessage())
    progress.start()
    try:
        tuner.fit()
    finally:
        progress.stop()
        folder.add_seconds(runs=time.monotonic() - started)
