"""From Ray Train's controller to Tune. Alone in its module, because the controller's process imports it."""

from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue


class Forward(UserCallback):
    """Hands rank 0's reports to Tune."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self._queue.put(metrics[0])
