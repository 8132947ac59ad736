"""Sweeps whose processes are killed at random moments end with the undisturbed sweep's numbers."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbance import Server, Sweep, assert_equal, assert_logged_once, disturb, until

from raymdm.config.schema import Recipe

MakeRecipe = Callable[..., Recipe]
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(make_recipe: MakeRecipe) -> Make:
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
def undisturbed(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Sweep(make(folder / "runs"), folder)
    sweep.start()
    sweep.wait()
    return sweep.path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "mlflow")
    server.start()
    until(server.answers)
    yield server
    server.kill()


@pytest.mark.parametrize("kind", ["run", "driver", "server"])
def test_a_kill_at_a_random_moment_changes_nothing(
    make: Make, undisturbed: Path, server: Server, tmp_path: Path, kind: str
) -> None:
    sweep = Sweep(make(tmp_path / "runs", tracking__uri=server.uri), tmp_path)
    assert disturb(sweep, server, [kind], random.Random(kind), pause=2.0) == [kind], sweep.output
    assert_equal(sweep.path, undisturbed)
    assert_logged_once(sweep.path, server.uri, "tiny-test")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_change_nothing(make: Make, undisturbed: Path, server: Server, tmp_path: Path) -> None:
    sweep = Sweep(make(tmp_path / "runs", tracking__uri=server.uri), tmp_path)
    chance = random.Random("twenty")
    kinds = chance.sample(["run"] * 15 + ["driver"] * 2 + ["server"] * 3, 20)
    done = disturb(sweep, server, kinds, chance, pause=2.0)
    assert Counter(done) == Counter(kinds), sweep.output
    assert_equal(sweep.path, undisturbed)
    assert_logged_once(sweep.path, server.uri, "tiny-test")


@pytest.fixture(scope="module")
def gang(make: Make) -> Make:
    """One run of two Ray Train workers."""

    def made(output: Path) -> Recipe:
        return make(
            output, train__num_workers=2, train__cpus_per_worker=0.49, train__max_steps=500, tracking__mlflow=False,
            sweep__methods=["mirror"], sweep__seeds=[1],
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def undisturbed_gang(gang: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gang")
    sweep = Sweep(gang(folder / "runs"), folder)
    sweep.start()
    sweep.wait()
    return sweep.path


@pytest.mark.parametrize("kind", ["worker", "run"])
def test_a_lost_train_worker_or_driver_of_a_run_changes_nothing(
    gang: Make, undisturbed_gang: Path, tmp_path: Path, kind: str
) -> None:
    sweep = Sweep(gang(tmp_path / "runs"), tmp_path)
    assert disturb(sweep, None, [kind], random.Random(kind), pause=1.0) == [kind], sweep.output
    assert_equal(sweep.path, undisturbed_gang)
