"""What a sweep's driver hears of its runs, and whom it tells: the trackers, the screen, the runs' folders."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from ray import tune
from ray.tune.experiment import Trial

from raymdm.config.load import config_hash
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.folder import SweepFolder, trial_name
from raymdm.orchestrate.origin import note, origins_of, stamp, tags
from raymdm.orchestrate.progress import Progress
from raymdm.orchestrate.rounds import Cell, ended
from raymdm.storage import refused
from raymdm.tracking.jsonl import append, recover
from raymdm.tracking.tracker import Tracker, TrialStatus

ANEW = {"resumed", "broken_checkpoint", "left", "other_density"}
"""Events of an attempt, not of a step."""
TOLD = {"broken_checkpoint", "skipped_step", "left", "other_density"}
"""Events that a person who watches should see at once; the others are written down."""
P = ParamSpec("P")


def _kept_alive(method: Callable[Concatenate["Observer", P], None]) -> Callable[Concatenate["Observer", P], None]:
    """A disk that is full or gone, or a broken file, ends the sweep in good order, not in the middle of Tune."""

    @wraps(method)
    def safely(self: "Observer", *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with refused.told("write", str(self.folder.path)):
                method(self, *args, **kwargs)
        except UserError as error:
            self.problem = self.problem or str(error)

    return safely


@dataclass
class Observer(tune.Callback):
    """Passes on what Tune hears from the runs."""

    recipe: Recipe
    folder: SweepFolder
    tracker: Tracker
    progress: Progress
    problem: str | None = None
    """Why no run can go on: storage refuses."""
    failed: list[str] = field(default_factory=list)
    """Runs that failed in this process's time."""
    training: set[str] = field(default_factory=set)
    """Runs that hold training's resources."""
    left: set[str] = field(default_factory=set)
    """Those of them whose last report was that they leave."""

    def stepping(self) -> set[str]:
        """Runs that train, by what they said last."""
        return {name for name in self.training - self.left if self.progress.rows[name].phase == "training"}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.Callback, ()  # Tune saves its callbacks; this one belongs to the process

    @_kept_alive
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.training.add(name_of(trial))
        note(self.folder, tuple(trial.config["cell"]))
        tell_start(self.tracker, self.recipe, self.folder, tuple(trial.config["cell"]))
        self.progress.started(name_of(trial))

    @_kept_alive
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("phase") == "stopped":
            self.problem = self.problem or result["problem"]
        elif "phase" in result:
            if result["phase"] == "scoring":
                self.training.discard(name_of(trial))
            (self.left.add if result.get("left") else self.left.discard)(name_of(trial))
            self.tracker.log(name_of(trial), result["records"])
            self._note(trial, result["events"])
            self.progress.result(name_of(trial), result)

    @_kept_alive
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.training.discard(name_of(trial))
        method, seed = trial.config["cell"]
        self.folder.pull(method, seed)
        if (self.folder.trial(method, seed) / "result.json").exists():  # else it was stopped from outside
            self._ended(trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The run's process was lost, and another one goes on."""
        self.training.discard(name_of(trial))
        self._say(f"{name_of(trial)}: its process was lost; it goes on from its last checkpoint")

    @_kept_alive
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The run's process was lost more often than the recipe allows."""
        self.training.discard(name_of(trial))
        method, seed = trial.config["cell"]
        self.folder.pull(method, seed)
        if ended(self.folder, (method, seed)):  # it had ended, and was lost before it could say so
            return self._ended(trial)
        error = Path(trial.error_file).read_text() if trial.error_file else "no error was recorded"
        failure = {"task": self.recipe.data.task, "model": self.recipe.model_for(method).path or "tiny",
                   "method": method, "seed": seed, "status": "failed", "error": error, "metrics": {}}  # fmt: skip
        self.folder.write(f"trials/{name_of(trial)}/result.json", json.dumps(failure, indent=1))
        self._ended(trial)

    def _note(self, trial: Trial, events: list[dict[str, Any]]) -> None:
        """Keep what happened in the run's events.jsonl, once: steps that are done again tell it again."""
        path = self.folder.path / "trials" / name_of(trial) / "events.jsonl"
        known = noted(path) if events else set()
        new = [event for event in events if _identity(event) not in known or event["event"] in ANEW]
        if not new:
            return
        append(path, "".join(json.dumps(event) + "\n" for event in new).encode())
        for event in new:
            if event["event"] in TOLD:
                self._say(f"{name_of(trial)}, step {event['step']}: {event['message'].splitlines()[0]}")

    def _say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _ended(self, trial: Trial) -> None:
        status = tell_end(self.tracker, self.recipe, self.folder, tuple(trial.config["cell"]))
        if status == "failed":
            self.failed.append(name_of(trial))
        self.progress.ended(name_of(trial), status)


def noted(path: Path) -> set[tuple[int, str]]:
    """Which events a run's events.jsonl holds; a last line that was cut short, which `append` drops, is passed over."""
    if not path.exists():
        return set()
    found = set()
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            identity = _identity(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith(b"\n"):
            found.add(identity)
    return found


def _identity(event: dict[str, Any]) -> tuple[int, str]:
    """A step is skipped once, and is one spike."""
    return event["step"], event["event"]


class Stopper(tune.Stopper):
    """Ends the whole sweep when storage refuses or, where the recipe says so, when a run has failed."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.stopper.NoopStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        fail_fast = self._observer.recipe.sweep.on_failure == "fail_fast"
        return bool(self._observer.problem or (fail_fast and self._observer.failed))


def replay(tracker: Tracker, recipe: Recipe, folder: SweepFolder, cell: Cell) -> None:
    """Tell the tracker of a run from its files: the sweep may have ended before the tracker heard of it."""
    path, name = folder.trial(*cell), trial_name(*cell)
    tell_start(tracker, recipe, folder, cell)
    if (path / "records.json").exists():
        tracker.log(name, json.loads((path / "records.json").read_text())["records"])
    elif (path / "metrics.jsonl").exists():
        tracker.log(name, recover(path / "metrics.jsonl"))
    if ended(folder, cell):
        tell_end(tracker, recipe, folder, cell)


def tell_start(tracker: Tracker, recipe: Recipe, folder: SweepFolder, cell: Cell) -> None:
    """Tell the tracker that a run begins or goes on."""
    method, seed = cell
    ran_under = tags(origins_of(folder, cell))
    own = sweep_tags(recipe, folder) | ran_under | {"method": method, "seed": str(seed)}
    tracker.start(trial_name(method, seed), params(recipe, method, seed), own)


def tell_end(tracker: Tracker, recipe: Recipe, folder: SweepFolder, cell: Cell) -> TrialStatus:
    """Tell the tracker what result.json says; returns the run's status."""
    name, path = trial_name(*cell), folder.trial(*cell)
    result = stamp(folder, cell)
    status: TrialStatus = result["status"]
    tracker.log_summary(name, result["metrics"])
    method = recipe.spec(cell[0])
    files = [path / "scores.parquet", path / "events.jsonl", folder.path / "recipe.yaml"]
    if method.calibrated:
        density = folder.calibrations / method.calibration
        files += [density / "density.json", density / "density.png"]
    tracker.artifacts(name, [file for file in files if file.exists()])
    tracker.finish(name, status, result["error"])
    return status


def name_of(trial: Trial) -> str:
    return trial_name(*trial.config["cell"])


def sweep_tags(recipe: Recipe, folder: SweepFolder) -> dict[str, str]:
    """Tags of a sweep's MLflow run, with the commit it was begun under, and of those of its cells."""
    commit = folder.state()["git_commit"] or "none"
    return {"config_hash": config_hash(recipe), "git_commit": commit, "task": recipe.data.task}


def params(recipe: Recipe, method: str, seed: int) -> dict[str, Any]:
    """A run's parameters for MLflow: the resolved recipe with this run's method and seed, and the method's parts."""
    resolved = recipe.model_copy(update={"method": method, "seed": seed}).model_dump(mode="json", exclude={"sweep"})
    return resolved | {"method_parts": recipe.spec(method).model_dump(mode="json")}
