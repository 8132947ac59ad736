"""What a run's process is told to leave for: its node will be taken away, or the sweep is stopped.

Ray hears of the first from its autoscaler, or from who drains the node. The second is a key in the storage of Ray's
head, which the sweep's own process writes: every process of a cluster can read it, and it goes with the cluster.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayActorError
from ray.experimental import internal_kv

if TYPE_CHECKING:
    from raymdm.training.run import Left

_log = logging.getLogger(__name__)

POLL_S = float(os.environ.get("RAYMDM_PREEMPTION_POLL_S", "1"))
"""Seconds between two looks, each of which takes Ray's head 0.4 ms: of a core, 0.4 where a thousand processes look."""
_SPACE = "raymdm"
"""Namespace of the keys of sweeps that are stopped."""


class NodeGoes(RayActorError):
    """What a run raises to be placed on another node. For Tune it is a process that was lost with a node that it had
    notice of: no failure, and the process takes no other run."""

    def __init__(self) -> None:
        super().__init__(error_msg="the node of this process goes away", preempted=True)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return NodeGoes, ()


def stop(key: str) -> None:
    """Tell the processes that look at `key` that their sweep is stopped."""
    internal_kv._internal_kv_put(key, b"", namespace=_SPACE)


def forget(key: str) -> None:
    """Take the key of a sweep that has ended away."""
    internal_kv._internal_kv_del(key, namespace=_SPACE)


def told(key: str, driver: str = "") -> "Left":
    """What this process is to leave for now. key: of the sweep, "" where there is none; driver: the node of the process
    that drives the run, where it is another one: nobody would hear of the run any more."""
    try:
        if key and internal_kv._internal_kv_exists(key, namespace=_SPACE):
            return "sweep"
        # what Ray Train's own watcher asks; there is no public call that a loop could make at every step
        draining = ray._private.state.state.get_draining_nodes()
    except Exception as error:  # the head may be away for a moment, of which Ray tells in many ways
        _log.warning("cannot ask whether to leave, will ask again: %s", error)
        return ""
    return "node" if {ray.get_runtime_context().get_node_id(), driver} & draining.keys() else ""


@lru_cache(maxsize=1)
def notice(key: str, driver: str = "") -> Callable[[], "Left"]:
    """A function that says what `told` said last, cheap enough to call at every step."""
    last: list[Left] = [""]

    def watch() -> None:
        while not last[0] and ray.is_initialized():
            last[0] = told(key, driver)
            time.sleep(POLL_S)

    threading.Thread(target=watch, name="raymdm-preemption", daemon=True).start()
    return lambda: last[0]
