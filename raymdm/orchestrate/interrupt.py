"""What a sweep does at Ctrl-C, or SIGTERM, while its runs train: first their checkpoints, then the end."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune

from raymdm.orchestrate.observer import Observer
from raymdm.orchestrate.preemption import forget, stop

PATIENCE_S = 20.0
"""Seconds that the runs which train are given to write a checkpoint and to tell of it."""


class Interrupt(tune.Stopper):
    """Ends Tune after a signal: once all runs that train have left, after PATIENCE_S, or at once at a second signal.

    Runs that are starting or scoring are not waited for.
    """

    def __init__(self, observer: Observer) -> None:
        self.key = f"stop-{uuid.uuid4().hex}"
        """What the runs look at; a sweep that goes on has another one."""
        self.signals = 0
        self._observer = observer
        self._deadline: float | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.stopper.NoopStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether Tune ends now; Tune asks many times a second."""
        if not self.signals:
            return False
        training = self._observer.stepping()
        if self._deadline is None:
            self._deadline = time.monotonic() + PATIENCE_S
            stop(self.key)
            if training:
                self._say(
                    f"{len(training)} runs write a checkpoint, for {PATIENCE_S:.0f} s at most; again: stop at once"
                )
        return self.signals > 1 or not training or time.monotonic() > self._deadline

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C, and what is taken as it, within; the third of them is a KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def count(signum: int, frame: FrameType | None) -> None:
            self.signals += 1
            if self.signals > 2:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if self._deadline is not None:
                forget(self.key)

    def _say(self, line: str) -> None:
        self._observer.progress.console.print(line, highlight=False, soft_wrap=True)
