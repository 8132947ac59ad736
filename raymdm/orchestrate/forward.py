"""From Ray Train's controller to the process that asked for the run. Alone in its module: the controller imports it."""

from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue


class Forward(UserCallback):
    """Hands on rank 0's reports."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self._queue.put(metrics[0])
