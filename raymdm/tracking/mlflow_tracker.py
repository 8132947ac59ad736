"""A sweep in MLflow: a run for the sweep, a child run for each trial, found again by a tag after a crash.

Training does not fail with MLflow, nor wait for it for long: what cannot be logged is kept and tried again later.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raymdm.tracking.mlflow_connection import Connection, client_settings, without_password
from raymdm.tracking.tracker import SweepStatus, TrialStatus

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

MAX_METRICS, MAX_PARAMS = 1000, 100
"""Entries that MLflow takes in one `log_batch`."""
MAX_PARAM, MAX_TAG = 6000, 5000
"""Characters of one value (MLflow's own limit for tags is 8000)."""

RUN_KEY = "raymdm_key"
"""Tag by which a run is found again: the sweep's folder name, for a trial followed by its own."""
_REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""MLflow's codes for what no later try will mend; anything else counts as an outage."""
_FINAL = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class _Point(NamedTuple):
    """A metric's value; its time is fixed here, so that MLflow itself drops it if it is sent twice."""

    key: str
    value: float
    milliseconds: int
    step: int
    replace: bool
    """Log it over another value for the same step, as a summary is."""


@dataclass
class _Run:
    """A run of MLflow and what it has not been told yet."""

    key: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    id: str | None = None
    ended: bool = False
    final: str | None = None
    """MLflow's status for the end of the run, once that is due."""
    error: str | None = None
    logged: dict[tuple[str, int], float] = field(default_factory=dict)
    points: list[_Point] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)


