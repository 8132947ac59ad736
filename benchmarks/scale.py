"""What a sweep's driver costs a run when nothing is trained: `python benchmarks/scale.py --runs 1000 --nodes 20`.

Starts nodes on this machine, each of which says that it has one CPU, and a sweep whose runs only report a few records
and write the files of a run. Printed: wall time of the runs and CPU time of the driver, the time until MLflow has heard
everything, the driver's memory, and the time that `raymdm status` and `raymdm compare` take on the result.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray import tune
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.connection import ENVIRONMENT
from raymdm.orchestrate.folder import trial_name
from raymdm.orchestrate.sweep import connect_mlflow, open_tracker, outcome, prepare_data, run_cells
from raymdm.storage import Storage

RECORDS = 20
METHODS = ["standard", "p_pots", "mirror", "p_pots_mirror", "isad", "strats", "ema", "fixed_size", "stable", "bell"]


def no_op(config: dict[str, Any]) -> None:
    """A run that trains nothing."""
    method, seed = config["cell"]
    name = trial_name(method, seed)
    records = [{"step": step, "train/loss": 1 / step, "train/grad_norm": 1.0} for step in range(1, RECORDS + 1)]
    tune.report({"phase": "training", "step": RECORDS, "total_steps": RECORDS, "records": records, "events": []})
    target = Storage(config["sweep"]).child(f"trials/{name}")
    random = np.random.default_rng(seed)
    scores = pd.DataFrame({"example_id": range(100), "score": random.integers(0, 2, 100).astype(float)})
    scores["reference"], scores["output"] = "1", "1"
    content = io.BytesIO()
    scores.to_parquet(content, index=False)
    target.write("scores.parquet", content.getvalue())
    target.write("records.json", json.dumps({"records": records}).encode())
    metrics = {"accuracy": float(scores["score"].mean()), "val_nll": 1.0, "steps": RECORDS, "model_rows": RECORDS,
               "train_seconds": 0.0, "evaluate_seconds": 0.0, "wall_seconds": 0.0, "best_step": 1,
               "loss_variance": 1.0, "backprop_variance": 1.0, "grad_norm": 1.0}  # fmt: skip
    result = {"task": "sorting", "model": "tiny", "method": method, "seed": seed, "status": "finished", "error": None,
              "metrics": metrics}  # fmt: skip
    target.write("result.json", json.dumps(result).encode())


def recipe_of(runs: int, output: Path) -> Recipe:
    """A grid of so many runs."""
    return Recipe.model_validate(
        {
            "name": "scale", "output": str(output),
            "data": {"task": "sorting", "num_train": 60, "num_test": 12, "sorting": {"digits": 3}},
            "model": {"kind": "tiny", "hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2,
                      "tokenizer": {"kind": "chars"}},
            "train": {"max_steps": RECORDS},
            "sweep": {"methods": METHODS, "seeds": list(range(1, runs // len(METHODS) + 1))},
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=20)
    arguments = parser.parse_args()
    console, times = Console(), {}
    with TemporaryDirectory(prefix="raymdm-scale-") as scratch:
        started = time.perf_counter()
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(arguments.nodes):
            nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)  # one run at a time
        ray.init(address=nodes.address, runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False)
        times["nodes up"] = time.perf_counter() - started
        recipe = recipe_of(arguments.runs, Path(scratch))
        folder = create(recipe)
        tracker = open_tracker(recipe, folder, connect_mlflow(recipe))
        data = prepare_data(recipe, console)
        started, cpu = time.perf_counter(), time.process_time()
        run_cells(recipe, folder, data, (arguments.nodes, 0), tracker, console, trainable=no_op)
        times["runs"], times["runs, CPU of the driver"] = time.perf_counter() - started, time.process_time() - cpu
        status = outcome(recipe, folder)
        started = time.perf_counter()
        tracker.close(status)
        times["MLflow, caught up after the runs"] = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        folder.update(status=status)
        ray.shutdown()
        nodes.shutdown()
        for verb in ("status", "compare"):
            started = time.perf_counter()
            command = [sys.executable, "-m", "raymdm.cli", verb, folder.path]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
            times[f"raymdm {verb}"] = time.perf_counter() - started
    table = Table("part", "seconds", "milliseconds a run")
    for name, seconds in times.items():
        table.add_row(name, f"{seconds:.1f}", f"{1000 * seconds / arguments.runs:.0f}")
    console.print(table)
    console.print(
        f"{arguments.runs} runs, {arguments.nodes} at once: {status}; driver's memory at most {memory:.2f} GiB"
    )


if __name__ == "__main__":
    main()
