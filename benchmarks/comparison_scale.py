"""Time and memory of a large comparison: `python benchmarks/comparison_scale.py [--methods 20 --seeds 100]`.

Makes up results and scores of every run, writes them as Parquet and CSV, and runs `raymdm compare` on each in a process
of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    title = f"{options.methods} methods x {options.seeds} seeds x {options.examples:,} examples"
    table = Table("scores as", "seconds", "peak memory so far, GiB", title=title)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results, scores = make_up(options.methods, options.seeds, options.examples)
        for kind in ("parquet", "csv"):
            write(results, folder / f"results.{kind}")
            write(scores, folder / f"scores.{kind}")
            started = time.monotonic()
            command = [sys.executable, "-m", "raymdm.cli", "compare", "--results", f"{folder}/results.{kind}"]
            command += ["--scores", f"{folder}/scores.{kind}", "-o", f"{folder}/{kind}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - its own arguments
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            table.add_row(kind, f"{time.monotonic() - started:.1f}", f"{peak:.2f}")
    Console().print(table)


def make_up(methods: int, seeds: int, examples: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and scores in long form: a method each with its own mean, runs and examples that vary, one ARM."""
    rng = np.random.default_rng(0)
    difficulty, names = rng.normal(0, 1, examples), ["standard", "arm", *(f"method_{k}" for k in range(methods - 2))]
    results, scores = [], []
    for place, method in enumerate(names):
        run = {"task": "made-up", "model": "tiny", "method": method}
        for seed in range(seeds):
            chance = 1 / (1 + np.exp(-(difficulty + 0.05 * place + rng.normal(0, 0.2))))
            score = (rng.random(examples) < chance).astype(float)
            scores.append(pd.DataFrame(run | {"seed": seed, "example_id": np.arange(examples), "score": score}))
            own = {"val_nll": 2 - 0.01 * place + rng.normal(0, 0.05), "train_seconds": 100.0, "model_rows": 3200.0}
            results += [run | {"seed": seed, "metric": name, "value": value} for name, value in own.items()]
    return pd.DataFrame(results), pd.concat(scores, ignore_index=True)


def write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


if __name__ == "__main__":
    main()
