"""What a sweep will do, counted by hand."""

from collections.abc import Callable

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.check import planned
from raymdm.orchestrate.cluster import Capacity, NodeType
from raymdm.orchestrate.plan import Plan, cost, ordered, plan

MakeRecipe = Callable[..., Recipe]
GPUS = {"train__gpus_per_worker": 1, "sweep__seeds": list(range(20))}


def nodes(number: int, cpus: float, gpus: float = 0) -> Capacity:
    return Capacity(((float(cpus), float(gpus)),) * number, "the cluster")


def text(recipe: Recipe, have: Capacity) -> str:
    return "\n".join(planned(recipe, plan(recipe, have), have))


def test_cost_is_model_rows(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(sweep__methods=["standard", "mirror"], train__max_steps=12, train__global_batch_size=8)
    assert cost(recipe, "standard") == 12 * 8
    assert cost(recipe, "mirror") == 2 * 12 * 8


def test_methods_cost_the_same_where_the_budget_is_rows(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__max_steps=12, train__budget="rows")
    assert cost(recipe, "mirror") == cost(recipe, "standard")


@pytest.mark.parametrize(("budget", "ratio"), [("steps", 2.0), ("rows", 1.0)])
def test_cost_compares_methods_where_steps_depend_on_the_data(
    make_recipe: MakeRecipe, budget: str, ratio: float
) -> None:
    recipe = make_recipe(train__max_steps=None, train__epochs=0.3, train__budget=budget)
    assert cost(recipe, "mirror") / cost(recipe, "standard") == pytest.approx(ratio, rel=1e-3)


def test_the_longest_runs_start_first_and_others_as_given(make_recipe: MakeRecipe) -> None:
    cells = [("standard", 2), ("mirror", 2), ("arm", 2), ("standard", 1), ("mirror", 1), ("arm", 1)]
    assert ordered(make_recipe(), cells) == [
        ("mirror", 2), ("mirror", 1), ("standard", 2), ("arm", 2), ("standard", 1), ("arm", 1),
    ]  # fmt: skip


def test_steps_and_rows_of_a_run(make_recipe: MakeRecipe) -> None:
    made = plan(make_recipe(sweep__methods=["standard", "mirror"]), nodes(1, 8))
    assert [(m.name, m.steps, m.model_rows, m.relative_cost) for m in made.methods] == [
        ("mirror", 12, 2 * 12 * 8, 2.0),
        ("standard", 12, 12 * 8, 1.0),
    ]


def test_steps_that_depend_on_the_data_are_left_open(make_recipe: MakeRecipe) -> None:
    (method,) = plan(make_recipe(train__max_steps=None), nodes(1, 8)).methods
    assert (method.steps, method.model_rows) == (None, None)


def test_runs_of_an_adaptive_sweep_lie_between_two_numbers(make_recipe: MakeRecipe) -> None:
    seeds = {"initial": 3, "max": 12, "stop_when": "decided(stable, standard)"}
    recipe = make_recipe(sweep__methods=["standard", "stable", "arm"], sweep__seeds=seeds)
    assert plan(recipe, nodes(1, 8)).runs == (9, 9 + 2 * 9)  # nobody asks about the ARM
    assert "9 to 27 runs (until decided(stable, standard))" in text(recipe, nodes(1, 8))


@pytest.mark.parametrize(
    ("changes", "have", "at_once", "limit"),
    [
        ({"sweep__seeds": [1, 2]}, nodes(1, 64), 2, "that is all runs"),
        ({"sweep__seeds": [1, 2, 3, 4]}, nodes(1, 2), 2, "CPUs are the limit"),
        (GPUS, nodes(1, 64, 4), 4, "GPUs are the limit"),
        (GPUS | {"train__cpus_per_worker": 15.0}, nodes(1, 64, 4), 4, "CPUs and GPUs are the limit"),
        ({"sweep__seeds": [1, 2, 3], "sweep__max_concurrent": 2}, nodes(1, 64), 2, "sweep.max_concurrent is the limit"),
        (
            GPUS | {"train__num_workers": 2, "train__placement_strategy": "STRICT_PACK"},
            nodes(4, 16, 3),
            4,
            "train.placement_strategy=STRICT_PACK is the limit",
        ),
    ],
)
def test_why_no_more_run_at_once(
    make_recipe: MakeRecipe, changes: dict[str, object], have: Capacity, at_once: int, limit: str
) -> None:
    made = plan(make_recipe(**changes), have)
    assert (made.at_once, made.limit) == (at_once, limit)


def test_what_stands_idle(make_recipe: MakeRecipe) -> None:
    made = plan(make_recipe(**GPUS, train__num_workers=3, train__cpus_per_worker=2.0), nodes(1, 16, 8))
    assert made.at_once == 2
    assert made.idle == (pytest.approx(16 - 2 * (0.01 + 3 * 2)), 8 - 2 * 3)


def test_runs_that_share_a_gpu_are_told(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(sweep__seeds=list(range(9)), train__gpus_per_worker=0.25)
    assert plan(recipe, nodes(1, 64, 1)).runs_a_gpu == 4
    assert "4 training (GPUs are the limit); 4 runs share a GPU" in text(recipe, nodes(1, 64, 1))


def test_lines_tell_a_run_of_one_process(make_recipe: MakeRecipe) -> None:
    assert "a run: one process of 0.99 CPUs and 0 GPUs that trains and scores" in text(make_recipe(), nodes(1, 8))


def test_lines_tell_a_run_of_several(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        train__num_workers={"min": 2, "max": 8}, train__gpus_per_worker=1, train__micro_batch_size=1,
        evaluate__num_actors=2, sweep__methods=["p_pots"],
    )  # fmt: skip
    lines = text(recipe, nodes(1, 64, 6))
    assert "a driver of 0.01 CPUs, 2 to 6 workers of 0.98 CPUs and 1 GPUs each (PACK); then" in lines
    assert "for scoring, 2 processes of 0.98 CPUs and 0 GPUs each" in lines
    assert "calibration, before the runs: 1 process of 1 CPUs and 0 GPUs" in lines
    assert "1 more can be scored beside them" in lines


HEAD = (0.0, 0.0)
TYPES = (NodeType("cpu", 16.0, 0.0, 4), NodeType("gpu", 8.0, 1.0, 8))


def cluster(*alive: tuple[float, float], most_workers: int = 12) -> Capacity:
    later = (HEAD, *[(16.0, 0.0)] * 4, *[(8.0, 1.0)] * 8)
    return Capacity(later, "the cluster", (HEAD, *alive), TYPES, most_workers)


@pytest.mark.parametrize(
    ("changes", "alive", "expected"),
    [
        (GPUS, [], {"gpu": 8}),
        (GPUS, [(8.0, 1.0)] * 3, {"gpu": 5}),
        (GPUS, [(8.0, 1.0)] * 8, {}),
        ({"sweep__seeds": list(range(32))}, [], {"cpu": 2}),  # 16 runs of 0.99 a node
        ({"sweep__seeds": [1]} | GPUS | {"calibrate__cpus_per_actor": 12.0, "sweep__methods": ["p_pots"]},
         [], {"gpu": 8, "cpu": 1}),
    ],
)  # fmt: skip
def test_nodes_that_the_autoscaler_must_bring_up(
    make_recipe: MakeRecipe, changes: dict[str, object], alive: list[tuple[float, float]], expected: dict[str, int]
) -> None:
    assert plan(make_recipe(**changes), cluster(*alive)).added == expected


def test_the_autoscaler_s_nodes_are_named(make_recipe: MakeRecipe) -> None:
    lines = text(make_recipe(**GPUS), cluster())
    assert "the autoscaler must bring up: 8 x gpu (8 CPUs and 1 GPUs); 1 of the cluster's nodes are up" in lines


def test_more_nodes_than_the_autoscaler_may_have_are_told(make_recipe: MakeRecipe) -> None:
    made = plan(make_recipe(**GPUS), cluster(most_workers=6))
    assert any("8 nodes beside the head are wanted, max_workers is 6" in line for line in made.warnings)


def warned(made: Plan) -> str:
    (line,) = made.warnings
    return line


def test_a_range_without_micro_batches_is_warned_of(make_recipe: MakeRecipe) -> None:
    changes = {"train__num_workers": {"min": 2, "max": 8}, "train__global_batch_size": 16}
    warning = warned(plan(make_recipe(**changes), nodes(1, 64)))
    assert "2 sequences with 8 workers, 8 with 2" in warning and "train.micro_batch_size to 2" in warning
    assert plan(make_recipe(**changes, train__micro_batch_size=2), nodes(1, 64)).warnings == ()


def test_a_range_that_no_node_holds_whole_is_warned_of(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        train__num_workers={"min": 2, "max": 8}, train__micro_batch_size=1, train__placement_strategy="STRICT_PACK"
    )
    assert "train.num_workers.max=8: at most 4 workers of one run fit on a node" in warned(plan(recipe, nodes(3, 4)))


def test_scoring_that_waits_for_other_runs_gpus_is_warned_of(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(**GPUS, evaluate__num_actors=3, evaluate__gpus_per_actor=1)
    warning = warned(plan(recipe, nodes(1, 64, 4)))
    assert "evaluate.num_actors=3: scoring a run takes 3 GPUs, but its training frees 1 and 0 are idle" in warning


def test_a_plan_that_can_never_be_scheduled_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match="wait for ever"):
        plan(make_recipe(train__gpus_per_worker=1), nodes(1, 4))
