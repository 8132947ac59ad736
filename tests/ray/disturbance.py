"""Sweeps run from outside, as users run them, with their processes killed on the way; and what must come out equal."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from raymdm.config.load import config_hash, dump_recipe
from raymdm.config.schema import Recipe

RUN = ("ray::ImplicitFunc", "ray::run_trial")
"""Title of a process that drives a run, and trains it where processes are reused."""
STARTED: list[subprocess.Popen[bytes]] = []
"""Sweeps that this process started."""
WORKER = ("ray::RayTrainWorker", "ray::_RayTrainWorker")
"""Title of a Ray Train worker."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> Iterator[int]:
    """All processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has gone
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            yield child


def titled(pid: int, titles: tuple[str, ...]) -> list[int]:
    """Processes below `pid` whose title begins with one of `titles`."""
    found = []
    for child in descendants(pid):
        try:
            title = (Path("/proc") / str(child) / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith(titles):
            found.append(child)
    return found


def until(true: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something holds; AssertionError when it never does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.1)


def kill(pid: int) -> bool:
    """kill -9; False where the process has gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def ray_folder() -> Iterator[str]:
    """A folder for Ray's files: in the usual one a cluster leaves its address, which later ones would try to reach."""
    folder = tempfile.mkdtemp(prefix="ray", dir=tempfile.gettempdir())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_head(*options: str, **environment: str) -> Iterator[None]:
    """`ray start --head` with these options on ports that no other Ray here has; ends with all its processes.

    Every Ray on a machine wants the same ports for its agent, without which no job is accepted, and for Ray Client.
    """
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
        "--disable-usage-stats", *options,
    ]  # fmt: skip
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with ray_folder() as folder:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=without_token | environment | {"RAY_TMPDIR": folder},
        )
        try:
            yield
        finally:
            below = list(descendants(process.pid))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            for pid in below:  # nodes of an autoscaler do not end with it
                kill(pid)


@contextmanager
def nodes(*cpus: float) -> Iterator[Cluster]:
    """A Ray cluster on this machine: a head without CPUs, and nodes with some; ends with all its processes."""
    with ray_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for number in cpus:
                cluster.add_node(num_cpus=number)
            yield cluster
        finally:
            end_sweeps()
            cluster.shutdown()


def end_sweeps() -> None:
    """Kill the sweeps that live on where a test failed: they would wait for their cluster."""
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def with_process(cluster: Cluster, titles: tuple[str, ...]) -> list[Any]:
    """Nodes of the cluster where a process with such a title runs."""
    return [node for node in cluster.worker_nodes if titled(raylet(node), titles)]


def raylet(node: Any) -> int:
    """Process id of a node's raylet, whose children are its workers."""
    return int(node.all_processes["raylet"][0].process.pid)


@dataclass
class Server:
    """An MLflow server on SQLite."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Sweep:
    """`raymdm sweep` in a process of its own."""

    recipe: Recipe
    folder: Path
    """Where the recipe's file and the process's output go."""
    process: subprocess.Popen[bytes] | None = None

    def start(self, resume: bool = False, **environment: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "recipe.yaml"
        file.write_text(dump_recipe(self.recipe))
        command = [sys.executable, "-m", "raymdm.cli", "sweep", str(file), *(["--resume"] if resume else [])]
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment
            )
        STARTED.append(self.process)

    def ended(self) -> bool:
        assert self.process
        return self.process.poll() is not None

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def folders(self) -> list[Path]:
        """The folders of this recipe's sweeps; others of its name may lie beside them."""
        found = Path(self.recipe.output).glob(f"{self.recipe.name}-[0-9]*-[0-9]*/sweep.json")
        own = config_hash(self.recipe)
        return [file.parent for file in found if json.loads(file.read_text())["config_hash"] == own]

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        (path,) = self.folders()
        return path

    def begun(self) -> bool:
        """Whether a run has been trained for a while."""
        return any(list(folder.glob("train/*/step-*")) for folder in self.folders())

    def wait(self, seconds: float = 280) -> None:
        """Until it ends well."""
        assert self.process
        assert self.process.wait(seconds) == 0, self.output

    def kill(self) -> None:
        """kill -9 of the driver; waits until Ray's processes have noticed."""
        assert self.process
        below = list(descendants(self.process.pid))
        kill(self.process.pid)
        self.process.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
            time.sleep(0.1)


def disturb(sweep: Sweep, server: Server | None, kinds: list[str], chance: random.Random, pause: float) -> list[str]:
    """Run the sweep to its end while processes are killed, one of each of `kinds` in turn, `pause` seconds apart on
    average; returns what was killed before the sweep ended.

    kinds: run, worker, driver (of the sweep), server.
    """
    done: list[str] = []
    sweep.start()
    for kind in kinds:
        deadline = time.monotonic() + 120
        time.sleep(chance.uniform(0.5, 1.5) * pause)
        while not sweep.ended() and time.monotonic() < deadline:
            if sweep.begun() and _strike(sweep, server, kind, chance):
                done.append(kind)
                break
            time.sleep(0.05)
        if sweep.ended():
            break
    sweep.wait()
    return done


def _strike(sweep: Sweep, server: Server | None, kind: str, chance: random.Random) -> bool:
    assert sweep.process
    if kind == "driver":
        sweep.kill()
        sweep.start(resume=True)
        return True
    if kind == "server":
        assert server
        server.kill()
        time.sleep(chance.uniform(0, 2))
        server.start()
        return True
    found = titled(sweep.process.pid, RUN if kind == "run" else WORKER)
    return bool(found) and kill(chance.choice(found))


def results(path: Path) -> pd.DataFrame:
    """results.csv without times, sorted."""
    table = pd.read_csv(path / "results.csv")
    table = table[~table["metric"].str.contains("seconds")]
    return table.sort_values(["method", "seed", "metric"], ignore_index=True)


def logged(path: Path) -> dict[str, list[dict[str, float]]]:
    """Each run's records of metrics.jsonl without times, in order."""
    found = {}
    for file in sorted(path.glob("trials/*/metrics.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        kept = [{k: v for k, v in record.items() if "seconds" not in k} for record in records]
        found[file.parent.name] = sorted(kept, key=lambda record: (record["step"], sorted(record)))
    return found


def assert_equal(disturbed: Path, undisturbed: Path) -> None:
    """Every number of results.csv, every score and every logged record is the same."""
    pd.testing.assert_frame_equal(results(disturbed), results(undisturbed), check_exact=True)
    assert logged(disturbed) == logged(undisturbed)
    for file in undisturbed.glob("trials/*/scores.parquet"):
        other = disturbed / file.relative_to(undisturbed)
        pd.testing.assert_frame_equal(pd.read_parquet(other), pd.read_parquet(file))


def assert_logged_once(path: Path, uri: str, experiment: str) -> None:
    """MLflow holds one finished run for each of the sweep's, each with each step once, and one finished parent."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    everything: list[Any] = list(client.search_runs([found.experiment_id]))
    (parent,) = (run for run in everything if run.info.run_name == path.name)
    below = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    expected = logged(path)
    children = {run.info.run_name: run for run in below}
    assert len(below) == len(children) == len(expected)
    assert {run.info.status for run in (parent, *below)} == {"FINISHED"}
    for name, records in expected.items():
        for key in ("train/loss", "val/nll"):
            history = client.get_metric_history(children[name].info.run_id, key)
            assert [point.step for point in history] == [record["step"] for record in records if key in record]
