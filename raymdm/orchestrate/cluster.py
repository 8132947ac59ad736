"""Connecting to Ray, and whether what a recipe asks for can ever be scheduled."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ray
import yaml

from raymdm.config.schema import Recipe
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


Node = tuple[float, float]
"""CPUs and GPUs of a node."""


@dataclass(frozen=True)
class Capacity:
    """The nodes a cluster can have, those that its autoscaler may add included."""

    nodes: tuple[Node, ...]
    source: str

    @property
    def cpus(self) -> float:
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(gpus for _, gpus in self.nodes)

    def holds(self, count: int, cpus: float, gpus: float, driver: float = 0.0) -> int:
        """How many groups fit at once, each of `count` processes of this size and a driver of `driver` CPUs.

        A process must fit on one node; those of a group may lie on several.
        """
        processes = sum(math.floor(min(c / cpus, g / gpus if gpus else math.inf) + 1e-9) for c, g in self.nodes)
        by_cpu = math.floor(self.cpus / (driver + count * cpus) + 1e-9)
        return min(processes // count, by_cpu)


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
        os.environ.setdefault("RAY_num_workers_soft_limit", "16")
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

        here = float(ray._private.utils.get_num_cpus()), float(torch.cuda.device_count())
        return Capacity((here,), "this machine")
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive)
    later = autoscaled(Path.home() / "ray_bootstrap_config.yaml")
    return Capacity(max(now, later, key=lambda nodes: sum(cpus + gpus for cpus, gpus in nodes)), "the cluster")


def autoscaled(launched: Path) -> tuple[Node, ...]:
    """The nodes that a cluster's autoscaler may bring up, head included; none when `ray up` did not launch it.

    `launched`: the cluster.yaml that the launcher leaves on the head node, which the launcher's autoscaler publishes
    nowhere else.
    """
    if not launched.exists():
        return ()
    config = yaml.safe_load(launched.read_text())
    nodes: list[Node] = []
    for name, kind in config["available_node_types"].items():
        head = name == config["head_node_type"]
        count = 1 if head else min(kind.get("max_workers", 0), config.get("max_workers", 0))
        resources = kind.get("resources", {})
        nodes += [(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))] * count
    return tuple(nodes)


class Need(NamedTuple):
    """Processes that must run beside each other."""

    processes: int
    cpus: float
    """Of each."""
    gpus: float
    driver: float = 0.0
    """CPUs of the process that drives them and keeps them while they wait."""


def needs(recipe: Recipe) -> dict[str, Need]:
    """What each stage asks for, by the field that says how many."""
    train, evaluate, calibrate, diagnose = recipe.train, recipe.evaluate, recipe.calibrate, recipe.diagnose
    return {
        "train.num_workers": Need(train.workers[0], train.cpus_per_worker, train.gpus_per_worker, DRIVER_CPUS),
        "evaluate.num_actors": Need(evaluate.num_actors, evaluate.cpus_per_actor, evaluate.gpus_per_actor, DRIVER_CPUS),
        "calibrate.num_actors": Need(calibrate.num_actors, calibrate.cpus_per_actor, calibrate.gpus_per_actor),
        "diagnose.num_actors": Need(diagnose.num_actors, diagnose.cpus_per_actor, diagnose.gpus_per_actor),
    }


def require(recipe: Recipe, have: Capacity, *stages: str) -> None:
    """Raise UserError, with every problem, when something that stages ask for could never be scheduled."""
    problems = []
    for field, need in needs(recipe).items():
        stage = field.split(".")[0]
        if stage in stages and not have.holds(*need):
            beside = f" beside a driver of {need.driver:g} CPU" if need.driver else ""
            problems.append(
                f"{field}={need.processes} asks for {need.processes} times {need.cpus:g} CPUs and {need.gpus:g} GPUs"
                f"{beside}, but {have.source} can never hold that ({_described(have)}), so it would wait for ever: "
                f"lower {field} or {stage}.cpus_per_{field.split('_')[1][:-1]}"
            )
    if problems:
        raise UserError("\n".join(problems))


def slots(recipe: Recipe, have: Capacity) -> int:
    """Runs at once. Raises UserError, with every problem, when something asked for could never be scheduled.

    A run is a driver, its training workers and, later, its evaluation actors. The workers start together, so they and
    their driver must fit beside each other; otherwise they would wait for CPUs that the driver holds.
    """
    calibrated = any(recipe.spec(name).calibrated for name in (*recipe.sweep.methods, recipe.method))
    require(recipe, have, "train", "evaluate", *(["calibrate"] if calibrated else []))
    fit = have.holds(*needs(recipe)["train.num_workers"])
    if recipe.sweep.max_concurrent and recipe.sweep.max_concurrent > fit:
        raise UserError(
            f"sweep.max_concurrent={recipe.sweep.max_concurrent}: {have.source} ({_described(have)}) holds at most "
            f"{fit} runs at once: lower it, or leave it out"
        )
    return recipe.sweep.max_concurrent or fit


def _described(have: Capacity) -> str:
    return f"{have.cpus:g} CPUs and {have.gpus:g} GPUs on {len(have.nodes)} node{'s' if len(have.nodes) != 1 else ''}"
