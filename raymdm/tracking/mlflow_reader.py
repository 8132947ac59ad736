"""Finished runs of an MLflow experiment as long tables, the form in which runs of any origin are compared.

Reading changes nothing in the store: no experiment is made, and no database file.
"""

import difflib
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from raymdm.errors import UserError
from raymdm.tracking.mlflow_connection import (
    _SQLITE,
    _absolute,
    _quiet_start,
    _sqlite_path,
    client_settings,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

RUN = ["task", "model", "method", "seed"]
TAGS = ("task", "method", "seed")
SCORES = "scores.parquet"
PARENT = "mlflow.parentRunId"
ADAPTIVE = "sweep.seeds.stop_when"
"""Parameter of a sweep's run that only an adaptive one has."""
PAGE = 1000
"""Runs a request."""
LARGEST = 1.79e308
"""MLflow's SQL stores keep an infinite metric as the largest double."""

LABELS = (
    "name", "description", "output", "storage_path", "tracking.", "diagnose.", "method", "methods.", "seed",
    "train.max_failures", "train.checkpoint_every", "train.keep_checkpoints", "train.placement_strategy",
    "train.cpus_per_worker", "calibrate.num_actors", "calibrate.cpus_per_actor", "evaluate.num_actors",
    "evaluate.cpus_per_actor",
)  # fmt: skip
"""Parameters of a run, sections with a dot, that do not tell whether its seeds may be pooled with another sweep's."""


CALIBRATED = ("p_pots", "g_pots")
"""Densities that a calibration decides."""


class _Trial(NamedTuple):
    """A finished child run."""

    key: tuple[str, str, str, int]
    """Task, model, method and seed."""
    parent: str
    """Name of the sweep's run."""
    is_adaptive: bool
    """Whether the sweep added seeds as its results asked for them."""
    run: "Run"


def read_experiment(uri: str, experiment: str, parent: str | None, download: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results `task,model,method,seed,metric,value` and scores `..,seed,example_id,score` of the finished runs.

    `parent` names the sweep whose runs are meant; None takes those of all. Runs' files are copied below `download`. The
    scores are those of the runs that keep a scores.parquet: perhaps none.

    Raises UserError where the store cannot be read; where the experiment, the parent or a finished run is not there;
    where a sweep is adaptive; where two sweeps hold the same run, or runs of one method under different parameters,
    whose seeds cannot be pooled.
    """
    uri = _absolute(uri)
    if uri.startswith(_SQLITE):
        _check_sqlite(uri)
    try:
        with client_settings(), _quiet_start():
            client = _client(uri)
            trials = _select(_trials(client, _find(client, experiment, uri)), experiment, parent, uri)
            return _results(trials), _scores(client, trials, download)
    except UserError:
        raise
    except Exception as error:  # whatever a store, a driver or a proxy raises: the person is told
        raise UserError(_unreachable(uri, error)) from error


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _check_sqlite(uri: str) -> None:
    """MLflow would make a file that is not there, and tables in one that is empty."""
    path = _sqlite_path(uri)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the SQLite file of an MLflow store, as sqlite:///runs/mlflow.db")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read as a SQLite file: {error}. Name an MLflow store") from error
    if found is None:
        raise UserError(f"{path} is a SQLite file without MLflow's tables. Name an MLflow store")


def _find(client: "MlflowClient", name: str, uri: str) -> "Experiment":
    found = client.get_experiment_by_name(name)
    store = without_password(uri, uri)
    if found is not None and found.lifecycle_stage == "deleted":
        raise UserError(
            f"experiment {name!r} was deleted in {store}; restore it: MLFLOW_TRACKING_URI={store} mlflow experiments "
            f"restore --experiment-id {found.experiment_id}"
        )
    if found is None:
        held = sorted(other.name for other in client.search_experiments(max_results=PAGE))
        near = difflib.get_close_matches(name, held, n=5, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are: {', '.join(held[:10]) or 'none'}"
        raise UserError(f"{store} has no experiment {name!r}. {hint}")
    return found


def _trials(client: "MlflowClient", experiment: "Experiment") -> list[_Trial]:
    """The experiment's finished child runs that have a trial's tags, in the order they were begun."""
    sweeps: dict[str, Run] = {}
    found = []
    for run in _finished_runs(client, experiment.experiment_id):
        tags = run.data.tags
        if PARENT not in tags or any(name not in tags for name in TAGS):
            continue
        parent = tags[PARENT]
        if parent not in sweeps:
            sweeps[parent] = client.get_run(parent)
        sweep = sweeps[parent]
        if not tags["seed"].isdecimal():
            raise UserError(f"run {run.info.run_name} ({run.info.run_id}): tag seed is {tags['seed']!r}, not a number")
        key = tags["task"], _model(run), tags["method"], int(tags["seed"])
        found.append(_Trial(key, sweep.info.run_name, ADAPTIVE in sweep.data.params, run))
    return found


def _finished_runs(client: "MlflowClient", experiment_id: str) -> Iterator["Run"]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            "attributes.status = 'FINISHED'",
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _model(run: "Run") -> str:
    """The model's path, or `tiny`, as result.json has it."""
    params = run.data.params
    family = params.get("method_parts.family", "arm" if run.data.tags["method"] == "arm" else "mdm")
    own = family == "arm" and "arm_model.kind" in params
    path = params.get("arm_model.path" if own else "model.path", "null")
    return "tiny" if path == "null" else path


def _select(trials: list[_Trial], experiment: str, parent: str | None, uri: str) -> list[_Trial]:
    store, parents = without_password(uri, uri), list(dict.fromkeys(trial.parent for trial in trials))
    if not trials:
        raise UserError(
            f"experiment {experiment!r} in {store} has no finished run of a sweep (a child run with the tags "
            f"{', '.join(TAGS)})"
        )
    if parent is not None:
        if parent not in parents:
            raise UserError(
                f"experiment {experiment!r} in {store}: no sweep {parent!r} with a finished run. There are: "
                f"{', '.join(parents)}"
            )
        chosen = [trial for trial in trials if trial.parent == parent]
        _refuse_adaptive(chosen, trials)
        return chosen
    _refuse_adaptive(trials, trials)
    held: dict[tuple[str, str, str, int], _Trial] = {}
    firsts: dict[tuple[str, str, str], _Trial] = {}
    for trial in trials:
        first = held.setdefault(trial.key, trial)
        if first is not trial:
            task, _, method, seed = trial.key
            _choose(f"hold {method}-s{seed} of task {task} twice ({first.parent} and {trial.parent})", parents)
        first = firsts.setdefault(trial.key[:3], trial)
        if changed := _changed(first, trial):
            _choose(
                f"ran {trial.key[2]} under different parameters, so its seeds cannot be pooled ({first.parent} and "
                f"{trial.parent}: {'; '.join(changed)})",
                parents,
            )
    return trials


def _refuse_adaptive(chosen: list[_Trial], trials: list[_Trial]) -> None:
    """MLflow does not hold the looks, without which seeds added as needed would be tested as if fixed beforehand."""
    adaptive = [trial.parent for trial in chosen if trial.is_adaptive]
    if adaptive:
        others = list(dict.fromkeys(trial.parent for trial in trials if not trial.is_adaptive))
        choice = f". Or choose another sweep with --parent NAME: {', '.join(others)}" if others else ""
        raise UserError(
            f"sweep {adaptive[0]} added seeds as needed; its looks at the results are in its folder: compare "
            f"the folder (raymdm compare SWEEP_DIR){choice}"
        )


def _choose(what: str, parents: list[str]) -> None:
    raise UserError(f"sweeps of the experiment {what}. Choose one with --parent NAME: {', '.join(parents)}")


def _changed(first: _Trial, second: _Trial) -> list[str]:
    """`train.lr: 0.1 and 0.2` for each parameter of two sweeps' runs that differs and matters."""
    if first.parent == second.parent:
        return []
    ours, theirs = first.run.data.params, second.run.data.params
    calibrated = ours.get("method_parts.density") in CALIBRATED
    labels = LABELS if calibrated else (*LABELS, "calibrate.", "train.refit_every")
    return [
        f"{name}: {ours.get(name, '(none)')} and {theirs.get(name, '(none)')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name) and not _is_label(name, labels)
    ]


def _is_label(param: str, labels: tuple[str, ...]) -> bool:
    return any(param.startswith(name) if name.endswith(".") else param == name for name in labels)


def _results(trials: list[_Trial]) -> pd.DataFrame:
    """Final metrics alone: those logged on the way have a slash in their names."""
    rows = [
        (*trial.key, name, math.copysign(math.inf, value) if abs(value) > LARGEST else value)
        for trial in trials
        for name, value in trial.run.data.metrics.items()
        if "/" not in name
    ]
    if not rows:
        raise UserError("the finished runs have no final metrics, such as accuracy; name another experiment")
    return pd.DataFrame(rows, columns=[*RUN, "metric", "value"])


def _scores(client: "MlflowClient", trials: list[_Trial], download: Path) -> pd.DataFrame:
    keys, frames = [], []
    for trial in trials:
        run_id = trial.run.info.run_id
        if all(file.path != SCORES for file in client.list_artifacts(run_id)):
            continue
        folder = download / run_id
        folder.mkdir(parents=True, exist_ok=True)
        path = client.download_artifacts(run_id, SCORES, str(folder))
        try:
            frames.append(pd.read_parquet(path, columns=["example_id", "score"]))
        except (ValueError, OSError) as error:
            name = f"run {trial.run.info.run_name} ({run_id})"
            raise UserError(
                f"{name}: its {SCORES} has no columns example_id and score, or is broken: {error}"
            ) from error
        keys.append(trial.key)
    if not frames:
        return pd.DataFrame(columns=[*RUN, "example_id", "score"])
    rows = np.repeat(np.arange(len(keys)), [len(frame) for frame in frames])
    # as categories: a sweep may have millions of scores
    names = {name: pd.Categorical([key[i] for key in keys]).take(rows) for i, name in enumerate(RUN)}
    return pd.concat([pd.DataFrame(names), pd.concat(frames, ignore_index=True)], axis=1)


def _unreachable(uri: str, error: Exception) -> str:
    lines = without_password(str(error).strip(), uri).splitlines() or [type(error).__name__]
    return (
        f"cannot read the MLflow store {without_password(uri, uri)}; start the server or correct the URI. MLflow says: "
        f"{lines[0][:300]}"
    )
