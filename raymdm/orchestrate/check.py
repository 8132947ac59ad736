"""What can be known of a recipe before anything long starts: of its data only the first rows are read."""

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from raymdm.config.schema import ModelConfig, Recipe
from raymdm.data.generated import GENERATED_TASKS
from raymdm.data.prepare import ROWS_CHECKED, check_source
from raymdm.data.splits import check_splits
from raymdm.data.tokenizer import check_learnt, load_tokenizer
from raymdm.orchestrate import cluster
from raymdm.orchestrate.cluster import Capacity, Need
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.folder import writable
from raymdm.orchestrate.plan import Plan, plan


def check(recipe: Recipe, offline: bool = False) -> Iterator[str]:
    """Lines that say what was checked; raises UserError at the first part that can't work.

    `offline`: what can be known of the recipe and a model in a folder here, without data, tokenizer, a network, or the
    machine or cluster that will run it; the last lines say what was left out.
    """
    if offline:
        yield from _of_itself(recipe)
        return
    with connected() if "RAY_ADDRESS" in os.environ else nullcontext():
        have = cluster.capacity()
    made = plan(recipe, have)
    yield from planned(recipe, made, have)
    for family, model in _models(recipe):
        check_source(recipe.data, model, family)
        yield f"data and tokenizer: task {recipe.data.task}, {_read(recipe)}, {model.tokenizer.kind}"
    for path, line in _weights(recipe, tokenizers=True):
        yield line or f"not looked at: the model's weights ({path})"
    for warning in (*recipe.warnings, *made.warnings):
        yield f"warning: {warning}"
    writable(Path(recipe.output))
    yield f"output: {Path(recipe.output).absolute()}"


def _read(recipe: Recipe) -> str:
    """What of the data was looked at."""
    if recipe.data.task in GENERATED_TASKS:
        return f"the first {ROWS_CHECKED} test rows generated"
    return f"the first {ROWS_CHECKED} rows of each split of {recipe.data.path}"


def _models(recipe: Recipe) -> list[tuple[str, ModelConfig]]:
    """The recipe's models, each with the family that it is trained as."""
    if recipe.arm_model:
        return [("mdm", recipe.model), ("arm", recipe.arm_model)]
    families = {recipe.spec(name).family for name in recipe.sweep.methods}
    return [("arm" if families == {"arm"} else "mdm", recipe.model)]


def _weights(recipe: Recipe, tokenizers: bool) -> Iterator[tuple[str, str | None]]:
    """Path of each pretrained model of the sweep, with a line of one in a folder here, which is looked at short of its
    numbers; None of one elsewhere. tokenizers: whether they may be read, to see how many tokens a model has to have.

    Raises UserError for a model that could not be loaded as its methods need it.
    """
    wanted = {
        (str(recipe.model_for(name).path), recipe.spec(name).family): name
        for name in recipe.sweep.methods
        if recipe.model_for(name).kind == "pretrained"
    }
    if not wanted:
        return
    from raymdm.models.look import look

    for (path, family), name in wanted.items():
        model = recipe.model_for(name)
        known = tokenizers and model.tokenizer.kind == "pretrained"
        yield path, look(model, load_tokenizer(model, None) if known else None, family)


def _of_itself(recipe: Recipe) -> Iterator[str]:
    """The recipe on the smallest cluster that holds what it asks for."""
    have = _asked_for(recipe)
    made = plan(recipe, have)
    yield f"resources: {_runs(recipe, made)}, {made.at_once} at once; they need {cluster.described(have)}, or more"
    yield from _methods(made)
    yield from _stages(made)
    check_splits(recipe.data)
    for _, model in _models(recipe):
        check_learnt(model)
        named = model.path or "from scratch"
        yield f"model: {named}, {'all weights' if model.adapter is None else model.adapter.kind} trained"
    weights = dict(_weights(recipe, tokenizers=False))
    yield from filter(None, weights.values())
    others = "" if weights and all(weights.values()) else " and models"
    for warning in (*recipe.warnings, *made.warnings):
        yield f"warning: {warning}"
    yield f"not looked at: the data ({recipe.data.task}, {recipe.data.path or 'generated'}), tokenizers{others}"
    yield f"not looked at: whether a machine or cluster holds that much, and the output folder ({recipe.output})"


