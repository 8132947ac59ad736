"""A sweep in MLflow: a run for the sweep, a child run for each trial, found again by a tag after a crash.

Training does not fail with MLflow, nor wait for it: a thread tells MLflow, and what it cannot tell is tried again. What
is not told when the driver dies is lost from memory only: each trial's metrics.jsonl, records.json and result.json hold
it, and whoever resumes the sweep, or runs `raymdm sync`, tells it all again. What MLflow has already is not logged
twice.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raymdm.errors import UserError
from raymdm.tracking.mlflow_connection import Connection, client_settings, quiet_database, without_password
from raymdm.tracking.mlflow_delivery import RUN_KEY, Delivery
from raymdm.tracking.mlflow_runs import Point, as_params, as_tags
from raymdm.tracking.tracker import SweepStatus, TrialStatus

__all__ = ["RUN_KEY", "Lacking", "MlflowTracker"]

logger = logging.getLogger(__name__)

_INTERRUPTED_S = 20.0
"""Seconds that MLflow has at most where a sweep ends before it is finished."""
_FINAL = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Lacking(NamedTuple):
    """What MLflow has not been told, or does not take."""

    points: int
    """Values of metrics."""
    artifacts: int
    ends: int
    """Runs, the sweep's own among them, whose end is not known."""


class MlflowTracker:
    """Logs a sweep through `MlflowClient`; the process's own active run is left alone.

    Calls return at once, whatever MLflow does; a thread makes MLflow's calls in their order.
    """

    def __init__(
        self,
        connection: Connection,
        sweep: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        retry_after: float = 10.0,
        patience: float = 60.0,
    ) -> None:
        """Begin the sweep's run, or go on with the one that has the tag raymdm_key = `sweep`.

        `sweep` tells this sweep from every other in the experiment, and holds no quotes; no other process may be
        logging it. After a failure, MLflow is left alone for `retry_after` seconds. `close` waits for what is not told
        yet, `patience` seconds at most, and 20 at most unless the sweep finished.
        """
        self._uri = without_password(connection.uri, connection.uri)
        self._retry_after, self._patience = retry_after, patience
        self._delivery = Delivery(connection, sweep, as_params(params or {}), as_tags(tags or {}))
        self._changed = threading.Condition()
        self._events: list[Callable[[], None]] = []
        self._busy = True
        self._hurry = self._over = False
        self._clocks: dict[str, int] = {}
        self._points = self._paths = 0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def start(self, trial: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._clocks.setdefault(trial, 0)
        flat, texts = as_params(params), as_tags(tags)
        self._tell(lambda: self._delivery.start(trial, flat, texts))

    def log(self, trial: str, records: Sequence[Mapping[str, float]]) -> None:
        now = self._now(trial)
        self._log(
            trial,
            [
                Point(key, float(value), now, int(record["step"]), replace=False)
                for record in records
                for key, value in record.items()
                if key != "step"
            ],
        )

    def log_summary(self, trial: str, metrics: Mapping[str, float | None]) -> None:
        now = self._now(trial)
        known = {key: float(value) for key, value in metrics.items() if value is not None}
        self._log(trial, [Point(key, value, now, 0, replace=True) for key, value in known.items()])

    def artifacts(self, trial: str, paths: Sequence[Path]) -> None:
        assert trial in self._clocks, f"{trial} was not started"
        told = list(paths)
        self._paths += len(told)
        self._tell(lambda: self._delivery.artifacts(trial, told))

    def finish(self, trial: str, status: TrialStatus, error: str | None = None) -> None:
        assert trial in self._clocks, f"{trial} was not started"
        self._tell(lambda: self._delivery.finish(trial, _FINAL[status], error))

    def close(self, status: SweepStatus) -> None:
        """End the sweep's run and every trial that has not ended; say what could not be logged.

        Runs of the sweep that MLflow takes for running and that this tracker was not told of are ended too (KILLED).
        """
        self._tell(lambda: self._delivery.close(_FINAL[status]))
        try:
            # who interrupts a sweep, a batch system for one, ends its process before long
            self.flush(self._patience if status == "finished" else min(self._patience, _INTERRUPTED_S))
        finally:
            self._stop()
        self._thread.join(timeout=1)  # it may hang in a request
        lacking = self.lacking()
        if any(lacking):
            logger.warning(
                "MLflow at %s lacks %d metric values, %d artifacts and the end of %d runs. The sweep's folder holds "
                "them: when MLflow answers, run: raymdm sync SWEEP_DIR",
                *(self._uri, *lacking),
            )

    def flush(self, seconds: float) -> bool:
        """Wait until MLflow has been told everything, `seconds` at most; whether it has been."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._is_idle(), timeout=seconds)
            self._hurry = False
            return self._is_idle()

    def lacking(self) -> Lacking:
        """What MLflow has not been told, or refused, of what this tracker was told."""
        done = self._delivery
        return Lacking(self._points - done.points, self._paths - done.paths, len(self._clocks) + 1 - done.ends)

    def _log(self, trial: str, points: list[Point]) -> None:
        self._points += len(points)
        self._tell(lambda: self._delivery.log(trial, points))

    def _now(self, trial: str) -> int:
        """Milliseconds, later for each call of a trial: the machine's clock may stand still or jump back."""
        self._clocks[trial] = max(int(time.time() * 1000), self._clocks[trial] + 1)
        return self._clocks[trial]

    def _tell(self, event: Callable[[], None]) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        return not (self._events or self._busy)

    def _work(self) -> None:
        """The thread: bring MLflow up to date whenever there is something to tell."""
        pause = 0.0
        try:
            with client_settings(timeout=30):
                while self._wait(pause):
                    pause = self._step()
        except UserError as error:
            logger.warning("nothing is logged to MLflow at %s: %s", self._uri, error)
        finally:
            self._stop()

    def _step(self) -> float:
        """Tell MLflow of one run; seconds to pause for then. Raises UserError where no later try can help."""
        try:
            with quiet_database():
                self._delivery.step()
        except UserError:
            raise
        except Exception as error:  # logging must not stop training, whatever a store or a network raises
            self._delivery.tell_outage(error)
            return self._retry_after
        return 0.0

    def _wait(self, pause: float) -> bool:
        """Wait at least `pause` seconds, a second if somebody waits for the thread, and until there is something due.

        False when the tracker is closed.
        """
        begun = time.monotonic()
        with self._changed:
            while not self._over:
                left = begun + (min(pause, 1.0) if self._hurry else pause) - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                events, self._events = self._events, []
                for event in events:
                    event()
                self._busy = self._delivery.is_due()
                if self._busy:
                    return True
                self._changed.notify_all()
                self._changed.wait()
            return False

    def _stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
