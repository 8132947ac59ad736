"""Sweeps on clusters of several nodes: nodes that are lost, and sweeps beside each other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbance import (
    RUN,
    Sweep,
    assert_equal,
    assert_logged_once,
    nodes,
    until,
    with_process,
)

from raymdm.config.schema import Recipe

MakeRecipe = Callable[..., Recipe]
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(make_recipe: MakeRecipe) -> Make:
    """Two runs of some seconds with many checkpoints, logged to MLflow on SQLite."""

    def made(output: Path, **changes: object) -> Recipe:
        settings = {
            "train__max_steps": 600, "train__eval_every": 200, "train__checkpoint_every": 25, "train__log_every": 20,
            "sweep__methods": ["standard", "mirror"], "sweep__seeds": [1], "tracking__mlflow": True,
        }  # fmt: skip
        return make_recipe(output=str(output), **settings | changes)

    return made


@pytest.fixture(scope="module")
def undisturbed(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Sweep(make(folder / "runs"), folder)
    sweep.start()
    sweep.wait()
    return sweep.path


def test_a_lost_node_changes_nothing(make: Make, undisturbed: Path, tmp_path: Path) -> None:
    sweep = Sweep(make(tmp_path / "runs"), tmp_path)
    with nodes(1, 1) as cluster:
        sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: sweep.begun() or sweep.ended())
        cluster.remove_node(with_process(cluster, RUN)[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        sweep.wait()
    assert "its process was lost" in sweep.output
    assert_equal(sweep.path, undisturbed)
    assert_logged_once(sweep.path, f"sqlite:///{tmp_path}/runs/mlflow.db", "tiny-test")
