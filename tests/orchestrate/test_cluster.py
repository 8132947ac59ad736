"""What can be scheduled, by hand-computed capacities."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.cluster import (
    Capacity,
    NodeType,
    autoscaled,
    most_workers,
    node_types,
    overlap,
    require,
    reuses,
    slots,
)

MakeRecipe = Callable[..., Recipe]
TWO_CPUS = Capacity(((2.0, 0.0),), "this machine")


@pytest.mark.parametrize(
    ("workers", "cpus", "have", "expected"),
    [(1, 0.98, 2, 2), (1, 0.99, 2, 2), (1, 1.0, 2, 1), (2, 0.98, 2, 1), (2, 0.49, 4, 4), (1, 0.5, 16, 31)],
)
def test_runs_at_once(make_recipe: MakeRecipe, workers: int, cpus: float, have: float, expected: int) -> None:
    recipe = make_recipe(train__num_workers=workers, train__cpus_per_worker=cpus)
    assert slots(recipe, Capacity(((have, 0.0),), "it")) == expected


def test_gpus_bound_the_runs_at_once(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__num_workers=2, train__gpus_per_worker=1)
    assert slots(recipe, Capacity(((64.0, 7.0),), "it")) == 3


def test_workers_that_fill_every_cpu_would_wait_for_their_driver(make_recipe: MakeRecipe) -> None:
    """Two workers of one CPU leave none of two for the process that drives them: the deadlock."""
    recipe = make_recipe(train__num_workers=2, train__cpus_per_worker=1.0)
    with pytest.raises(UserError, match=r"wait for ever.*train\.cpus_per_worker"):
        slots(recipe, TWO_CPUS)


def test_every_impossible_stage_is_named_at_once(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        train__num_workers=8, evaluate__num_actors=3, calibrate__gpus_per_actor=1, sweep__methods=["p_pots"]
    )
    with pytest.raises(UserError) as error:
        slots(recipe, TWO_CPUS)
    lines = str(error.value).splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "train.num_workers",
        "evaluate.num_actors",
        "calibrate.num_actors",
    ]


def test_calibration_does_not_count_where_nothing_is_calibrated(make_recipe: MakeRecipe) -> None:
    assert slots(make_recipe(calibrate__gpus_per_actor=1), TWO_CPUS) == 2


def test_more_at_once_than_fit_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"max_concurrent=3.*at most 2"):
        slots(make_recipe(sweep__max_concurrent=3), TWO_CPUS)


def test_fewer_at_once_are_granted(make_recipe: MakeRecipe) -> None:
    assert slots(make_recipe(sweep__max_concurrent=1), TWO_CPUS) == 1


def test_a_worker_must_fit_on_one_node(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__cpus_per_worker=3.9)
    assert slots(recipe, Capacity(((4.0, 0.0),) * 2, "it")) == 2
    with pytest.raises(UserError, match="8 CPUs and 0 GPUs on 4 nodes"):
        slots(recipe, Capacity(((2.0, 0.0),) * 4, "the cluster"))


def test_workers_of_a_run_may_lie_on_several_nodes(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__num_workers=4, train__cpus_per_worker=0.9)
    assert slots(recipe, Capacity(((2.0, 0.0),) * 4, "it")) == 2


def test_autoscaled_nodes_are_those_the_launcher_may_start(tmp_path: Path) -> None:
    config = tmp_path / "ray_bootstrap_config.yaml"
    config.write_text(
        """
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0}
  cpu: {resources: {CPU: 8}, max_workers: 4}
  gpu: {resources: {CPU: 16, GPU: 1}, max_workers: 8}
