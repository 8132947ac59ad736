"""Telling MLflow of a sweep's runs, one call after the other: what the tracker's thread does.

A run is found again by its tag, and each step of a metric is logged once. What MLflow holds is read before anything is
sent to a run that this process did not make, and again after a call of which nobody knows whether it was carried out:
a server or a driver may die before, within or after a transaction.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raymdm.tracking.mlflow_connection import Connection, find_experiment, reason, without_password
from raymdm.tracking.mlflow_refused import REFUSED, is_final
from raymdm.tracking.mlflow_runs import MAX_TAG, Point, Run, cut

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

logger = logging.getLogger(__name__)

MAX_METRICS, MAX_PARAMS = 1000, 100
"""Entries that MLflow takes in one `log_batch`."""
PAGE = 200
"""Runs a request."""
SETTLE_S, LOOKS = 0.5, 3
"""Seconds between two looks at what a server holds, and how many there are after the first."""

RUN_KEY = "raymdm_key"
"""Tag by which a run is found again: the sweep's folder name, for a trial followed by its own."""
PARENT = "mlflow.parentRunId"


class Delivery:
    """A sweep's run and its trials', and the calls that bring MLflow up to date with them."""

    def __init__(self, connection: Connection, sweep: str, params: dict[str, str], tags: dict[str, str]) -> None:
        """`params` and `tags` as `as_params` and `as_tags` make them, here and in `start`."""
        self._client, self._experiment, self._uri, self._experiment_name = connection
        self._parent = Run(sweep, sweep, params, tags)
        self._trials: dict[str, Run] = {}
        self._due = {sweep: self._parent}
        self._paths_due: dict[str, Run] = {}
        self._held: dict[str, MlflowRun] | None = None
        self._told: set[str] = set()
        self.points = self.paths = self.ends = 0
        """How many of the things told here MLflow has by now."""

    # What is told

    def start(self, trial: str, params: dict[str, str], tags: dict[str, str]) -> None:
        run = self._trials.get(trial)
        if run is None:
            run = self._trials[trial] = Run(f"{self._parent.key}/{trial}", trial, {}, {})
        self.ends -= run.ended
        run.params, run.tags = params, tags
        run.final = run.error = None
        run.ended = run.replayed = run.refused = False
        run.forget()
        self._due[run.key] = run

    def log(self, trial: str, points: Sequence[Point]) -> None:
        run = self._trials[trial]
        run.points += points
        self._due[run.key] = run

    def artifacts(self, trial: str, paths: Sequence[Path]) -> None:
        run = self._trials[trial]
        run.paths += paths
        self._paths_due[run.key] = run

    def finish(self, trial: str, final: str, error: str | None) -> None:
        run = self._trials[trial]
        run.final, run.error = final, error
        self._due[run.key] = run

    def close(self, final: str) -> None:
        """The sweep's run ends, after every trial's."""
        for run in self._trials.values():
            if run.final is None:
                run.final = "KILLED"
                self._due[run.key] = run
        self._parent.final = final
        self._due.pop(self._parent.key, None)
        self._due[self._parent.key] = self._parent

    # What is done

    def is_due(self) -> bool:
        """Whether there is anything that MLflow has not been told."""
        return bool(self._due or self._paths_due)

    def step(self) -> None:
        """Bring one run up to date; files come after all that is small. Raises what MLflow raises in an outage."""
        if self._experiment is None:
            self._experiment = find_experiment(self._client, self._experiment_name, self._uri)
        if not self._due:
            self._take_first(self._paths_due, self._send_paths)
            return
        run = next(iter(self._due.values()))
        try:
            self._take_first(self._due, self._bring_up_to_date)
        except Exception:
            run.forget()  # nobody knows whether the call was carried out
            self._held = None if run.id is None else self._held
            raise

    def _take_first(self, due: dict[str, Run], bring: Callable[[Run], None]) -> None:
        """Deal with the first run; one that fails goes behind the others."""
        key, run = next(iter(due.items()))
        try:
            bring(run)
        except Exception:
            due[key] = due.pop(key)
            raise
        del due[key]

    def tell_outage(self, error: Exception) -> None:
        """Warn of the first outage."""
        self._tell(
            "outage",
            f"cannot log to MLflow at {without_password(self._uri, self._uri)} for now; the sweep goes on, and MLflow "
            f"is told when it answers: {reason(error, self._uri)}",
        )

    def _bring_up_to_date(self, run: Run) -> None:
        if run is not self._parent and self._parent.id is None and not self._parent.refused:
            self._bring_up_to_date(self._parent)
        if not run.current and not run.refused:
            run.current = not self._parent.refused and self._attempt(f"run {run.name}", self._open, run)
            run.refused = not run.current
        if run.refused:
            run.points.clear()
            return
        self._send_points(run)
        if run.final and not run.ended:
            if run is self._parent:
                self._end_strays()
            run.ended = self._attempt(f"end of {run.name}", self._end, run)
            self.ends += run.ended
            run.forget()  # a long history is kept no longer than it is needed

    def _open(self, run: Run) -> None:
        """Take up the run that has the tag, or create it."""
        tags = run.tags | {RUN_KEY: run.key}
        if run is not self._parent and self._parent.id is not None:
            tags[PARENT] = self._parent.id
        found = self._find(run)
        if found is None:
            run.id = self._client.create_run(self._experiment, tags=tags, run_name=run.name).info.run_id
            self._send_params(run, {})
            return
        run.learn(found)
        for name, value in tags.items():
            if found.data.tags.get(name) != value:
                self._client.set_tag(run.id, name, value)
        self._send_params(run, found.data.params)
        if run.final is None and found.info.status != "RUNNING":
            self._client.update_run(run.id, status="RUNNING")
        if run.final != "FAILED" and run.held_error is not None:
            self._client.delete_tag(run.id, "error")
            run.held_error = None
        run.replayed = run.final == found.info.status

    def _find(self, run: Run) -> "MlflowRun | None":
        if run.id is not None:
            known: MlflowRun = self._client.get_run(run.id)
            if known.info.lifecycle_stage != "deleted":
                return known
            run.id = None
        if self._held is None:
            self._held = self._held_by_key()
        return self._held.pop(run.key, None)

    def _held_by_key(self) -> dict[str, "MlflowRun"]:
        """The sweep's runs in MLflow. Of several with one key, the oldest that holds anything."""
        found: dict[str, MlflowRun] = {}
        for run in self._settled():
            key = run.data.tags[RUN_KEY]
            if key not in found:
                found[key] = run
                continue
            self._tell(
                f"several {key}", f"MLflow has several runs {key}: the oldest is used; the others may be deleted"
            )
            if run.data.metrics and not found[key].data.metrics:
                found[key] = run
        return found

    def _settled(self) -> "list[MlflowRun]":
        """The sweep's runs in MLflow, the older ones first, when a server has done what a killed driver asked of it.

        While it takes one for running, they are read until they stand still for half a second, and four times at most:
        a server that is busy with the driver's last call for longer may hold its points twice.
        """
        runs = list(self._search(""))
        for _ in range(0 if self._uri.startswith("sqlite:") else LOOKS):
            if all(run.info.status != "RUNNING" for run in runs):
                break
            time.sleep(SETTLE_S)
            before, runs = runs, list(self._search(""))
            if [str(run.to_proto()) for run in runs] == [str(run.to_proto()) for run in before]:
                break
        return runs

    def _search(self, condition: str) -> "Iterator[MlflowRun]":
        """The sweep's own run and its trials' in MLflow, the older ones first."""
        key, order = self._parent.key, ["attributes.start_time ASC"]
        for tag in (f"= '{key}'", f"LIKE '{key}/%'"):  # in which _ stands for any character
            token: str | None = ""
            while token is not None:
                query = f"tags.{RUN_KEY} {tag}{condition}"
                page = self._client.search_runs(
                    [self._experiment], query, max_results=PAGE, order_by=order, page_token=token or None
                )
                yield from (run for run in page if f"{run.data.tags[RUN_KEY]}/".startswith(f"{key}/"))
                token = page.token or None

    def _send_params(self, run: Run, held: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for key, value in held.items():
            if run.params.get(key, value) != value:
                self._tell(
                    f"parameter {key}",
                    f"MLflow keeps the first value of parameter {key} of {run.name}: {value}, not {run.params[key]}",
                )
        params = [Param(key, value) for key, value in run.params.items() if key not in held]
        for start in range(0, len(params), MAX_PARAMS):
            self._send(run, "params", params[start : start + MAX_PARAMS])

    def _send_points(self, run: Run) -> None:
        from mlflow.entities import Metric

        while run.points:
            batch = run.points[:MAX_METRICS]
            for key in {point.key for point in batch if run.needs_history(point)}:
                run.learn_history(key, self._client.get_metric_history(run.id, key))
            metrics = [Metric(p.key, p.value, p.milliseconds, p.step) for p in run.fresh(batch)]
            refused = self._send(run, "metrics", metrics) if metrics else 0
            self.points += len(batch) - refused
            del run.points[: len(batch)]

    def _send_paths(self, run: Run) -> None:
        """Log files and folders; those of a run that had ended before only if they are not there."""
        if run.id is None:
            run.paths.clear()  # the run was refused
        held = self._files(run) if run.paths and run.replayed else {}
        while run.paths:
            path, logged = run.paths[0], True
            if path.is_dir():
                logged = self._log_file(path, self._client.log_artifacts, run.id, str(path), path.name)
            elif not path.exists():
                self._tell(f"{path}", f"{path} does not exist any more, and so is not logged to MLflow")
            elif held.get(path.name) != path.stat().st_size:
                logged = self._log_file(path, self._client.log_artifact, run.id, str(path))
            self.paths += logged
            del run.paths[0]

    def _files(self, run: Run) -> dict[str, int | None]:
        return {file.path: file.file_size for file in self._client.list_artifacts(run.id)}

    def _end(self, run: Run) -> None:
        error = cut(run.error, MAX_TAG) if run.error else None
        if error and error != run.held_error:
            self._client.set_tag(run.id, "error", error)
        if not run.replayed:
            self._client.set_terminated(run.id, status=run.final)

    def _end_strays(self) -> None:
        """End runs of the sweep that MLflow takes for running, though this process, which alone runs it, does not."""
        ours = {run.id for run in (self._parent, *self._trials.values())}
        for run in list(self._search(" AND attributes.status = 'RUNNING'")):
            if run.info.run_id not in ours:
                self._attempt(f"end of {run.info.run_name}", self._client.set_terminated, run.info.run_id, "KILLED")

    def _send(self, run: Run, kind: Literal["metrics", "params"], items: list[Any]) -> int:
        """Send a batch; if MLflow refuses it, its halves, down to the items at fault. Returns how many were refused."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(run.id, **{kind: items}, synchronous=True)
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            if len(items) == 1 or self._is_gone(run):
                self._tell_refused(f"{kind} {items[0].key}", error)
                return len(items)
            middle = len(items) // 2
            return self._send(run, kind, items[:middle]) + self._send(run, kind, items[middle:])
        return 0

    def _is_gone(self, run: Run) -> bool:
        """Whether somebody deleted the run."""
        from mlflow.exceptions import MlflowException

        try:
            deleted: bool = self._client.get_run(run.id).info.lifecycle_stage == "deleted"
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            return True
        return deleted

    def _attempt(self, what: str, call: Callable[..., None], *arguments: Any) -> bool:
        """Make a call; False, with one warning, if MLflow refuses it for good. An outage is raised."""
        from mlflow.exceptions import MlflowException

        try:
            call(*arguments)
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            self._tell_refused(what, error)
            return False
        return True

    def _log_file(self, path: Path, call: Callable[..., None], *arguments: Any) -> bool:
        """Log a file or folder; False, with one warning for all files, if it is refused. An outage is raised."""
        try:
            call(*arguments)
        except Exception as error:  # MLflow's own, or whatever the client of an object store raises
            if not is_final(error):
                raise
            self._tell(
                f"artifacts {type(error).__name__}",
                f"artifact {path} is not logged to MLflow, and others may not be either: {reason(error, self._uri)}",
            )
            return False
        return True

    def _tell_refused(self, what: str, error: Exception) -> None:
        self._tell(what, f"MLflow refused {what}: {reason(error, self._uri)}")

    def _tell(self, subject: str, message: str) -> None:
        """Warn, once for each subject."""
        if subject not in self._told:
            self._told.add(subject)
            logger.warning("%s", cut(message, 600))
