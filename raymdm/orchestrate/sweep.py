"""The grid of methods and seeds: data, calibration, then Tune over Train."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from raymdm.config.load import config_hash
from raymdm.config.schema import MethodSpec, Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate.begin import Choose, create, latest, opened, taken
from raymdm.orchestrate.calibrate import announced, calibrate, calibrations
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.folder import SweepFolder, localised, trial_name
from raymdm.orchestrate.inputs import identify
from raymdm.orchestrate.interrupt import Interrupt
from raymdm.orchestrate.observer import Observer, Stopper, replay, sweep_tags
from raymdm.orchestrate.origin import go_on_with
from raymdm.orchestrate.plan import cost, ordered
from raymdm.orchestrate.pool import no_room
from raymdm.orchestrate.progress import Progress
from raymdm.orchestrate.rounds import Cell, Cells, cells_so_far, ended, finished, next_round
from raymdm.orchestrate.shared import location
from raymdm.orchestrate.trial import run_trial
from raymdm.storage import StorageError
from raymdm.tracking.jsonl import JsonlTracker
from raymdm.tracking.mlflow_connection import Connection, connect, sqlite_uri, without_password
from raymdm.tracking.mlflow_tracker import MlflowTracker
from raymdm.tracking.tracker import FanOut, SweepStatus, Tracker

MLFLOW_PATIENCE_S = 300.0
"""Seconds that the end of a sweep waits for MLflow to hear everything."""


def sweep(recipe: Recipe, resume: bool, console: Console) -> SweepFolder:
    """Run the recipe's grid to its end, or to Ctrl-C; what happened is in the folder's sweep.json.

    With `resume`, the latest sweep of the recipe goes on that has not finished, or whose grid the recipe extends: what
    has ended is not run again, failed runs included. Raises UserError for what a user can mend, other data or another
    model than the sweep was begun with among it, before anything is trained and before there is a folder, StorageError
    when storage refuses on the way; KeyboardInterrupt before anything is trained.
    """
    recipe = localised(recipe)
    if resume:
        latest(recipe)
    choose: Choose = (lambda final, inputs: latest(final)) if resume else create
    return _run(recipe, choose, resume, console)


def go_on(folder: SweepFolder, recipe: Recipe, console: Console, reopen: Callable[[SweepFolder], None]) -> SweepFolder:
    """Run the cells of a sweep that have not ended; errors as `sweep`. reopen: called when the sweep is this process's
    and nothing can be refused any more."""
    return _run(localised(recipe), lambda final, inputs: opened(folder.path), True, console, reopen)


def _run(
    recipe: Recipe,
    choose: Choose,
    resume: bool,
    console: Console,
    reopen: Callable[[SweepFolder], None] = lambda folder: None,
) -> SweepFolder:
    """Connect, prepare, and run in the folder that `choose` gives."""
    started = time.monotonic()
    with connected():
        have = cluster.capacity()
        slots = cluster.slots(recipe, have)
        cluster.keep_count(recipe)
        at_ray = time.monotonic()
        data = prepare_data(recipe, console)
        for name in recipe.sweep.methods:
            require_marks(recipe.spec(name), data[recipe.spec(name).family])
        for warning in recipe.warnings:
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        inputs = identify(recipe, data)
        prepared = time.monotonic()
        connection = connect_mlflow(recipe, required=not resume)
        recipe = without_secrets(recipe)
        with taken(recipe, inputs, choose) as folder:
            (folder.path / "progress.json").unlink(missing_ok=True)  # of a process that has gone
            if resume:
                folder.store_recipe(recipe)
                for line in go_on_with(folder, inputs):
                    console.print(line, highlight=False, soft_wrap=True)
            folder.update(status="running", slots=slots, error=None)
            reopen(folder)
            folder.add_seconds(connect=at_ray - started, data=prepared - at_ray, tracking=time.monotonic() - prepared)
            console.print(f"sweep folder: {folder.path}", highlight=False, soft_wrap=True)
            tracker = open_tracker(recipe, folder, connection)
            status: SweepStatus = "interrupted"
            try:
                with noted(folder, "calibration"):
                    calibrate_methods(recipe, folder, data, console)
                with noted(folder, "runs"):
                    run_cells(recipe, folder, data, (slots, cluster.overlap(recipe, have)), tracker, console)
                status = outcome(recipe, folder)
            except KeyboardInterrupt:
                console.print("stopping", highlight=False)
            finally:
                _settle(folder, status, time.monotonic() - started)
                try:
                    tracker.close(status)
                except KeyboardInterrupt:
                    console.print(f"MLflow was not told everything: raymdm sync {folder.path}", highlight=False)
    return folder


@contextmanager
def noted(folder: SweepFolder, stage: str) -> Iterator[None]:
    """Write down why a stage ends the sweep, for `raymdm status`; a disk that does not take it is told already."""
    try:
        yield
    except Exception as error:
        told = no_room(error) or error
        lines = str(told).strip().splitlines() or [""]
        text = str(told) if isinstance(told, UserError) else f"{type(told).__name__}: {lines[-1]}"
        with suppress(StorageError):
            folder.update(error={"stage": stage, "text": text})
        raise


def _settle(folder: SweepFolder, status: SweepStatus, seconds: float) -> None:
    """Write down how the sweep ended; on a full disk sweep.json stays as it was, which loses nothing."""
    try:
        folder.update(status=status, wall_seconds=folder.state()["wall_seconds"] + seconds)
    except StorageError as error:
        if status != "interrupted":  # else nothing is new, and what storage refuses is told already
            logging.getLogger(__name__).warning("the end of the sweep could not be written down: %s", error)


def calibrate_methods(recipe: Recipe, folder: SweepFolder, data: dict[str, Path], console: Console) -> None:
    """Fit every density that a method of the grid draws rates from, once for all its methods and seeds."""
    wanted = calibrations(map(recipe.spec, recipe.sweep.methods))
    if not wanted:
        return
    started = time.monotonic()
    for line in announced(recipe, wanted, data["mdm"], folder.calibrations):
        console.print(line, highlight=False, soft_wrap=True)
    calibrate(recipe, wanted, data["mdm"], folder.calibrations)
    folder.push("calibrations")
    folder.add_seconds(calibrate=time.monotonic() - started)


def outcome(recipe: Recipe, folder: SweepFolder) -> SweepStatus:
    """`finished` when every cell has its result, `failed` when the others have errors or a failure stopped them, else
    `interrupted`."""
    left = [cell for cell in cells_so_far(recipe, folder) if not finished(folder, cell)]
    looking = not isinstance(recipe.sweep.seeds, list) and not folder.state()["stopped"]
    if not left:
        return "interrupted" if looking else "finished"
    failed = [cell for cell in left if ended(folder, cell)]
    stopped = recipe.sweep.on_failure == "fail_fast" and failed
    return "failed" if stopped or len(failed) == len(left) else "interrupted"


def prepare_data(recipe: Recipe, console: Console) -> dict[str, Path]:
    """Tokenise once for each model family of the grid; returns family -> prepared folder."""
    from raymdm.data.prepare import prepare

    cache = Path(recipe.output).absolute() / "cache" / "data"
    data = {family: prepare(recipe.data, model, cache, family) for family, model in _models(recipe).items()}
    alike = len({*data.values()}) == 1
    for path, family in {path: family for family, path in data.items()}.items():
        what = "data" if alike else f"data of {family}"
        console.print(f"{what}: {counted(loading.meta(path)['counts'])} ({path})", highlight=False, soft_wrap=True)
    return data


def counted(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of each split in words; counts: of a prepared folder's meta.json."""
    parts = [
        f"{split} {part['kept']}" + (f" of {part['rows']} rows" if part["kept"] < part["rows"] else " rows")
        for split, part in counts.items()
    ]
    lost = {"too long": sum(part["too_long"] for part in counts.values()),
            "not usable": counts["train"]["bad_rows"] + counts["test"]["bad_rows"]}  # fmt: skip
    return "; ".join([", ".join(parts), *(f"{number} {why}" for why, number in lost.items() if number)])


