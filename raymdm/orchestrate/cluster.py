"""Connecting to Ray, and whether what a recipe asks for can ever be scheduled."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml

from raymdm.config.schema import METHODS, Recipe
from raymdm.errors import UserError

DRIVER_CPUS = 0.01
"""CPUs of the process that drives one run: not 0, which Tune refuses, nor 1, which starves the workers it waits for."""

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report waits for the controller's next poll
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # imports are slow where cores are few and busy
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep names the one it needs
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Capacity:
    """The most a cluster can hold, all nodes that its autoscaler may add included."""

    cpus: float
    gpus: float
    source: str

    def holds(self, cpus: float, gpus: float) -> int:
        """How many requests of this size fit at once."""
        by_cpu = self.cpus / cpus + 1e-9
        by_gpu = self.gpus / gpus + 1e-9 if gpus else math.inf
        return math.floor(min(by_cpu, by_gpu))


@contextmanager
def connected() -> Iterator[None]:
    """A Ray connection: to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), else a local Ray."""
    # set for this process and, through a local Ray, for all it starts; a cluster's workers get them as runtime_env
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    # without byte code every Ray process would compile torch anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address:
        ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
    else:
        # runs are many small processes; this also keeps the raylet from warning of them
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
        # a task's process waits for the next run's tasks, its imports done
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "300000")
        ray.init(address="local", include_dashboard=False, **quiet)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()


def capacity() -> Capacity:
    """What the connected cluster can hold; without a connection, what a local Ray here would."""
    if not ray.is_initialized():
        import torch

        return Capacity(float(ray._private.utils.get_num_cpus()), float(torch.cuda.device_count()), "this machine")
    now, most = ray.cluster_resources(), autoscaled(Path.home() / "ray_bootstrap_config.yaml")
    for name, amount in (ray._private.state.state.get_max_resources_from_cluster_config() or {}).items():
        most[name] = max(most.get(name, 0), amount)
    cpus, gpus = (max(now.get(name, 0), most.get(name, 0)) for name in ("CPU", "GPU"))
    return Capacity(cpus, gpus, "the cluster")


def autoscaled(launched: Path) -> dict[str, float]:
    """The most of each resource that a cluster's autoscaler may bring up; empty when `ray up` did not launch it.

    `launched`: the cluster.yaml that the launcher leaves on the head node, which the launcher's autoscaler publishes
    nowhere else.
    """
    if not launched.exists():
        return {}
    config = yaml.safe_load(launched.read_text())
    total: dict[str, float] = {}
    for name, node in config["available_node_types"].items():
        head = name == config["head_node_type"]
        count = 1 if head else min(node.get("max_workers", 0), config.get("max_workers", 0))
        for resource, amount in node.get("resources", {}).items():
            total[resource] = total.get(resource, 0) + count * amount
    return total


def slots(recipe: Recipe, have: Capacity) -> int:
    """Runs at once. Raises UserError, with every problem, when something asked for could never be scheduled.

    A run is a driver, its training workers and, later, its evaluation actors. The workers are placed together, so
    they and their driver must fit beside each other; otherwise they would wait for CPUs that the driver holds.
    """
    train, evaluate, calibrate = recipe.train, recipe.evaluate, recipe.calibrate
    needs = {
        "train": (train.num_workers, "num_workers", train.cpus_per_worker, train.gpus_per_worker, DRIVER_CPUS),
        "evaluate": (evaluate.num_actors, "num_actors", evaluate.cpus_per_actor, evaluate.gpus_per_actor, DRIVER_CPUS),
    }
    if any(METHODS[name].density == "calibrated" for name in (*recipe.sweep.methods, recipe.method)):
        needs["calibrate"] = (
            calibrate.num_actors, "num_actors", calibrate.cpus_per_actor, calibrate.gpus_per_actor, 0.0,
        )  # fmt: skip
    problems = []
    for section, (count, field, cpus, gpus, driver) in needs.items():
        if not have.holds(driver + count * cpus, count * gpus):
            beside = f" beside a driver of {driver:g} CPU" if driver else ""
            problems.append(
                f"{section}.{field}={count} asks for {count * cpus:g} CPUs and {count * gpus:g} GPUs{beside}, but "
                f"{have.source} can never hold more than {have.cpus:g} CPUs and {have.gpus:g} GPUs, so it would wait "
                f"for ever: lower {section}.{field} or {section}.cpus_per_{field[4:-1]}"
            )
    if problems:
        raise UserError("\n".join(problems))
    size = DRIVER_CPUS + train.num_workers * train.cpus_per_worker
    fit = have.holds(size, train.num_workers * train.gpus_per_worker)
    if recipe.sweep.max_concurrent and recipe.sweep.max_concurrent > fit:
        raise UserError(
            f"sweep.max_concurrent={recipe.sweep.max_concurrent}: {have.source} holds at most {fit} runs of "
            f"{size:g} CPUs and {train.num_workers * train.gpus_per_worker:g} GPUs at once: lower it, or leave it out"
        )
    return recipe.sweep.max_concurrent or fit
