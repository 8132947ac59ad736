"""Where a sweep's wall time went: of a finished one, `python benchmarks/sweep_overhead.py SWEEP_DIR`, or of one that is
run for it, `python benchmarks/sweep_overhead.py --seconds 60 [--trials 12] [--slots 2]`, whose runs last about that
long.

Useful time is what its runs spent in training steps and in scoring, divided by the runs at once. The rest is named:
before the runs (connecting, data, calibration), the runs' start-up (processes, imports, validation, checkpoints), and
slots that stood idle. sweep_efficiency is the runs' seconds / (slots x wall time), with what a run spends beside
training steps and scoring, and without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

PROBE = 200
"""Steps that show how long a step takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--slots", type=int, default=2)
    asked = parser.parse_args()
    if (asked.sweep is None) == (asked.seconds is None):
        parser.error("name a sweep's folder, or --seconds to run one")
    if asked.sweep:
        report(asked.sweep)
        return
    with tempfile.TemporaryDirectory(prefix="raymdm-overhead-") as folder:
        probe = _run(Path(folder, "probe"), PROBE, asked.slots, asked.slots)
        rate = PROBE * asked.slots / sum(row["train_seconds"] for row in _metrics(probe))
        report(_run(Path(folder, "sweep"), max(1, round(rate * asked.seconds)), asked.trials, asked.slots))


def _run(folder: Path, steps: int, trials: int, slots: int) -> Path:
    """Run a sweep of a tiny model on generated data; returns its folder."""
    recipe = {
        "name": "overhead",
        "output": str(folder / "runs"),
        "data": {"task": "sorting", "num_train": 5000, "sorting": {"digits": 8}, "num_test": 500, "max_length": 32},
        "model": {
            "kind": "tiny", "hidden_size": 96, "intermediate_size": 288, "num_layers": 2, "num_heads": 4,
            "tokenizer": {"kind": "chars"},
        },
        "train": {"lr": 3e-3, "max_steps": steps, "eval_every": max(1, steps // 3), "patience": None, "log_every": 50},
        "evaluate": {"generation_length": 9, "steps": 9, "block_length": 9, "batch_size": 500},
        "sweep": {"methods": ["standard"], "seeds": list(range(1, trials + 1)), "max_concurrent": slots},
    }  # fmt: skip
    folder.mkdir(parents=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "raymdm.cli", "sweep", str(file)]
    subprocess.run(command, check=True)  # noqa: S603 (a program of ours)
    (done,) = (folder / "runs").glob("overhead-*")
    return done


def _metrics(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["metrics"] for path in sorted(sweep.glob("trials/*/result.json"))]


def report(sweep: Path) -> None:
    """Print where the wall time of a sweep that was run at once, without a resume, went."""
    state, metrics = json.loads((sweep / "sweep.json").read_text()), _metrics(sweep)
    slots, wall, stages = state["slots"], state["wall_seconds"], state["stage_seconds"]
    train = sum(row["train_seconds"] for row in metrics) / slots
    score = sum(row["evaluate_seconds"] for row in metrics) / slots
    trials = sum(row["wall_seconds"] for row in metrics) / slots
    table = Table("part", "seconds", "share of wall time")
    rows = {
        "training steps / slots": train,
        "scoring / slots": score,
        "runs' start-up, validation, checkpoints / slots": trials - train - score,
        "slots idle, or between runs": stages["runs"] - trials,
        "before the runs: connecting to Ray": stages["connect"],
        "before the runs: tracking": stages["tracking"],
        "before the runs: data": stages["data"],
        "before the runs: calibration": stages.get("calibrate", 0.0),
        "the rest": wall - sum(stages.values()),
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.1f}", f"{100 * seconds / wall:.0f}%")
    table.add_row("wall time", f"{wall:.1f}", "100%")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{len(metrics)} runs of {slots * trials / len(metrics):.1f} s on average, {slots} at once")
    console.print(f"wall time / (training + scoring seconds / slots) = {wall / (train + score):.2f}")
    console.print(f"sweep_efficiency (runs' seconds, start-up and all) = {trials / wall:.3f}")
    console.print(f"sweep_efficiency (their training and scoring seconds alone) = {(train + score) / wall:.3f}")


if __name__ == "__main__":
    main()
