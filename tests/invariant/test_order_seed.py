"""What orders the training rows: the data's seed for all runs, or each run's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from interrupted import assert_same_run, run_once, run_stopped
from safetensors.torch import load_file

from raymdm import keys
from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.storage import Storage
from raymdm.training import loop
from raymdm.training.checkpoints import newest
from raymdm.training.loop import Job, Worker, build, train_step

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows of every step."""
    found: list[np.ndarray] = []
    indices = loading.batch_indices

    def spy(*args: int) -> np.ndarray:
        found.append(indices(*args))
        return found[-1]

    monkeypatch.setattr(loading, "batch_indices", spy)
    return found


def steps(job: Job, folder: Path) -> None:
    """The first three steps of a run."""
    run = build(job, Worker(lambda metrics: None, Storage(str(folder))), folder / "scratch")
    for _ in range(3):
        train_step(run)
    run.writer.close()


def weights(folder: Path) -> bytes:
    found = newest(Storage(str(folder)), folder / "copy")
    assert found
    tensors = load_file(found.path / "model" / "model.safetensors")
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


@pytest.mark.parametrize(("order_seed", "alike"), [("data", True), ("run", False)])
def test_seeds_of_an_arm_differ_by_their_order_alone(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, order_seed: str, alike: bool
) -> None:
    recipe = make_recipe(train__order_seed=order_seed)
    for seed in (1, 2):
        run_once(Job(recipe, "arm", seed, tiny_data), tmp_path / str(seed))
    assert (weights(tmp_path / "1") == weights(tmp_path / "2")) is alike


def test_the_data_s_order_is_that_of_its_seed(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, ordered: list[np.ndarray]
) -> None:
    recipe = make_recipe()
    steps(Job(recipe, "standard", 1, tiny_data), tmp_path)
    number = len(loading.load_split(tiny_data, "train"))
    first = keys.generator(recipe.data.seed, "order", 0).permutation(number)
    np.testing.assert_array_equal(np.concatenate(ordered), first[: sum(map(len, ordered))])


def test_a_run_s_own_order_is_another_though_the_seeds_are_equal_numbers(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, ordered: list[np.ndarray]
) -> None:
    data = make_recipe()
    own = make_recipe(train__order_seed="run")
    for name, recipe in (("data", data), ("own", own)):
        steps(Job(recipe, "standard", data.data.seed, tiny_data), tmp_path / name)
    assert ordered[0].tolist() != ordered[3].tolist()


def test_a_run_s_own_order_goes_on_after_a_stop(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    job = Job(make_recipe(train__order_seed="run", train__checkpoint_every=3), "arm", 42, tiny_data)
    run_once(job, tmp_path / "whole")
    run_stopped(job, tmp_path / "run", [5, 5])
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_order_depends_on_the_run_s_seed_and_on_nothing_else_of_the_run(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(train__order_seed="run")
    more = make_recipe(train__order_seed="run", train__num_workers=3, train__micro_batch_size=1, data__seed=9)
    assert loop.order_seed(recipe, 42) == loop.order_seed(more, 42) != loop.order_seed(recipe, 43)
    assert loop.order_seed(make_recipe(data__seed=9), 42) == 9