def _asked_for(recipe: Recipe) -> Capacity:
    """Equal nodes that just hold each stage of a sweep, for as many runs as `sweep.max_concurrent` says."""
    needs, runs = cluster.needs(recipe), recipe.sweep.max_concurrent or 1
    train = needs["train.num_workers"]
    nodes = runs * recipe.train.workers[1] if train.strategy == "STRICT_SPREAD" else 1
    stages = [
        (train._replace(processes=recipe.train.workers[1]), runs),
        (needs["evaluate.num_actors"], 1),
        (needs["calibrate.num_actors"], 1),
    ]
    each = [(need, groups, math.ceil(groups * need.processes / nodes)) for need, groups in stages]
    cpus = max(math.ceil(groups * need.driver + number * need.cpus) for need, groups, number in each)
    gpus = max(
        math.ceil(number / int(1 / need.gpus) if 0 < need.gpus < 1 else number * need.gpus) for need, _, number in each
    )
    return Capacity(((float(cpus), float(gpus)),) * nodes, "what the recipe asks for")


def planned(recipe: Recipe, made: Plan, have: Capacity) -> Iterator[str]:
    """What the sweep will do with the nodes, in lines."""
    yield f"resources: {_runs(recipe, made)}, {made.at_once} at once; {have.source} holds {cluster.described(have)}"
    yield from _methods(made)
    yield from _stages(made)
    yield f"at once: {_runs_at_once(made)}"
    cpus, gpus = (max(0.0, round(number, 6)) for number in made.idle)
    yield f"idle while they train: {cpus:g} of {have.cpus:g} CPUs, {gpus:g} of {have.gpus:g} GPUs"
    if made.added:
        types = {kind.name: kind for kind in have.types}
        new = (f"{n} x {name} ({_size(types[name].cpus, types[name].gpus)})" for name, n in made.added.items())
        yield f"the autoscaler must bring up: {', '.join(new)}; {len(have.alive or ())} of the cluster's nodes are up"


def _methods(made: Plan) -> Iterator[str]:
    yield "methods, in the order they start:"
    for method in made.methods:
        known = f"{method.steps} steps, {method.model_rows} model rows" if method.steps else "steps from train.epochs"
        yield f"  {method.name}: {known}, relative cost {method.relative_cost:.3g}"


def _stages(made: Plan) -> Iterator[str]:
    yield f"a run: {_bundle(made)}"
    if made.calibrate:
        yield f"calibration, before the runs: {_processes(made.calibrate)}"


def _runs(recipe: Recipe, made: Plan) -> str:
    fewest, most = made.runs
    if isinstance(recipe.sweep.seeds, list):
        return f"{most} runs"
    return f"{fewest} to {most} runs (until {recipe.sweep.seeds.stop_when})"


def _bundle(made: Plan) -> str:
    """The processes of one run and what they reserve."""
    train, (fewest, most) = made.train, made.workers
    if made.one_process:
        driving = cluster.DRIVER_CPUS
        return f"one process of {_size(train.cpus, train.gpus)} that trains and scores ({driving:g} CPUs to drive it)"
    each = _size(train.cpus, train.gpus)
    range_ = f"{fewest} to {most} workers" if fewest < most else f"{most} worker{'s' * (most > 1)}"
    return (
        f"a driver of {train.driver:g} CPUs, {range_} of {each}{' each' * (most > 1)} ({train.strategy}); then, for "
        f"scoring, {_processes(made.score)}"
    )


def _runs_at_once(made: Plan) -> str:
    shared = f"; {made.runs_a_gpu} runs share a GPU" if made.runs_a_gpu > 1 else ""
    text = f"{made.at_once} training ({made.limit}){shared}"
    if made.one_process:
        return text
    if made.scored_beside:
        return f"{text}; {made.scored_beside} more can be scored beside them"
    return f"{text}; a run is scored before the next one takes its place"


def _processes(need: Need) -> str:
    many = need.processes > 1
    return f"{need.processes} process{'es' * many} of {_size(need.cpus, need.gpus)}{' each' * many}"


def _size(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs and {gpus:g} GPUs"
