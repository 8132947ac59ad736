"""Whether what a recipe asks for can ever be scheduled."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ray
import yaml

from raymdm.config.schema import Recipe
from raymdm.errors import UserError

DRIVER_CPUS = 0.01
"""CPUs of the process that drives one run: not 0, which Tune refuses, nor 1, which starves the workers it waits for."""

Node = tuple[float, float]
"""CPUs and GPUs of a node."""


class NodeType(NamedTuple):
    """Nodes that an autoscaler may bring up."""

    name: str
    cpus: float
    gpus: float
    most: int


@dataclass(frozen=True)
class Capacity:
    """The nodes a cluster can have, those that its autoscaler may add included."""

    nodes: tuple[Node, ...]
    source: str
    alive: tuple[Node, ...] | None = None
    """The nodes that are up; None: all of them."""
    types: tuple[NodeType, ...] = ()
    """What the autoscaler may add."""
    most_workers: float = math.inf
    """Nodes beside the head that it may have in all."""

    @property
    def cpus(self) -> float:
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(gpus for _, gpus in self.nodes)

    def holds(self, count: int, cpus: float, gpus: float, driver: float = 0.0, strategy: str = "PACK") -> int:
        """How many groups fit at once, each of `count` processes of this size and a driver of `driver` CPUs.

        A process must fit on one node, a driver on any. Those of a group may lie on several nodes; STRICT_PACK: all on
        one; STRICT_SPREAD: each on another one.
        """
        if strategy == "STRICT_PACK":
            count, cpus, gpus = 1, count * cpus, count * gpus
        places = [room(node, cpus, gpus) for node in self.nodes]
        beside = drivers = 0
        if driver:
            # drivers beside workers that fill every place, and those that a place left empty takes in
            beside = sum(_whole((c - n * cpus) / driver) for (c, _), n in zip(self.nodes, places, strict=True))
            drivers = _whole(cpus / driver)

        def fits(groups: int) -> bool:
            used = groups * count
            most = (min(n, groups) for n in places) if strategy == "STRICT_SPREAD" else places
            return sum(most) >= used and (not driver or beside + (sum(places) - used) * drivers >= groups)

        return next(groups for groups in range(sum(places) // count, -1, -1) if fits(groups))


def room(node: Node, cpus: float, gpus: float) -> int:
    """Processes of this size that a node holds. A part of a GPU lies on one GPU, so two of 0.6 need two."""
    by_cpu = _whole(node[0] / cpus)
    if not gpus:
        return by_cpu
    return min(by_cpu, _whole(node[1]) * _whole(1 / gpus) if gpus < 1 else _whole(node[1] / gpus))


def _whole(number: float) -> int:
    return math.floor(number + 1e-6)


def keep_count(recipe: Recipe) -> None:
    """For runs of a range of workers: start what counts their nodes beside this process, which outlives the runs.

    Ray starts it where the first run asks for it, and never elsewhere: were that node lost, the other runs would ask in
    vain, and one that has lost workers would wait for ever.
    """
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as counting

    fewest, most = recipe.train.workers
    if fewest < most:
        counting.get_or_create_autoscaling_coordinator()


def capacity() -> Capacity:
    """What the connected cluster can hold; without a connection, what a local Ray here would."""
    if not ray.is_initialized():
        import torch

        here = float(ray._private.utils.get_num_cpus()), float(torch.cuda.device_count())
        return Capacity((here,), "this machine")
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in up)
    launched = Path.home() / "ray_bootstrap_config.yaml"
    nodes = max(now, autoscaled(launched), key=lambda nodes: sum(cpus + gpus for cpus, gpus in nodes))
    return Capacity(nodes, "the cluster", now, node_types(launched), most_workers(launched))


def autoscaled(launched: Path) -> tuple[Node, ...]:
    """The nodes that a cluster's autoscaler may bring up, head included; none when `ray up` did not launch it.

    `launched`: the cluster.yaml that the launcher leaves on the head node, which the launcher's autoscaler publishes
    nowhere else.
    """
    return tuple((kind.cpus, kind.gpus) for kind in _kinds(launched) for _ in range(kind.most))


def node_types(launched: Path) -> tuple[NodeType, ...]:
    """The types of nodes beside the head that `launched` names, as in `autoscaled`."""
    return _kinds(launched)[1:]


def most_workers(launched: Path) -> float:
    """Nodes beside the head that `launched` allows over all types."""
    return yaml.safe_load(launched.read_text()).get("max_workers", 0) if launched.exists() else math.inf


def _kinds(launched: Path) -> tuple[NodeType, ...]:
    """The head, then the other types."""
    if not launched.exists():
        return ()
    config = yaml.safe_load(launched.read_text())
    kinds: list[NodeType] = []
    for name, kind in config["available_node_types"].items():
        head = name == config["head_node_type"]
        most = 1 if head else min(kind.get("max_workers", 0), config.get("max_workers", 0))
        resources = kind.get("resources", {})
        found = NodeType(name, float(resources.get("CPU", 0)), float(resources.get("GPU", 0)), most)
        kinds.insert(0 if head else len(kinds), found)
    return tuple(kinds)


class Need(NamedTuple):
    """Processes that must run beside each other."""

    processes: int
    cpus: float
    """Of each."""
    gpus: float
    driver: float = 0.0
    """CPUs of the process that drives them and keeps them while they wait."""
    strategy: str = "PACK"


def reuses(recipe: Recipe) -> bool:
    """Whether a run is one process that trains and scores, and then takes the next run.

    Not where GPUs train and CPUs score: the GPU would stand idle while its run is scored.
    """
    train, evaluate = recipe.train, recipe.evaluate
    return (
        recipe.sweep.reuse_processes
        and train.workers == (1, 1)
        and evaluate.num_actors == 1
        and evaluate.cpus_per_actor <= train.cpus_per_worker
        and evaluate.gpus_per_actor <= train.gpus_per_worker
        and bool(evaluate.gpus_per_actor) == bool(train.gpus_per_worker)
    )


def needs(recipe: Recipe) -> dict[str, Need]:
    """What each stage asks for at least, by the field that says how many."""
    train, evaluate, calibrate, diagnose = recipe.train, recipe.evaluate, recipe.calibrate, recipe.diagnose
    return {
        "train.num_workers": _training(recipe, train.workers[0]),
        "evaluate.num_actors": Need(evaluate.num_actors, evaluate.cpus_per_actor, evaluate.gpus_per_actor, DRIVER_CPUS),
        "calibrate.num_actors": Need(calibrate.num_actors, calibrate.cpus_per_actor, calibrate.gpus_per_actor),
        "diagnose.num_actors": Need(diagnose.num_actors, diagnose.cpus_per_actor, diagnose.gpus_per_actor),
    }


def _training(recipe: Recipe, workers: int) -> Need:
    train = recipe.train
    if reuses(recipe):
        return Need(1, train.cpus_per_worker + DRIVER_CPUS, train.gpus_per_worker)
    return Need(workers, train.cpus_per_worker, train.gpus_per_worker, DRIVER_CPUS, train.placement_strategy)


def training(recipe: Recipe, have: Capacity) -> Need:
    """What one run trains with: the most workers of its range that fit, or the fewest where none do."""
    fewest, most = recipe.train.workers
    sizes = (_training(recipe, workers) for workers in range(most, fewest, -1))
    return next((need for need in sizes if have.holds(*need)), _training(recipe, fewest))


def require(recipe: Recipe, have: Capacity, *stages: str) -> None:
    """Raise UserError, with every problem, when something that stages ask for could never be scheduled."""
    problems = []
    for field, need in needs(recipe).items():
        stage = field.split(".")[0]
        if stage in stages and not have.holds(*need):
            problems.append(_never(recipe, have, field, need))
    if problems:
        raise UserError("\n".join(problems))


def _never(recipe: Recipe, have: Capacity, field: str, need: Need) -> str:
    """Why a need can never be met."""
    stage, kind = field.split(".", maxsplit=1)[0], field.split("_")[1][:-1]
    if field == "train.num_workers" and recipe.train.workers[0] < recipe.train.workers[1]:
        field += ".min"
    gpus = f" or {stage}.gpus_per_{kind}" if need.gpus else ""
    beside = f" beside a driver of {need.driver:g} CPU" if need.driver else ""
    remedy = f"lower {field} or {stage}.cpus_per_{kind}{gpus}"
    if stage == "train" and reuses(recipe):
        beside = f" ({DRIVER_CPUS:g} of them drive the run)"
        remedy = f"lower {stage}.cpus_per_{kind}{gpus}"
    if need.strategy.startswith("STRICT") and have.holds(*need._replace(strategy="PACK")):
        beside += f", {'all on one node' if need.strategy == 'STRICT_PACK' else 'each on another node'}"
        remedy = f"lower {field}, or set train.placement_strategy to {need.strategy.removeprefix('STRICT_')}"
    return (
        f"{field}={need.processes} asks for {need.processes} times {need.cpus:g} CPUs and {need.gpus:g} GPUs{beside}, "
        f"but {have.source} can never hold that ({described(have)}), so it would wait for ever: {remedy}"
    )


def slots(recipe: Recipe, have: Capacity) -> int:
    """Runs at once. Raises UserError, with every problem, when something asked for could never be scheduled.

    A run is one process (see `reuses`); or a driver, its training workers and, later, its evaluation actors. The
    workers start together, so they and their driver must fit beside each other; otherwise they would wait for CPUs that
    the driver holds. Of a range of workers the most that fit are counted.
    """
    calibrated = any(recipe.spec(name).calibrated for name in (*recipe.sweep.methods, recipe.method))
    require(recipe, have, "train", "evaluate", *(["calibrate"] if calibrated else []))
    fit = have.holds(*training(recipe, have))
    if recipe.sweep.max_concurrent and recipe.sweep.max_concurrent > fit:
        raise UserError(
            f"sweep.max_concurrent={recipe.sweep.max_concurrent}: {have.source} ({described(have)}) holds at most "
            f"{fit} runs at once: lower it, or leave it out"
        )
    return recipe.sweep.max_concurrent or fit


def overlap(recipe: Recipe, have: Capacity) -> int:
    """How many runs may be scored beside `slots` runs that train, in what training leaves free wherever it lies.

    At most one for each run that trains; none where a run is one process, or `sweep.max_concurrent` says how many runs
    there may be. Raises UserError as `slots`.
    """
    at_once = slots(recipe, have)
    if reuses(recipe) or recipe.sweep.max_concurrent:
        return 0
    train, score = training(recipe, have), needs(recipe)["evaluate.num_actors"]
    nodes = list(have.nodes)
    # a part of a GPU is counted as a whole one, which leaves no part for scoring
    whole = math.ceil(train.gpus)
    parts = _whole(1 / train.gpus) if 0 < train.gpus < 1 else 1
    placed = [(train.driver, 0, at_once), (train.cpus * parts, whole, math.ceil(at_once * train.processes / parts))]
    for cpus, gpus, number in placed:
        for _ in range(number):
            worst = _worst_place(nodes, cpus, gpus, score)
            if worst is None:
                return 0
            nodes[worst] = nodes[worst][0] - cpus, nodes[worst][1] - gpus
    return min(at_once, Capacity(tuple(nodes), have.source).holds(*score))


def _worst_place(nodes: list[Node], cpus: float, gpus: float, score: Need) -> int | None:
    """The node where a process takes most from scoring: Ray may choose any. None where it fits on none."""

    def taken(place: int) -> tuple[int, int]:
        before = room(nodes[place], score.cpus, score.gpus)
        after = room((nodes[place][0] - cpus, nodes[place][1] - gpus), score.cpus, score.gpus)
        return before - after, before

    places = [place for place, node in enumerate(nodes) if room(node, cpus, gpus)]
    return max(places, key=taken) if places else None


def described(have: Capacity) -> str:
    """The nodes in words."""
    return f"{have.cpus:g} CPUs and {have.gpus:g} GPUs on {len(have.nodes)} node{'s' if len(have.nodes) != 1 else ''}"
