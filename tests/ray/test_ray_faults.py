"""Sweeps whose processes are killed at random moments end with the undisturbed sweep's numbers."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbance import Server, Sweep, assert_equal, assert_logged_once, disturb
from heads import nodes
from processes import until

from raymdm.config.schema import Recipe

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(make_recipe: Make) -> Make:
    """Four runs of some seconds with many checkpoints, two at once; one of the methods is calibrated."""

    def made(output: Path, **changes: object) -> Recipe:
        settings = {
            "train__max_steps": 800, "train__eval_every": 200, "train__checkpoint_every": 25, "train__log_every": 20,
            "train__max_failures": 30, "sweep__max_failures": 30, "sweep__methods": ["standard", "p_pots_mirror"],
            "sweep__seeds": [1, 2], "tracking__mlflow": True,
        }  # fmt: skip
        return make_recipe(output=str(output), **settings | changes)

    return made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    """Runs the sweep of a recipe that nothing happens to; its folder."""

    def run(make: Make) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        sweep = Sweep(make(folder / "runs"), folder)
        sweep.start()
        sweep.wait()
        return sweep.path

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "mlflow")
    server.start()
    until(server.answers)
    yield server
    server.kill()


def test_twenty_kills_change_nothing(
    make: Make, undisturbed: Callable[[Make], Path], server: Server, tmp_path: Path
) -> None:
    sweep = Sweep(make(tmp_path / "runs", tracking__uri=server.uri), tmp_path)
    chance = random.Random("twenty")
    kinds = chance.sample(["run"] * 15 + ["driver"] * 2 + ["server"] * 3, 20)
    assert Counter(disturb(sweep, server, kinds, chance)) == Counter(kinds), sweep.output
    assert_equal(sweep.path, undisturbed(make))
    assert_logged_once(sweep.path, server.uri, "tiny-test")


@pytest.fixture(scope="module")
def gang(make: Make) -> Make:
    """One run of two Ray Train workers, logged to MLflow on SQLite."""

    def made(output: Path, **changes: object) -> Recipe:
        settings = {
            "train__num_workers": 2, "train__cpus_per_worker": 0.49, "train__max_steps": 300, "train__eval_every": 100,
            "sweep__methods": ["mirror"], "sweep__seeds": [1],
        }  # fmt: skip
        return make(output, **settings | changes)

    return made


def test_lost_train_workers_and_a_lost_driver_of_a_run_that_is_sharded_change_nothing(
    gang: Make, undisturbed: Callable[[Make], Path], tmp_path: Path
) -> None:
    def sharded(output: Path) -> Recipe:
        return gang(output, train__parallel="fsdp")

    sweep, kinds = Sweep(sharded(tmp_path / "runs"), tmp_path), ["worker", "run"]
    assert disturb(sweep, None, kinds, random.Random("sharded")) == kinds, sweep.output
    assert_equal(sweep.path, undisturbed(sharded))
    assert_logged_once(sweep.path, f"sqlite:///{tmp_path}/runs/mlflow.db", "tiny-test")


def test_on_a_cluster_lost_nodes_and_workers_and_the_sweep_s_own_process_change_nothing(
    gang: Make, undisturbed: Callable[[Make], Path], tmp_path: Path
) -> None:
    """The run's two workers lie on two nodes where there are two."""
    recipe = gang(tmp_path / "runs", train__placement_strategy="SPREAD")
    chance = random.Random("cluster")
    kinds = chance.sample(["worker", "node", "driver", "node"], 4)
    with nodes(1, 1) as cluster:
        sweep = Sweep(recipe, tmp_path, cluster=cluster)
        assert Counter(disturb(sweep, None, kinds, chance)) == Counter(kinds), sweep.output
    assert_equal(sweep.path, undisturbed(gang))
    assert_logged_once(sweep.path, f"sqlite:///{tmp_path}/runs/mlflow.db", "tiny-test")
