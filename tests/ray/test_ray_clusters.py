"""Sweeps on clusters of several nodes: nodes that go away, and sweeps beside each other."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbance import RUN, WORKER, Sweep, assert_equal, assert_logged_once, logged
from heads import lose, nodes, with_process
from processes import until
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

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


OTHER: dict[str, object] = {"train__lr": 1e-3, "sweep__methods": ["standard"]}


@pytest.fixture(scope="module")
def undisturbed(make: Make, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sweeps that nothing happens to: one of `make`'s recipe, one of it with OTHER."""
    folder = tmp_path_factory.mktemp("undisturbed")
    both: dict[str, dict[str, object]] = {"made": {}, "other": OTHER}
    sweeps = [Sweep(make(folder / name / "runs", **changes), folder / name) for name, changes in both.items()]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.wait()
    return [sweep.path for sweep in sweeps]


def test_a_lost_node_changes_nothing(make: Make, undisturbed: list[Path], tmp_path: Path) -> None:
    sweep = Sweep(make(tmp_path / "runs"), tmp_path)
    with nodes(1, 1) as cluster:
        sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: sweep.begun() or sweep.ended())
        lose(cluster, with_process(cluster, RUN)[0])
        cluster.add_node(num_cpus=1)
        sweep.wait()
    assert "its process was lost" in sweep.output
    assert_equal(sweep.path, undisturbed[0])
    assert_logged_once(sweep.path, f"sqlite:///{tmp_path}/runs/mlflow.db", "tiny-test")


def test_sweeps_at_once_on_one_cluster_do_not_touch_each_other(
    make: Make, undisturbed: list[Path], tmp_path: Path
) -> None:
    """Two of the same name, one of another; and the first once more, which is refused."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings: list[dict[str, object]] = [{}, OTHER, OTHER | {"name": "another"}]
    sweeps = [
        Sweep(make(tmp_path / "runs", tracking__uri=uri, **changes), tmp_path / str(number))
        for number, changes in enumerate(settings)
    ]
    again = Sweep(sweeps[0].recipe, tmp_path / "again")
    with nodes(2) as cluster:
        for sweep in sweeps[1:]:
            sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: sweeps[1].folders() or sweeps[1].ended())  # folders made in the same second would have one name
        sweeps[0].start(RAY_ADDRESS=cluster.address)
        until(lambda: sweeps[0].folders() or sweeps[0].ended())
        again.start(RAY_ADDRESS=cluster.address)
        assert again.process
        assert again.process.wait(300) == 2
        for sweep in sweeps:
            sweep.wait()
    assert "another process is running it" in again.output
    assert "Traceback" not in again.output
    for sweep, expected in zip(sweeps, [undisturbed[0], undisturbed[1], undisturbed[1]], strict=True):
        assert_equal(sweep.path, expected)
        assert_logged_once(sweep.path, uri, sweep.recipe.name)


def _drain(address: str, node: str) -> None:
    """Announce, as clouds do, that a node goes away: in an hour, so that nothing here comes of its end."""
    reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    accepted, _ = GcsClient(address=address).drain_node(node, reason, "", int(1000 * (time.time() + 3600)))
    assert accepted


def _moves(sweep: Sweep) -> list[tuple[str, int]]:
    """What made a run stop or go on, and at which step."""
    lines = [line for file in sweep.path.glob("trials/*/events.jsonl") for line in file.read_text().splitlines()]
    events = map(json.loads, lines)
    return [(event["event"], event["step"]) for event in events if event["event"] in ("left", "resumed")]


def _training(sweep: Sweep) -> bool:
    """Whether a run has reported steps."""
    return bool(list(Path(sweep.recipe.output).glob("*/trials/*/metrics.jsonl")))


NO_FAILURE: dict[str, object] = {"sweep__max_failures": 0, "train__max_failures": 0, "tracking__mlflow": False}


def test_a_run_leaves_a_node_that_will_go_and_waits_for_another(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no checkpoint but the one it leaves with. No failure is allowed, so none may be counted."""
    monkeypatch.setenv("RAYMDM_PREEMPTION_POLL_S", "0.2")
    steps = {"train__max_steps": 3000, "train__eval_every": 3000, "train__checkpoint_every": None}
    sweep = Sweep(make(tmp_path / "runs", sweep__methods=["standard"], **NO_FAILURE, **steps), tmp_path)
    with nodes(1) as cluster:
        sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: _training(sweep) or sweep.ended())
        (node,) = cluster.worker_nodes
        _drain(cluster.address, node.node_id)
        until(lambda: _moves(sweep) or sweep.ended())
        (checkpoint,) = sweep.path.glob("train/*/step-*")
        step = int(checkpoint.name.removeprefix("step-"))
        cluster.add_node(num_cpus=1)
        sweep.wait()
    (records,) = logged(sweep.path).values()
    assert step < 3000 and _moves(sweep) == [("left", step), ("resumed", step)]
    assert [record["step"] for record in records if "train/loss" in record] == list(range(20, 3001, 20))


@pytest.mark.parametrize("driver", [False, True], ids=["of a worker", "of the driver"])
def test_workers_leave_a_node_that_will_go(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: bool
) -> None:
    """An elastic run goes on with the worker that is left; without its driver, nobody would hear of it."""
    monkeypatch.setenv("RAYMDM_PREEMPTION_POLL_S", "0.2")
    many = {"train__num_workers": {"min": 1, "max": 2}, "train__max_steps": 1500, "train__eval_every": 1500}
    sweep = Sweep(make(tmp_path / "runs", sweep__methods=["standard"], **NO_FAILURE, **many), tmp_path)
    with nodes(1, 1) as cluster:
        sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: _training(sweep) or sweep.ended())
        (own,) = with_process(cluster, RUN)
        (node,) = {own} if driver else cluster.worker_nodes - {own}
        _drain(cluster.address, node.node_id)
        sweep.wait()
    (left, resumed) = _moves(sweep)
    assert left[1] < 1500 and (left[0], resumed) == ("left", ("resumed", left[1]))
    (records,) = logged(sweep.path).values()
    assert [record["step"] for record in records if "train/loss" in record] == list(range(20, 1501, 20))
    (events,) = sweep.path.glob("trials/*/events.jsonl")
    assert "with 1 workers instead of 2" in events.read_text()


def test_an_elastic_run_goes_on_with_fewer_workers(make: Make, undisturbed: list[Path], tmp_path: Path) -> None:
    workers = {"train__num_workers": {"min": 1, "max": 2}, "sweep__methods": ["standard"]}
    sweep = Sweep(make(tmp_path / "runs", **workers), tmp_path)
    with nodes(1, 1) as cluster:
        sweep.start(RAY_ADDRESS=cluster.address)
        until(lambda: sweep.begun() or sweep.ended())
        assert len(with_process(cluster, WORKER)) == 2
        (own,) = with_process(cluster, RUN)
        (other,) = cluster.worker_nodes - {own}
        lose(cluster, other)
        sweep.wait()
    ((name, found),) = logged(sweep.path).items()
    expected = logged(undisturbed[0])[name]
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    losses = [[record["val/nll"] for record in run if "val/nll" in record] for run in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert_logged_once(sweep.path, f"sqlite:///{tmp_path}/runs/mlflow.db", "tiny-test")
