"""Sweeps run from outside, as users run them, with their processes killed on the way; and what must come out equal."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from heads import STARTED, lose, raylet, with_process
from processes import descendants, free_port, gone, kill, listens, names, titled, until
from ray.cluster_utils import Cluster

from raymdm.config.load import config_hash, dump_recipe
from raymdm.config.schema import Recipe

RUN = ("ray::ImplicitFunc", "ray::run_trial")
"""Title of a process that drives a run, and trains it where processes are reused."""
TRAINING = ("ray::ImplicitFunc.train",)
"""Its title once it has begun with the run."""
WORKER = ("ray::RayTrainWorker", "ray::_RayTrainWorker")
"""Title of a Ray Train worker."""


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
        return listens(self.port)

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
    cluster: Cluster | None = None
    """Where it runs; None: on a Ray of its own."""

    def start(self, resume: bool = False, **environment: str) -> None:
        if self.cluster:
            environment["RAY_ADDRESS"] = self.cluster.address
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
        return any(_steps(folder / "train" / run) for folder in self.folders() for run in names(folder / "train"))

    def saved(self) -> int:
        """Steps of all its runs that a loss of them would not cost any more."""
        done = 0
        for folder in self.folders():
            for run in {*names(folder / "train"), *names(folder / "trials")}:
                ended = (folder / "trials" / run / "result.json").exists()
                done += (self.recipe.train.max_steps or 0) if ended else max(_steps(folder / "train" / run), default=0)
        return done

    def processes(self, titles: tuple[str, ...]) -> list[int]:
        """Its processes with such titles; on a cluster, those of all sweeps there."""
        assert self.process
        above = [raylet(node) for node in self.cluster.worker_nodes] if self.cluster else [self.process.pid]
        return [pid for top in above for pid in titled(top, titles)]

    def wait(self, seconds: float = 900) -> None:
        """Until it ends well."""
        assert self.process
        assert self.process.wait(seconds) == 0, self.output

    def kill(self) -> None:
        """kill -9 of the driver; waits until Ray's processes have noticed."""
        assert self.process
        below = list(descendants(self.process.pid))
        kill(self.process.pid)
        self.process.wait()
        gone(below)


def _steps(run: Path) -> list[int]:
    """Steps of a run's checkpoints."""
    return [int(name.removeprefix("step-")) for name in names(run) if name.startswith("step-")]


def disturb(sweep: Sweep, server: Server | None, kinds: list[str], chance: random.Random) -> list[str]:
    """Run the sweep to its end while processes are killed, one of each of `kinds` in turn; returns what was killed
    before the sweep ended.

    kinds: run, worker, node (where a run is driven from), driver (of the sweep), server. A kill comes some steps after
    the one before, up to two checkpoints, however fast the machine is; or at once, when what was killed is about to
    start again.
    """
    done: list[str] = []
    sweep.start()
    until(lambda: sweep.ended() or sweep.begun())
    for kind in kinds:
        every = sweep.recipe.train.checkpoint_every or 1
        goal = sweep.saved() + every * chance.randrange(3)
        until(
            lambda goal=goal, kind=kind: (
                sweep.ended() or (sweep.saved() >= goal and _strike(sweep, server, kind, chance))
            )
        )
        if sweep.ended():
            break
        done.append(kind)
    sweep.wait()
    return done


def _strike(sweep: Sweep, server: Server | None, kind: str, chance: random.Random) -> bool:
    """Kill one of a kind; False where there is none at the moment."""
    if kind == "driver":
        sweep.kill()
        sweep.start(resume=True)
        return True
    if kind == "server":
        assert server
        server.kill()
        time.sleep(chance.uniform(0, 1))
        server.start()
        return True
    if kind == "node":
        assert sweep.cluster
        found = with_process(sweep.cluster, RUN)
        if found:
            lose(sweep.cluster, chance.choice(found))
            sweep.cluster.add_node(num_cpus=1)
        return bool(found)
    pids = sweep.processes(RUN if kind == "run" else WORKER)
    return bool(pids) and kill(chance.choice(pids))


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