class MlflowTracker:
    """Logs a sweep through `MlflowClient`; the process's own active run is left alone."""

    def __init__(
        self,
        connection: Connection,
        sweep: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        retry_after: float = 30.0,
    ) -> None:
        """Begin the sweep's run, or go on with the one that has the tag raymdm_key = `sweep`.

        `sweep` tells this sweep from every other in the experiment, and holds no quotes. After a failure, MLflow is
        left alone for `retry_after` seconds.
        """
        self._client, self._experiment, self._uri = connection
        self._retry_after = retry_after
        self._retry_at = 0.0
        self._told: set[str] = set()
        self._lost = 0
        self._parent = _Run(sweep, sweep, _as_params(params or {}), _as_tags(tags or {}))
        self._trials: dict[str, _Run] = {}
        self._deliver()

    def start(self, trial: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        before = self._trials.get(trial)
        run = _Run(f"{self._parent.key}/{trial}", trial, _as_params(params), _as_tags(tags))
        if before:
            run.points, run.paths = before.points, before.paths
        self._trials[trial] = run
        self._deliver()

    def log(self, trial: str, records: Sequence[Mapping[str, float]]) -> None:
        now = _milliseconds()
        self._trials[trial].points += [
            _Point(key, float(value), now, int(record["step"]), replace=False)
            for record in records
            for key, value in record.items()
            if key != "step"
        ]
        self._deliver()

    def log_summary(self, trial: str, metrics: Mapping[str, float | None]) -> None:
        now = _milliseconds()
        self._trials[trial].points += [
            _Point(key, float(value), now, 0, replace=True) for key, value in metrics.items() if value is not None
        ]
        self._deliver()

    def artifacts(self, trial: str, paths: Sequence[Path]) -> None:
        self._trials[trial].paths += paths
        self._deliver()

    def finish(self, trial: str, status: TrialStatus, error: str | None = None) -> None:
        run = self._trials[trial]
        run.final, run.error = _FINAL[status], error
        self._deliver()

    def close(self, status: SweepStatus) -> None:
        """End the sweep's run and every trial that has not ended; say what could not be logged."""
        for run in self._trials.values():
            if not run.ended and run.final is None:
                run.final = _FINAL["interrupted"]
        self._parent.final = _FINAL[status]
        self._retry_at = 0.0
        self._deliver()
        runs = [self._parent, *self._trials.values()]
        points = sum(len(run.points) for run in runs) + self._lost
        paths = sum(len(run.paths) for run in runs)
        unended = sum(not run.ended for run in runs)
        if points or paths or unended:
            logger.warning(
                "MLflow at %s lacks %d metric values, %d artifacts and the end of %d runs; the trials' folders hold "
                "them (metrics.jsonl, result.json)",
                *(without_password(self._uri, self._uri), points, paths, unended),
            )

    def _deliver(self) -> None:
        """Bring MLflow up to date, as far as it can be reached."""
        if time.monotonic() < self._retry_at:
            return
        try:
            with client_settings():
                for run in (self._parent, *self._trials.values()):
                    self._bring_up_to_date(run)
                for run in (self._parent, *self._trials.values()):
                    self._send_paths(run)
        except Exception as error:  # logging must not stop training, whatever a store or a network raises
            self._retry_at = time.monotonic() + self._retry_after
            uri = without_password(self._uri, self._uri)
            reason = without_password(str(error), self._uri)
            self._tell(
                "outage",
                f"cannot log to MLflow at {uri} for now; the run goes on, and later calls try again: {reason}",
            )

    def _bring_up_to_date(self, run: _Run) -> None:
        if run.id is None and not self._attempt(f"run {run.name}", self._open, run):
            return
        self._send_points(run)
        if run.final and not run.ended:
            self._attempt(f"end of {run.name}", self._end, run)
            run.ended = True

    def _open(self, run: _Run) -> None:
        """Find the run by its tag, set it running and learn what it holds; or create it."""
        found = self._client.search_runs([self._experiment], f"tags.{RUN_KEY} = '{run.key}'", max_results=1)
        tags = run.tags | {RUN_KEY: run.key}
        if run is not self._parent and self._parent.id is not None:
            tags["mlflow.parentRunId"] = self._parent.id
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            for name, value in tags.items():
                self._client.set_tag(run_id, name, value)
            if "error" in found[0].data.tags:
                self._client.delete_tag(run_id, "error")
            self._learn_points(run, found[0])
        else:
            run_id = self._client.create_run(self._experiment, tags=tags, run_name=run.name).info.run_id
        self._send_params(run_id, run, found[0].data.params if found else {})
        run.id = run_id

    def _learn_points(self, run: _Run, found: "Run") -> None:
        for key in found.data.metrics:
            for metric in self._client.get_metric_history(found.info.run_id, key):
                run.logged[metric.key, metric.step] = metric.value

    def _send_params(self, run_id: str, run: _Run, held: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for key, value in held.items():
            if run.params.get(key, value) != value:
                self._tell(
                    f"{run.key} {key}",
                    f"MLflow keeps the first value of parameter {key} of {run.name}: {value}, not {run.params[key]}",
                )
        params = [Param(key, value) for key, value in run.params.items() if key not in held]
        for start in range(0, len(params), MAX_PARAMS):
            self._send(run_id, "params", params[start : start + MAX_PARAMS])

    def _send_points(self, run: _Run) -> None:
        from mlflow.entities import Metric

        while run.points:
            fresh: dict[tuple[str, int], _Point] = {}
            for point in run.points[:MAX_METRICS]:
                held = run.logged.get((point.key, point.step))
                if held is None or (point.replace and held != point.value):
                    fresh[point.key, point.step] = point
            metrics = [Metric(p.key, p.value, p.milliseconds, p.step) for p in fresh.values()]
            if metrics:
                self._lost += self._send(run.id, "metrics", metrics)
            run.logged |= {place: point.value for place, point in fresh.items()}
            del run.points[:MAX_METRICS]

    def _send_paths(self, run: _Run) -> None:
        while run.paths and run.id is not None:
            path = run.paths[0]
            if path.is_dir():
                self._attempt(f"artifact {path}", self._client.log_artifacts, run.id, str(path), path.name)
            elif path.exists():
                self._attempt(f"artifact {path}", self._client.log_artifact, run.id, str(path))
            else:
                self._tell(f"{path}", f"{path} does not exist any more, and so is not logged to MLflow")
            del run.paths[0]

    def _end(self, run: _Run) -> None:
        if run.error:
            self._client.set_tag(run.id, "error", _cut(run.error, MAX_TAG))
        self._client.set_terminated(run.id, status=run.final)

    def _send(self, run_id: str | None, kind: Literal["metrics", "params"], items: list[Any]) -> int:
        """Send a batch; if MLflow refuses it, its halves, down to the items at fault. Returns how many were refused."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(run_id, **{kind: items}, synchronous=True)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            if len(items) == 1:
                self._tell_refused(f"{kind} {items[0].key}", error)
                return 1
            middle = len(items) // 2
            return self._send(run_id, kind, items[:middle]) + self._send(run_id, kind, items[middle:])
        return 0

    def _attempt(self, what: str, call: Callable[..., None], *arguments: Any) -> bool:
        """Make a call; False, with one warning, if MLflow refuses it for good. An outage is raised."""
        from mlflow.exceptions import MlflowException

        try:
            call(*arguments)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            self._tell_refused(what, error)
            return False
        return True

    def _tell_refused(self, what: str, error: Exception) -> None:
        self._tell(what, f"MLflow refused {what}: {without_password(str(error), self._uri)}")

    def _tell(self, subject: str, message: str) -> None:
        """Warn, once for each subject."""
        if subject not in self._told:
            self._told.add(subject)
            logger.warning("%s", _cut(message, 600))


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _cut(text: str, limit: int) -> str:
    note = f"... [cut, {len(text)} characters]"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def _as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: _cut(str(value), MAX_TAG) for name, value in tags.items()}


def _as_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and text, as MLflow takes them."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _as_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{name}"] = _cut(text, MAX_PARAM)
    return flat
