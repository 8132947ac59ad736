"""Connecting to Ray: to a cluster, or to a local Ray that nobody else may use."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

import ray

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report waits for the controller's next poll
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # for the workers' places: nodes may have to come up
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep names the one it needs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

LOCAL = {
    "RAY_enable_metrics_collection": "0",  # its port answers without a token
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less a run: nobody takes this machine away
    "RAY_worker_maximum_startup_concurrency": "8",  # runs are many small processes; the raylet warns of fewer
    "RAY_num_workers_soft_limit": "16",  # a task's process waits for the next run's tasks, its imports done
}


@contextmanager
def connected() -> Iterator[None]:
    """A Ray connection: to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), else a local Ray."""
    address = os.environ.get("RAY_ADDRESS")
    # set for this process and, through a local Ray, for all it starts; a cluster's workers get them as runtime_env
    for name, value in (ENVIRONMENT if address else ENVIRONMENT | LOCAL).items():
        os.environ.setdefault(name, value)
    # without byte code every Ray process would compile torch anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    with nullcontext() if address else _token():
        if address:
            ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            with _interruptible():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _token() -> Iterator[None]:
    """A secret for the local Ray, whose ports are open to the network: who lacks it can run nothing there."""
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    _read_authentication()
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
        _read_authentication()


def _read_authentication() -> None:
    """Make Ray, which reads these variables when it is imported, read them again."""
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    ray._raylet.Config.initialize("")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Take SIGTERM, which batch systems and `ray job stop` send, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a background process of a shell is started without
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
