"""Whether the node that a process runs on will be taken away, as Ray hears of it from its autoscaler."""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache

import ray

_log = logging.getLogger(__name__)

POLL_S = float(os.environ.get("RAYMDM_PREEMPTION_POLL_S", "5"))
"""Seconds between two looks."""


@lru_cache(maxsize=1)
def notice() -> Callable[[], bool]:
    """A function that says whether this process's node is being drained, cheap enough to call at every step."""
    gone = threading.Event()
    node = ray.get_runtime_context().get_node_id()

    def watch() -> None:
        while not gone.is_set() and ray.is_initialized():
            # what Ray Train's own watcher asks; there is no public call that a loop could make at every step
            try:
                if node in ray._private.state.state.get_draining_nodes():
                    gone.set()
            except Exception as error:  # the head may be away for a moment, of which Ray tells in many ways
                _log.warning("cannot ask whether this node is drained, will ask again: %s", error)
            time.sleep(POLL_S)

    threading.Thread(target=watch, name="raymdm-preemption", daemon=True).start()
    return gone.is_set
