"""What a sweep will do with the nodes it can have: in which order, how much at once, and what stands idle."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raymdm.config.schema import Recipe

if TYPE_CHECKING:
    from raymdm.orchestrate.cluster import Capacity, Need, Node

Cell = tuple[str, int]
"""A method and a seed."""

_NOMINAL_BATCHES = 10_000
"""Batches in a pass over the data while its size is unknown: many, so that rounding to steps does not show."""


def cost(recipe: Recipe, method: str) -> float:
    """Model rows of one run: sequences x views x steps.

    Where `train.max_steps` is null, steps depend on data that may not be prepared yet: the rows are then those of a
    nominal data set, good only to compare methods of the recipe.
    """
    settings, views = recipe.train, recipe.spec(method).views
    steps = settings.share(views, _NOMINAL_BATCHES * settings.global_batch_size).max_steps
    assert steps
    return float(steps * settings.global_batch_size * views)


def ordered(recipe: Recipe, cells: Sequence[Cell]) -> list[Cell]:
    """The cells, longest first, equally long ones as given: a long run that starts last keeps all others waiting."""
    costs = {method: cost(recipe, method) for method, _ in cells}
    return sorted(cells, key=lambda cell: -costs[cell[0]])


@dataclass(frozen=True)
class MethodPlan:
    """One run of a method."""

    name: str
    relative_cost: float
    """Model rows, the cheapest method of the grid being 1."""
    steps: int | None
    """Optimiser steps; None while they depend on data that is not prepared."""
    model_rows: int | None


@dataclass(frozen=True)
class Plan:
    """A sweep on given nodes, while all runs at once train."""

    runs: tuple[int, int]
    """Fewest and most."""
    methods: tuple[MethodPlan, ...]
    """In the order in which their runs start."""
    one_process: bool
    """A run is one process that trains and scores."""
    workers: tuple[int, int]
    """Fewest and most of a run; the most is what the nodes hold."""
    train: "Need"
    """The most of a run."""
    score: "Need"
    calibrate: "Need | None"
    """None where nothing is calibrated."""
    at_once: int
    scored_beside: int
    """Runs that are scored while `at_once` others train."""
    limit: str
    """Why no more run at once."""
    idle: tuple[float, float]
    """CPUs and GPUs that nothing uses."""
    runs_a_gpu: int
    """Runs that share one GPU."""
    added: dict[str, int]
    """Nodes by type that the autoscaler must bring up."""
    warnings: tuple[str, ...]


def plan(recipe: Recipe, have: "Capacity") -> Plan:
    """What the sweep will do. Raises UserError when something asked for could never be scheduled."""
    from raymdm.orchestrate import cluster  # Ray comes with it, and a look at a sweep does without

    runs, at_once = _runs(recipe), cluster.slots(recipe, have)
    at_once, beside = min(at_once, runs[1]), min(cluster.overlap(recipe, have), runs[1])
    needs, train = cluster.needs(recipe), cluster.training(recipe, have)
    calibrated = any(recipe.spec(name).calibrated for name in recipe.sweep.methods)
    result = Plan(
        runs=runs,
        methods=_methods(recipe),
        one_process=cluster.reuses(recipe),
        workers=(recipe.train.workers[0], train.processes),
        train=train,
        score=needs["evaluate.num_actors"],
        calibrate=needs["calibrate.num_actors"] if calibrated else None,
        at_once=at_once,
        scored_beside=beside,
        limit=_limit(recipe, have, train, at_once, runs[1]),
        idle=(
            have.cpus - at_once * (train.driver + train.processes * train.cpus),
            have.gpus - at_once * train.processes * train.gpus,
        ),
        runs_a_gpu=int(1 / train.gpus + 1e-6) if 0 < train.gpus < 1 else 1,
        added={},
        warnings=(),
    )
    added, lacking = _added(result, have)
    return replace(result, added=added, warnings=(*_warnings(recipe, result), *lacking))


def _runs(recipe: Recipe) -> tuple[int, int]:
    sweep = recipe.sweep
    first = len(sweep.methods) * len(sweep.first_seeds)
    if isinstance(sweep.seeds, list):
        return first, first
    return first, first + len(sweep.players) * (sweep.seeds.max - sweep.seeds.initial)


def _methods(recipe: Recipe) -> tuple[MethodPlan, ...]:
    names = [name for name, _ in ordered(recipe, [(name, 0) for name in recipe.sweep.methods])]
    costs = {name: cost(recipe, name) for name in names}
    known = recipe.train.max_steps is not None
    return tuple(
        MethodPlan(
            name,
            costs[name] / min(costs.values()),
            round(costs[name] / recipe.train.global_batch_size / recipe.spec(name).views) if known else None,
            round(costs[name]) if known else None,
        )
        for name in names
    )


def _limit(recipe: Recipe, have: "Capacity", train: "Need", at_once: int, runs: int) -> str:
    """What would have to grow for more runs at once."""
    if at_once == runs:
        return "that is all runs"
    fit = have.holds(*train)
    if at_once < fit:
        return "sweep.max_concurrent is the limit"
    if have.holds(*train._replace(strategy="PACK")) > fit:
        return f"train.placement_strategy={train.strategy} is the limit"
    twice = {"CPUs": tuple((2 * c, g) for c, g in have.nodes), "GPUs": tuple((c, 2 * g) for c, g in have.nodes)}
    short = [name for name, nodes in twice.items() if replace(have, nodes=nodes).holds(*train) > fit]
    return f"{' or '.join(short or ['CPUs and GPUs'])} are the limit"


def _added(made: Plan, have: "Capacity") -> tuple[dict[str, int], list[str]]:
    """Nodes by type that must come up beside those alive, stage after stage, and what they would still lack."""
    if have.alive is None or not have.types:
        return {}, []
    stages = {"calibration": (made.calibrate, 1), "training": (made.train, made.at_once)}
    if not made.one_process:
        stages["scoring"] = made.score, 1
    nodes, added, lacking = have.alive, Counter[str](), []
    for stage, (need, groups) in stages.items():
        if need is None:
            continue
        nodes, new = _grown(need, groups, nodes, have)
        added += new
        held = replace(have, nodes=nodes).holds(*need)
        if held < groups:
            lacking.append(f"{stage}: the autoscaler's nodes hold {held} of {groups} at once; the others wait")
    workers = len(nodes) - 1
    if workers > have.most_workers:
        lacking.append(f"{workers} nodes beside the head are wanted, max_workers is {have.most_workers:g}: runs wait")
    return dict(added), lacking


def _grown(
    need: "Need", groups: int, nodes: tuple["Node", ...], have: "Capacity"
) -> tuple[tuple["Node", ...], Counter[str]]:
    """The nodes with those added that so many groups need, as far as there are such, and the added ones by type.

    Types without GPUs come first, and small ones, as the autoscaler chooses.
    """
    from raymdm.orchestrate.cluster import room

    added: Counter[str] = Counter()
    alive = _by_type(nodes, have)
    for kind in sorted(have.types, key=lambda kind: (kind.gpus, kind.cpus)):
        node = kind.cpus, kind.gpus
        while (
            room(node, need.cpus, need.gpus)
            and added[kind.name] + alive.get(kind.name, 0) < kind.most
            and replace(have, nodes=nodes).holds(*need) < groups
        ):
            nodes = (*nodes, node)
            added[kind.name] += 1
    return nodes, added


def _by_type(nodes: tuple["Node", ...], have: "Capacity") -> dict[str, int]:
    """How many of the nodes are of each type; equal shapes are dealt out to the types in turn, each to its maximum."""
    left, found = Counter(nodes), {}
    for kind in have.types:
        found[kind.name] = min(left[kind.cpus, kind.gpus], kind.most)
        left[kind.cpus, kind.gpus] -= found[kind.name]
    return found


def _warnings(recipe: Recipe, made: Plan) -> list[str]:
    """What works, but not as one may think."""
    found, settings, (fewest, most) = [], recipe.train, recipe.train.workers
    if fewest < most and settings.micro_batch_size is None:
        low, high = (-(-settings.global_batch_size // workers) for workers in (most, fewest))
        found.append(
            f"train.num_workers is a range and train.micro_batch_size is null: a worker's forward pass takes {low} "
            f"sequences with {most} workers, {high} with {fewest}: memory grows when workers go; set "
            f"train.micro_batch_size to {low} or less"
        )
    if made.train.processes < most and not made.one_process:
        where = " of one run fit on a node" if settings.placement_strategy == "STRICT_PACK" else " of one run fit"
        found.append(f"train.num_workers.max={most}: at most {made.train.processes} workers{where}")
    freed = made.train.processes * made.train.cpus, made.train.processes * made.train.gpus
    wanted = made.score.processes * made.score.cpus, made.score.processes * made.score.gpus
    for name, asked, own, idle in zip(("CPUs", "GPUs"), wanted, freed, made.idle, strict=True):
        if made.at_once > 1 and asked > own + max(0.0, idle) + 1e-6:
            found.append(
                f"evaluate.num_actors={made.score.processes}: scoring a run takes {asked:g} {name}, but its training "
                f"frees {own:g} and {max(0.0, idle):g} are idle: it waits for other runs to end their training"
            )
    return found