def require_marks(method: MethodSpec, data: Path) -> None:
    """Raise UserError when the data has none of the tokens that the method treats apart."""
    if method.eligible == "syrm":
        loading.require_tokens(data, "syntax")
    if method.delimiter_factor > 1:
        loading.require_tokens(data, "delimiter")


def _models(recipe: Recipe) -> dict[str, Any]:
    return {"mdm": recipe.model, "arm": recipe.arm_model or recipe.model}


def connect_mlflow(recipe: Recipe, required: bool = True) -> Connection | None:
    """MLflow, which must answer before anything is trained unless it is not `required`: then a server may come back
    later. None when it is switched off."""
    if not recipe.tracking.mlflow:
        return None
    output = Path(recipe.output).absolute()
    uri = recipe.tracking.uri or sqlite_uri(output / "mlflow.db")
    experiment = recipe.tracking.experiment or recipe.name
    return connect(uri, experiment, output / "mlflow-artifacts", required=required)


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
        tags = sweep_tags(recipe, folder)
        trackers.append(MlflowTracker(connection, folder.path.name, parameters, tags, patience=MLFLOW_PATIENCE_S))
    return FanOut(trackers)


def run_cells(
    recipe: Recipe,
    folder: SweepFolder,
    data: dict[str, Path],
    room: tuple[int, int],
    tracker: Tracker,
    console: Console,
    trainable: Callable[[dict[str, Any]], None] = run_trial,
) -> None:
    """Tune over the cells that have not ended; returns when all have, or the user interrupts: then with checkpoints of
    the runs that train (see `Interrupt`).

    room: runs that may train at once, and runs that may be scored beside them. Raises StorageError when storage
    refuses.
    """
    slots, beside = room
    cells = cells_so_far(recipe, folder)
    waiting = [cell for cell in cells if not ended(folder, cell)]
    costs = {method: cost(recipe, method) for method in recipe.sweep.methods}
    names = [trial_name(*cell) for cell in ordered(recipe, waiting)]
    progress = Progress(names, slots, console, file=folder.path / "progress.json", costs=costs)
    observer = Observer(recipe, folder, tracker, progress)
    interrupt = Interrupt(observer)
    if len(waiting) < len(cells):
        console.print(f"{len(cells) - len(waiting)} of {len(cells)} runs are done already", highlight=False)
        for cell in cells:
            if cell not in waiting:
                replay(tracker, recipe, folder, cell)

    def more() -> list[Cell]:
        added = ordered(recipe, next_round(recipe, folder, console))
        progress.add([trial_name(*cell) for cell in added])
        return added

    waiting = ordered(recipe, waiting) or more()
    if not waiting:
        return
    started = time.monotonic()
    space = {
        "sweep": folder.storage.uri,
        "recipe_hash": config_hash(recipe),
        "data": {family: location(recipe, path) for family, path in data.items()},
        "stop": interrupt.key,
    }
    failures = recipe.sweep.max_failures + (recipe.train.max_failures if cluster.reuses(recipe) else 0)
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(recipe)),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=slots + beside,
            reuse_actors=True,
            search_alg=Cells(waiting, more, lambda: len(observer.training) < slots, lambda: interrupt.signals > 0),
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:12]}",
            storage_path=folder.storage.child("tune").uri,
            failure_config=tune.FailureConfig(max_failures=failures),
            callbacks=[observer],
            stop=tune.stopper.CombinedStopper(Stopper(observer), interrupt),
            verbose=0,
        ),
    )
    # Tune's advice to call Tuner.restore does not hold here: unfinished cells get a new Tuner
    logging.getLogger("ray.tune.tune").addFilter(lambda record: "Tuner.restore" not in record.getMessage())
    for told_shorter in ("tune_controller", "experiment_state"):  # by the observer, and where storage refuses
        logging.getLogger(f"ray.tune.execution.{told_shorter}").setLevel(logging.CRITICAL)
    # results are read from the runs' folders, not from files of Tune's
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    progress.start()
    try:
        with interrupt.listening():
            tuner.fit()
    finally:
        progress.stop()
        if not observer.problem:
            folder.add_seconds(runs=time.monotonic() - started)
    if observer.problem:
        raise StorageError(observer.problem)
    for name in ("tune", "ray"):  # what Tune and Train wrote for themselves
        folder.storage.delete(name)


def _resources(recipe: Recipe) -> dict[str, float]:
    """What Tune reserves for a run: its driver, which is all of it where the driver trains."""
    settings = recipe.train
    if not cluster.reuses(recipe):
        return {"CPU": cluster.DRIVER_CPUS}
    gpus = {"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}
    return {"CPU": settings.cpus_per_worker + cluster.DRIVER_CPUS} | gpus