"""
    )
    assert autoscaled(config) == ((0.0, 0.0), *[(8.0, 0.0)] * 4, *[(16.0, 1.0)] * 6)
    assert autoscaled(tmp_path / "none.yaml") == ()
    assert node_types(config) == (NodeType("cpu", 8.0, 0.0, 4), NodeType("gpu", 16.0, 1.0, 6))
    assert most_workers(config) == 6


def test_a_stage_is_asked_for_its_own_needs_alone(make_recipe: MakeRecipe) -> None:
    """A diagnosis does not train: a recipe for eight GPUs can be diagnosed on a laptop."""
    recipe = make_recipe(train__num_workers=8, train__gpus_per_worker=1, diagnose__num_actors=2)
    require(recipe, TWO_CPUS, "diagnose", "calibrate")
    with pytest.raises(UserError, match=r"train\.num_workers=8 asks for 8 times"):
        require(recipe, TWO_CPUS, "train")


def test_a_diagnosis_that_could_never_be_scheduled_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"diagnose\.num_actors=1 asks for 1 times 1 CPUs and 1 GPUs.*wait for ever"):
        require(make_recipe(diagnose__gpus_per_actor=1), TWO_CPUS, "diagnose")


def nodes(number: int, cpus: float, gpus: float = 0) -> Capacity:
    return Capacity(((float(cpus), float(gpus)),) * number, "the cluster")


@pytest.mark.parametrize(
    ("strategy", "have", "expected"),
    [
        ("PACK", nodes(3, 3.5), 4),  # 9 places, 2 a run, and drivers beside them
        ("SPREAD", nodes(3, 3.5), 4),
        ("STRICT_PACK", nodes(3, 3.5), 3),  # a third place on each node is of no use
        ("STRICT_SPREAD", nodes(3, 3.5), 4),
        ("STRICT_SPREAD", Capacity(((8.5, 0.0), (1.5, 0.0)), "it"), 1),
        ("STRICT_PACK", Capacity(((8.5, 0.0), (1.5, 0.0)), "it"), 4),
    ],
)
def test_placement_counts_runs_as_ray_lays_them(
    make_recipe: MakeRecipe, strategy: str, have: Capacity, expected: int
) -> None:
    recipe = make_recipe(train__num_workers=2, train__cpus_per_worker=1.0, train__placement_strategy=strategy)
    assert slots(recipe, have) == expected


@pytest.mark.parametrize(
    ("strategy", "have", "words"),
    [
        ("STRICT_PACK", nodes(4, 2), r"all on one node.*placement_strategy to PACK"),
        ("STRICT_SPREAD", nodes(1, 8), r"each on another node.*placement_strategy to SPREAD"),
    ],
)
def test_a_strategy_that_can_never_hold_is_named(
    make_recipe: MakeRecipe, strategy: str, have: Capacity, words: str
) -> None:
    recipe = make_recipe(train__num_workers=4, train__placement_strategy=strategy)
    with pytest.raises(UserError, match=words):
        slots(recipe, have)


def test_drivers_must_find_room_beside_workers() -> None:
    """Each node is left 0.005 of a CPU: enough together for a driver of 0.01, and no node holds it."""
    assert nodes(2, 1.0).holds(2, 0.995, 0, driver=0.01) == 0
    assert nodes(2, 1.0).holds(1, 0.995, 0, driver=0.01) == 1


def test_a_part_of_a_gpu_lies_on_one_gpu() -> None:
    assert nodes(1, 64, 3).holds(1, 1, 0.6) == 3
    assert nodes(1, 64, 3).holds(1, 1, 0.25) == 12


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        (nodes(1, 64, 16), 2),  # the most, twice
        (nodes(1, 64, 15), 1),  # the most, once: a run takes what it may
        (nodes(1, 64, 5), 1),  # fewer than the most
    ],
)
def test_a_range_of_workers_counts_the_most_that_fit(make_recipe: MakeRecipe, have: Capacity, expected: int) -> None:
    recipe = make_recipe(train__num_workers={"min": 2, "max": 8}, train__gpus_per_worker=1)
    assert slots(recipe, have) == expected


def test_the_fewest_workers_of_a_range_must_fit(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__num_workers={"min": 2, "max": 8}, train__gpus_per_worker=1)
    with pytest.raises(UserError, match=r"train\.num_workers\.min=2 asks for 2 times"):
        slots(recipe, nodes(1, 64, 1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"sweep__reuse_processes": False}, False),
        ({"train__num_workers": 2}, False),
        ({"train__num_workers": {"min": 1, "max": 2}}, False),
        ({"evaluate__num_actors": 2}, False),
        ({"evaluate__cpus_per_actor": 2.0}, False),
        ({"evaluate__gpus_per_actor": 1}, False),
        ({"evaluate__gpus_per_actor": 1, "train__gpus_per_worker": 1}, True),
        ({"train__gpus_per_worker": 1}, False),
    ],
)
def test_a_run_is_one_process_where_training_s_can_score(
    make_recipe: MakeRecipe, changes: dict[str, object], expected: bool
) -> None:
    assert reuses(make_recipe(**changes)) is expected


def test_the_one_process_must_fit_on_one_node_with_its_driver_s_share(make_recipe: MakeRecipe) -> None:
    """A driver of its own could lie on the other node; a process cannot be on two."""
    have = Capacity(((1.0, 0.0), (0.5, 0.0)), "it")
    assert slots(make_recipe(train__cpus_per_worker=1.0, sweep__reuse_processes=False), have) == 1
    with pytest.raises(UserError, match=r"1\.01 CPUs.*drive the run.*lower train\.cpus_per_worker$"):
        slots(make_recipe(train__cpus_per_worker=1.0), have)


@pytest.mark.parametrize(
    ("changes", "have", "expected"),
    [
        # one process a run: what scores is what trained
        ({"evaluate__num_actors": 1}, nodes(1, 8), 0),
        # four workers take all GPUs; 16 - 4 x 0.98 - 4 x 0.01 = 12.04 CPUs hold 3 times 4 actors of 0.98
        ({"train__gpus_per_worker": 1, "evaluate__num_actors": 4}, nodes(1, 16, 4), 3),
        # the same CPUs, all taken
        ({"train__cpus_per_worker": 3.9, "evaluate__num_actors": 4}, nodes(1, 16), 0),
        # scoring needs the GPUs that training holds
        ({"train__gpus_per_worker": 1, "evaluate__num_actors": 2, "evaluate__gpus_per_actor": 1}, nodes(1, 64, 4), 0),
        # never more than train
        ({"train__gpus_per_worker": 1, "evaluate__num_actors": 2}, nodes(2, 64, 1), 2),
        # somebody said how many runs there may be
        (
            {"train__gpus_per_worker": 1, "evaluate__num_actors": 2, "sweep__max_concurrent": 1},
            nodes(2, 64, 1),
            0,
        ),
        # half a GPU a run: the eight runs leave none for scoring
        (
            {"train__gpus_per_worker": 0.5, "evaluate__num_actors": 2, "evaluate__gpus_per_actor": 0.25},
            nodes(1, 64, 4),
            0,
        ),
    ],
)
def test_runs_scored_beside_those_that_train(
    make_recipe: MakeRecipe, changes: dict[str, object], have: Capacity, expected: int
) -> None:
    assert overlap(make_recipe(**changes), have) == expected


def test_scoring_counts_on_no_lucky_place_of_training(make_recipe: MakeRecipe) -> None:
    """Two workers may lie on one node or on both: only a node without one has 4 CPUs left for an actor."""
    recipe = make_recipe(
        train__gpus_per_worker=1, train__num_workers=2, train__placement_strategy="SPREAD",
        evaluate__cpus_per_actor=4.0,
    )  # fmt: skip
    assert overlap(recipe, Capacity(((4.0, 2.0), (4.0, 2.0), (0.1, 0.0)), "it")) == 0
